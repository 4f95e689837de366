from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests import builders
from virnucpro_exporter.overview.trail import Trail, Trails, halved
from virnucpro_exporter.snapshot import (
    GpuSample,
    GpuSnapshot,
    RunEnd,
    RunResult,
    RunSnapshot,
    RunState,
    StealEvent,
)
from virnucpro_exporter.web.live.page import SECURITY_POLICY, ShownRun, View, document
from virnucpro_exporter.web.live.pictures import sparkline

HOSTILE = "<img src=x onerror=alert(1)>\"'&%s{}\x1b[31m\u202e</script>" + 400 * "x"
# What the page is made of; everything else has come in by a name.
ELEMENTS = {
    *("html", "head", "meta", "title", "link", "style", "noscript", "script", "body", "header"),
    *("main", "section", "nav", "button", "a", "h1", "h2", "h3", "p", "div", "span", "strong"),
    *("small", "mark", "svg", "rect", "path", "dl", "dt", "dd", "ul", "li"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "rel", "href", "http-equiv", "id", "type", "hidden"),
    *("aria-pressed", "aria-hidden", "aria-label", "role", "class", "scope", "data-l"),
    *("viewbox", "preserveaspectratio", "width", "height", "d"),
}


class Parsed(HTMLParser):
    """What a browser would find on a page: its elements, their attributes, and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.labels: list[str] = []
        self.links: list[str] = []
        self._words: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.labels += [value or "" for name, value in attrs if name == "aria-label"]
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # neither the style nor the script
            self._words.append(data)


def page(
    run: RunSnapshot | None = None,
    gpus: GpuSnapshot | None = None,
    *others: ShownRun,
    trails: Trails | None = None,
    now: float = builders.NOW,
) -> str:
    """The page of a run called `plankton`, or of a machine without one."""
    runs = [*([ShownRun("plankton", run)] if run else []), *others]
    return document(View("gpu07", "1.2.3", runs, gpus, trails or Trails(), now, 0.0))


def words(*args: RunSnapshot | GpuSnapshot | None) -> str:
    """What can be read on a page."""
    run, gpus = (*args, None)[:2]
    assert not isinstance(run, GpuSnapshot)
    assert not isinstance(gpus, RunSnapshot)
    return Parsed(page(run, gpus)).text


def test_a_run_is_shown_with_its_gpus() -> None:
    """The page has what the terminal table has, and the memory, power and heat of each GPU."""
    run = builders.running(2)
    worker = replace(run.workers[0], current_ratio=0.63, stalls=3, file_failures=5)
    text = words(replace(run, workers=(worker, run.workers[1])), builders.gpus_up(2))
    assert "plankton command running for 1m00s, 3m00s left" in text
    assert "25%" in text
    assert "files 4 of 13 failed 0 skipped 0 rate 201 seq/s steals 1 stalls 3" in text
    row = (
        "GPU 0 A100-SXM4-80GB busy 12s reads_00.fa, 63% done 97% 20.0 / 80.0 GiB 288 / 400 W 61 °C"
    )
    assert f"{row} 100 seq/s 4 2 5 3 1 / 0" in text
    assert "GPU 0 took reads_01.fa from GPU 1" in text


def test_parts_of_a_file_are_shown_with_their_ranges() -> None:
    """Who does which range of what, how far it is, and when the results are joined."""
    text = words(builders.shared(4), builders.gpus_up(4))
    assert "files 0 of 1 parts of shared files 3 of 8 failed 0" in text
    assert "busy 12s metagenome.fasta.gz, 31% of 25-50% done" in text
    assert "busy 12s metagenome.fasta.gz, 75-100% 97%" in text
    assert "joining metagenome.fasta.gz" in words(builders.joining(4), builders.gpus_up(4))
    assert "parts" not in words(builders.running(4), builders.gpus_up(4)).replace("restarts", "")


def test_what_is_wrong_is_said_first_and_in_words() -> None:
    """Stalls and lost GPUs are named above everything else, with the reason in their row."""
    text = words(builders.stalled(2), builders.gpus_up(2))
    assert text.index("STALLED: GPU 0") < text.index("plankton command")
    assert "STALLED 6m40s reads_00.fa" in text
    text = words(builders.lost_worker(2), builders.gpu_lost(2))
    assert text.index("DOWN: GPU 1") < text.index("plankton command")
    assert "GPU DOWN GPU is lost - - - - -" in text  # no value looks like 0
    assert words(None, builders.gpu_lost(2)).index("GPU 1 is down") < 120


def test_a_finished_run_says_how_it_ended_and_what_failed() -> None:
    """The end, its time and the files that failed are told; GPUs do other things by then."""
    text = words(builders.finished(2), builders.gpus_up(2))
    assert "completed took 1m00s, ended" in text
    assert "/data/broken.fa record 3 has no sequence" in text
    assert text.count("97%") == 2  # the GPUs of the machine, and not those of the run
    ended = ShownRun("old", replace(builders.finished(2), state=RunState.FAILED), "vanished")
    assert "old command vanished took" in Parsed(page(None, None, ended)).text


def test_many_runs_have_a_line_each() -> None:
    """Those that go on and the newest ends are whole; the page of a busy week stays small."""
    end = RunEnd(builders.NOW, RunResult.FAILED, 1, "no space left")
    ended = replace(builders.finished(4), end=end, user="alice")
    olds = [ShownRun(f"old {n}", ended, "failed: no space left") for n in range(100)]
    made = page(builders.running(8), builders.gpus_up(8), *olds)
    text = Parsed(made).text
    assert "old 1 command by alice failed: no space left (exit status 1) took 1m00s" in text
    assert "old 2 failed: no space left (exit status 1) 29 of 29 took 1m00s, ended" in text
    assert "48 more are not shown" in text
    assert len(made.encode()) < 60_000


def test_devices_that_no_run_uses_are_shown_once() -> None:
    """A GPU stands with its run, or else with the others of the machine."""
    text = words(builders.running(2), builders.gpus_up(4))
    assert [text.count(f"GPU {n} {m}") for n, m in ((0, "A100"), (3, "Tesla"))] == [1, 1]
    assert "Other GPUs" in text
    assert "No GPU was found: NVML Shared Library Not Found" in words(None, builders.no_gpus())
    slots = builders.running(1)
    slots = replace(slots, workers=(replace(slots.workers[0], gpu="cpu0", name="CPU"),))
    text = words(slots)
    assert "cpu0 CPU busy" in text
    assert "GPU" not in text
    assert "Memory" not in text


def test_what_is_not_known_is_not_zero() -> None:
    """A GPU that answers nothing has dashes, and its picture a gap where another has a line."""
    gpus = builders.gpus_up(1)
    silent = replace(gpus, devices=(replace(gpus.devices[0], sample=GpuSample(builders.NOW)),))
    assert "12s reads_00.fa - - - - 100 seq/s" in words(builders.running(1), silent)
    assert 'd="M0 20V19h2V20z"' in sparkline([0.0, 0.0], "x", top=1.0)
    assert 'd="M1 20V9h1V20z"' in sparkline([None, 0.5, None], "x", top=1.0)
    assert sparkline([None, None], "x") == ""


@pytest.mark.parametrize("state", list(RunState))
def test_no_name_becomes_markup(state: RunState) -> None:
    """Names of files, runs, processors and GPUs and messages are shown, and never obeyed."""
    run, gpus = builders.running(1), builders.gpu_lost(1)
    worker = replace(run.workers[0], gpu=HOSTILE, name=HOSTILE, current_file=HOSTILE)
    run = replace(
        run,
        state=state,
        processor=HOSTILE,
        workers=(worker,),
        recent_steals=(StealEvent(builders.NOW, HOSTILE, HOSTILE, HOSTILE),),
        failures=((HOSTILE, HOSTILE),),
    )
    devices = tuple(replace(d, gpu=HOSTILE, name=HOSTILE) for d in gpus.devices)
    gpus = replace(gpus, devices=tuple(replace(d, reasons=(("", HOSTILE),)) for d in devices))
    trails = Trails()
    trails.add(0.0, gpus, {HOSTILE: run})
    view = View(HOSTILE, "1.2.3", [ShownRun(HOSTILE, run, HOSTILE)], gpus, trails, 0.0, 0.0)
    made = document(view)
    parsed = Parsed(made)
    assert parsed.elements <= ELEMENTS
    assert parsed.attributes <= ATTRIBUTES
    assert "\x1b" not in made
    assert "\u202e" not in made
    assert len(made) < 60_000


def test_pictures_are_described_for_those_who_cannot_see_them() -> None:
    """Every picture that says more than the number beside it has its range as a label."""
    trails, run, gpus = Trails(), builders.running(2), builders.gpus_up(2)
    trails.add(0.0, gpus, {run.run_id: run})
    labels = Parsed(page(run, gpus, trails=trails)).labels
    assert labels == ["201 to 201 sequences per second", *["97% to 97%, mean 97%"] * 2]


def test_the_page_works_wherever_it_is_reached() -> None:
    """Nothing on it names a host or needs another file, so tunnels and proxies do no harm."""
    made = page(builders.running(2), builders.gpus_up(2))
    assert not re.search(r"https?://|url\(|@import|\ssrc=", made)
    assert Parsed(made).links == ["data:,"]
    assert "unsafe" not in SECURITY_POLICY


@pytest.mark.parametrize(("gpus", "runs"), [(8, 4), (64, 1), (1000, 1)])
def test_the_page_is_small(gpus: int, runs: int) -> None:
    """Below 60 kB, however many GPUs there are."""
    trails, run, up = Trails(), builders.running(gpus), builders.gpus_up(gpus)
    for second in range(0, 600, 10):
        samples = [
            replace(d, sample=GpuSample(0.0, utilization_ratio=(7 * n * second % 13) / 13))
            for n, d in enumerate(up.devices)
        ]
        trails.add(float(second), replace(up, devices=tuple(samples)), {run.run_id: run})
    others = [ShownRun(f"run {n}", run) for n in range(1, runs)]
    view = View("gpu07", "1.2.3", [ShownRun("plankton", run), *others], up, trails, 0.0, 599.0)
    assert len(document(view).encode()) < 60_000


def test_a_trail_has_the_means_of_the_last_intervals() -> None:
    """Values of one interval are one mean; intervals without any are not known; old ones go."""
    trail = Trail(intervals=4, seconds=10.0)
    assert trail.is_over(0.0)
    for now, value in ((1.0, 0.0), (9.0, 1.0), (25.0, 4.0), (26.0, None), (27.0, float("nan"))):
        trail.add(now, value)
    assert trail.means(29.0) == (None, 0.5, None, 4.0)
    assert trail.means(49.0) == (None, 4.0, None, None)
    assert (trail.is_over(59.0), trail.is_over(60.0)) == (False, True)
    assert halved((None, None, 1.0, 3.0, None, 5.0)) == (None, 2.0, 5.0)


def test_trails_of_what_is_gone_are_forgotten() -> None:
    """Runs come and go for months; the memory of the page does not grow by them."""
    trails = Trails()
    for day in range(100):
        trails.add(86_400.0 * day, builders.gpus_up(1), {f"run {day}": builders.running(1)})
    assert trails.throughput("run 0", 86_400.0 * 99) == (None,) * 60
    assert trails.throughput("run 99", 86_400.0 * 99)[-1] == 100.0
    assert len(trails._throughput) == 1
