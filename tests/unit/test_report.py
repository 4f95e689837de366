from __future__ import annotations

import math
import re
from array import array
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests import builders, histories
from tests.example_report import example
from virnucpro_exporter.app import report as app_report
from virnucpro_exporter.csv_log.reader import read_log
from virnucpro_exporter.csv_log.writer import HEADER, MetricsLog
from virnucpro_exporter.errors import VirnucproError
from virnucpro_exporter.history import (
    AttemptSpan,
    GpuSeries,
    LogHistory,
    Outcome,
    RunHistory,
    RunPeriod,
    StallSpan,
)
from virnucpro_exporter.report.bins import binned
from virnucpro_exporter.report.blocks import blocks
from virnucpro_exporter.report.page import page
from virnucpro_exporter.report.running_time import RunningTime, periods_of_log
from virnucpro_exporter.report.summary import Summary, summarize, summarize_log
from virnucpro_exporter.report.text import describe

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def summary(gpus: int = 4, files: int = 60, *, resumed: bool = False) -> Summary:
    return summarize(histories.history(gpus, files, resumed=resumed), histories.log(gpus))


class Shape(HTMLParser):
    """The tags of a page that could bring something in from elsewhere or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.foreign: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count scripts; note every address."""
        self.scripts += tag == "script"
        self.foreign += [str(value) for name, value in attrs if name in ("src", "href")]


# -- running time --


def test_pauses_between_runs_are_cut_out() -> None:
    """Two runs with a night between them follow each other."""
    time = RunningTime([RunPeriod("a", "", 100.0, 160.0), RunPeriod("b", "", 9000.0, 9030.0)])
    moments = [0.0, 100.0, 130.0, 160.0, 5000.0, 9000.0, 9010.0, 9999.0]
    assert [time.at(moment) for moment in moments] == [0, 0, 30, 60, 60, 60, 70, 90]
    assert time.total == 90.0


def test_a_log_that_falls_silent_was_not_written() -> None:
    """A gap much longer than the interval parts two runs."""
    series = GpuSeries()
    series.times.extend([0.0, 5.0, 10.0, 1000.0, 1005.0])
    periods = periods_of_log(LogHistory("log", {"0": series}))
    assert [(p.started, p.ended) for p in periods] == [(0.0, 10.0), (1000.0, 1005.0)]


# -- blocks and bins --


def test_thousands_of_short_files_become_blocks_that_can_be_seen() -> None:
    """No time is lost by joining, long files stay alone, and failures are never hidden."""
    spans = [AttemptSpan("0", f"{n}.fa", float(n), n + 0.9, Outcome.COMPLETED) for n in range(5000)]
    spans[700] = replace(spans[700], outcome=Outcome.FAILED)
    spans.append(AttemptSpan("0", "long.fa", 5000.0, 6000.0, Outcome.COMPLETED))
    made = blocks(spans, RunningTime([RunPeriod("", "", 0.0, 6000.0)]), smallest=5.0)
    assert sum(block.count for block in made) == len(spans)
    assert len(made) < 600
    assert [b.first.path for b in made if b.outcome is Outcome.FAILED] == ["700.fa"]
    assert (made[-1].first.path, made[-1].count) == ("long.fa", 1)


def test_a_long_log_becomes_a_few_means_and_keeps_its_holes() -> None:
    """Means are those of the known values; a stretch without any stays empty."""
    found = binned(histories.log(2).gpus, RunningTime([RunPeriod("", "", *SPAN)]))
    assert len(found.centers) == 240
    assert all(value is not None for value in found.compute["0"])
    holes = [c for c, v in zip(found.centers, found.compute["1"], strict=True) if v is None]
    assert min(holes) == pytest.approx(5000, abs=100)
    assert max(holes) == pytest.approx(6250, abs=100)
    assert found.memory["0"][0] == 40.0


SPAN = (histories.START, histories.START + 12_500.0)


# -- summaries --


def test_the_summary_looks_as_agreed() -> None:
    """The text of a resumed run and of a log alone is that of the golden file."""
    text = describe(summary(resumed=True)) + "\n\n" + describe(summarize_log(histories.log(3)))
    builders.check_golden(GOLDEN / "report.txt", text + "\n")


def test_what_an_old_journal_does_not_tell_is_absent() -> None:
    """Without totals nothing is claimed about retries, starving and stalls."""
    old = replace(histories.history(), workers=())
    found = summarize(old, None)
    gpu = found.gpus[0]
    assert (found.retries, gpu.starved_seconds, gpu.stalls, gpu.compute) == (None,) * 4
    assert gpu.files
    assert "Starved" not in describe(found)


def test_rows_of_other_times_do_not_count() -> None:
    """A log that another run had written to before tells only of this run's time."""
    log = histories.log(1)
    log.gpus["0"].times.insert(0, histories.START - 3600)
    for column in log.gpus["0"].columns[1:]:
        column.insert(0, 1e6)
    found = summarize(histories.history(1), log)
    assert (
        found.gpus[0].compute == summarize(histories.history(1), histories.log(1)).gpus[0].compute
    )


# -- the page --


def pictures(text: str) -> list[ET.Element]:
    """The pictures of a page that are more than a key of a legend, as XML."""
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    found = [ET.fromstring(svg) for svg in drawn]  # noqa: S314 - written by this test
    return [picture for picture in found if picture.get("role") == "img"]


@pytest.mark.parametrize(("gpus", "files", "most"), [(1, 3, 60), (8, 2000, 300), (64, 5000, 800)])
def test_pictures_need_no_script_and_stay_small(gpus: int, files: int, most: int) -> None:
    """Each is sound XML, says in words what it shows, and a page of 2,000 files has 300 KB."""
    text = page(summary(gpus, files))
    assert "<script" not in text
    assert len(text) < most * 1000
    drawn = pictures(text)
    told = [picture.get("aria-label", "") for picture in drawn]
    assert [label.split(" over time")[0] for label in told] == [
        "Files on each GPU", "Throughput", "Compute utilisation", "Memory in use", "Power",
    ]  # fmt: skip
    assert f"on {gpus} worker" in told[0]
    names = {title.text for title in drawn[0].iter("title")}
    assert any(name and name.startswith("sample_0000.fastq.gz: 22:13:") for name in names)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_example_is_current() -> None:
    """`python -m tests.example_report > docs/example-report.html` writes it anew."""
    path = Path(__file__).parents[2] / "docs" / "example-report.html"
    assert path.read_text(encoding="utf-8") == example()


def test_runs_that_were_resumed_are_kept_apart() -> None:
    """A GPU that had no part in the second run was busy as long as the first went on."""
    known = histories.history(resumed=True)
    first, second = known.runs
    known = replace(
        known,
        attempts=tuple(
            replace(a, ended=min(a.ended, first.ended))
            for a in known.attempts
            if a.gpu != "3" or a.started < first.ended
        ),
        workers=tuple(w for w in known.workers if (w.run_id, w.gpu) != (second.run_id, "3")),
    )
    found = summarize(known, None)
    gpu = found.gpus[3]
    assert gpu.present_seconds == first.ended - first.started
    assert gpu.busy_seconds == pytest.approx(gpu.present_seconds, rel=0.01)
    assert not found.has_part("3", second)
    text = page(found)
    assert "GPU 3: not in this run" in text
    assert '<td class="path">0, 1, 2</td>' in text
    assert "not in this run" not in page(summary(resumed=True))


def test_errors_are_grouped() -> None:
    """Those that differ in numbers and names alone are one, the most frequent first."""
    failed = [(f"/{n}.fa", f"'/{n}.fa', line {n}: no sequence") for n in range(7)]
    found = replace(summary(), failed=(("/x.fa", "out of memory"), *failed))
    text = describe(found)
    assert "7 files failed: '/0.fa', line 0: no sequence\n  '/0.fa'\n" in text
    assert text.index("  and 2 more") < text.index("failed: '/x.fa': out of memory")
    assert "/0.fa and 6 more</summary>" in page(found)


def test_energy_is_told_where_the_log_has_power() -> None:
    """For each GPU, each file and each billion bases; a silent GPU used none that is known."""
    known = histories.history(2)
    known = replace(known, attempts=tuple(replace(a, residues=10**7) for a in known.attempts))
    log = histories.log(2)
    for series in log.gpus.values():
        series.power[:] = array("d", [360.0] * len(series.power))
    found = summarize(known, log)
    seconds = log.gpus["0"].times[-1] - log.gpus["0"].times[0]
    assert found.gpus[0].joules == pytest.approx(360.0 * seconds, rel=0.03)
    assert "2.45 kWh of energy" in describe(found)
    assert "Wh per billion bases" in describe(found)
    assert "energy" not in describe(summarize(known, None))


def test_residues_tell_the_rate_where_sequences_are_not_known() -> None:
    """A command that counts nothing is not one of unknown speed."""
    known = histories.history(1, 3)
    spans = tuple(replace(a, sequences=None, residues=10**6) for a in known.attempts)
    found = summarize(replace(known, attempts=spans), None)
    assert "residues/s" in describe(found)
    assert "sequences/s" not in describe(found)
    assert "residues/s</span>" in page(found)


def test_the_file_that_held_the_run_back_is_named() -> None:
    """With how long the others waited for it."""
    start = histories.START
    spans = (
        AttemptSpan("0", "/a/big.fa", start, start + 1000, Outcome.COMPLETED, 5),
        AttemptSpan("1", "/a/small.fa", start, start + 100, Outcome.COMPLETED, 5),
    )
    known = replace(
        histories.history(2),
        runs=(RunPeriod("r", "completed", start, start + 1000),),
        attempts=spans,
        stalls=(),
    )
    text = describe(summarize(known, None))
    assert (
        "One file, big.fa, kept 1 of 2 GPUs waiting for 15m00s at the end: it took 16m40s" in text
    )


def test_a_file_that_was_done_in_parts_is_one_file() -> None:
    """Parts are counted for each GPU; the file counts once, for its join, and took until then."""
    start, done, path = histories.START, Outcome.COMPLETED, "/a/big.fa"
    spans = (
        AttemptSpan("0", path, start, start + 900, done, 5, is_part=True),
        AttemptSpan("1", path, start + 100, start + 800, done, 4, is_part=True),
        AttemptSpan("1", path, start + 900, start + 1000, done, 0, is_join=True),
        AttemptSpan("1", "/a/small.fa", start, start + 100, done, 1),
    )
    known = replace(
        histories.history(2),
        runs=(RunPeriod("r", "completed", start, start + 1000),),
        attempts=spans,
        stalls=(),
    )
    found = summarize(known, None)
    assert [(gpu.files, gpu.parts, gpu.sequences) for gpu in found.gpus] == [(0, 1, 5), (2, 1, 5)]
    assert found.sequences == 10
    told, text = page(found), describe(found)
    assert re.search(r"GPU +Name +Files +Parts ", text)
    assert "The join of one file, big.fa, kept 1 of 2 GPUs waiting for 1m40s" in text
    longest = told[told.index("took longest") :]
    assert re.search(r"big\.fa</td><td[^>]*>2 GPUs</td>.*?16m40s</td><td[^>]*>9<", longest)
    assert longest.count("big.fa") == 1
    assert "the join of big.fa" in told
    assert "a part of big.fa" in told
    assert "file, part or join</span>" in told


def test_the_page_needs_nothing_else_and_trusts_no_name() -> None:
    """No address is loaded, and a hostile file name or error is text everywhere."""
    evil = '"><script>alert(1)</script>&\x1b\udcff'
    known = histories.history(2, 4)
    spans = tuple(replace(span, path=evil, error=evil) for span in known.attempts)
    steals = tuple(replace(steal, file_name=evil) for steal in known.steals)
    harmless = Shape(page(summarize(known, histories.log(2))))
    text = page(summarize(
        replace(known, folder=evil, attempts=spans, steals=steals, failed=((evil, evil),)), None
    ))  # fmt: skip
    shape = Shape(text)
    assert shape.scripts == harmless.scripts
    assert (shape.foreign, harmless.foreign) == ([], [])
    assert "<script>alert" not in text
    assert "\x1b" not in text


def test_a_run_that_has_done_nothing_yet_has_a_page() -> None:
    """Neither the text nor the page needs anything to have happened."""
    begun = RunHistory("/out", runs=(RunPeriod("r", "running", 1.0, 1.0),), counts={"queued": 3})
    found = summarize(begun, None)
    assert "0 files done" in describe(found)
    assert "No file has been processed yet" in page(found)


# -- reading --


def test_a_log_is_read_back_with_its_older_files(tmp_path: Path) -> None:
    """What was rotated away is read first; unknown cells are unknown, torn lines are counted."""
    path = tmp_path / "log.csv"
    writer = MetricsLog(path, max_bytes=200)
    for second in range(4):
        writer.write(builders.running(), builders.gpu_lost(), float(second))
    with path.open("a") as log:
        log.write("1970-01-01T00:0")
    found = read_log(path)
    assert list(found.gpus["0"].times) == [0.0, 1.0, 2.0, 3.0]
    assert found.gpus["0"].compute[0] == 97.0
    assert math.isnan(found.gpus["1"].compute[0])
    assert found.damaged == 1


def problem(source: Path, html: Path | None = None) -> str:
    with pytest.raises(VirnucproError) as caught:
        app_report.make_report(str(source), str(html) if html else None)
    return str(caught.value)


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    """Each wrong source is named, with what is wrong about it."""
    (tmp_path / "empty.csv").touch()
    (tmp_path / "binary").write_bytes(b"\x00\xff\xfe" * 100)
    (tmp_path / "header.csv").write_text(HEADER)
    (tmp_path / "fine.csv").write_text(HEADER + "2026-01-01T00:00:00.000Z,0,1,2,3\n")
    told = {
        "missing": "No such file",
        "empty.csv": "not a metrics log",
        "binary": "not a metrics log",
        "header.csv": "no rows yet",
        ".": "no run has used",
    }
    for name, expected in told.items():
        line = problem(tmp_path / name)
        assert re.fullmatch(rf".*{expected}.*", line), line
    assert "No such file" in problem(tmp_path / "fine.csv", tmp_path / "no" / "page.html")


def test_a_log_that_cannot_be_used_is_told_and_the_rest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's half of the report does not depend on the log's."""
    (tmp_path / "gpu_metrics.log").write_text("mine\n")
    monkeypatch.setattr(app_report, "read_history", lambda *_: histories.history())
    text = app_report.make_report(str(tmp_path), None)
    assert "58 files done" in text
    assert "is not a metrics log" in text


def test_a_lost_gpu_is_down_and_not_stalled() -> None:
    """What the log says about the GPU comes first; a stall of a GPU that answers is one."""
    start = histories.START
    gone = summarize(
        replace(
            histories.history(),
            stalls=(
                StallSpan("3", start + 5_100, start + 5_600),
                StallSpan("1", start + 500, start + 900),
            ),
        ),
        histories.log(),
    )
    text = describe(gone)
    strips = [line.split()[-1] for line in text.splitlines() if line[:5] in ("  1  ", "  3  ")]
    assert [set("D!") & set(strip) for strip in strips[:2]] == [{"!"}, {"D"}]
    assert text.index("Did not answer: GPU 3 (20m45s).") < text.index("Stalled: GPU 1 (1 time")
    assert "GPU 3 (1 time" not in text
