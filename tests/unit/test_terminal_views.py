import io
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.color import Color
from rich.console import Console, RenderableType

from tests import builders, example_table
from virnucpro_exporter.overview.findings import draining, warnings
from virnucpro_exporter.overview.rows import worker_rows
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot, RunState, WorkerState
from virnucpro_exporter.terminal.colours import FAIR, GOOD, POOR, utilization_style
from virnucpro_exporter.terminal.display import Every
from virnucpro_exporter.terminal.gpus_table import gpus_view
from virnucpro_exporter.terminal.plain import describe_run
from virnucpro_exporter.terminal.views import (
    Size,
    ViewOptions,
    run_view,
    silence_view,
)
from virnucpro_exporter.text import clean, format_duration, format_number, is_ascii_only

ENDPOINT = ViewOptions(endpoint="http://localhost:9400/metrics")
GOLDEN = Path(__file__).parents[1] / "golden"
SCENES: dict[str, tuple[RunSnapshot, GpuSnapshot]] = {
    "idle": (builders.idle(), builders.gpus_up()),
    "busy": (builders.running(4), builders.gpus_up(4)),
    "stalled": (builders.stalled(4), builders.gpus_up(4)),
    "lost": (builders.lost_worker(4), builders.gpu_lost(4)),
    "shared": (builders.shared(), builders.gpus_up(4)),
    "joining": (builders.joining(), builders.gpus_up(4)),
    "64_shared": (builders.shared(64), builders.gpus_up(64)),
    "64_gpus": (builders.stalled(64), builders.gpu_lost(64)),
    "finished": (builders.finished(), builders.gpus_up()),
    "nodes": builders.of_nodes(
        builders.lost_worker(4), builders.gpu_lost(4), ("gpu07", "gpu-worker-a1b2c3d4e5-x7k2p")
    ),
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def draw(view: RenderableType, width: int, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("scene", SCENES)
def test_the_dashboard_looks_as_agreed(scene: str, width: int) -> None:
    """Each scene is drawn as its golden file shows."""
    run, gpus = SCENES[scene]
    drawn = draw(run_view(run, gpus, builders.NOW, Size(width, 24), ENDPOINT), width)
    builders.check_golden(GOLDEN / f"terminal_{scene}_{width}.txt", drawn)


def test_the_picture_in_the_readme_is_the_table() -> None:
    """`python -m tests.example_table > docs/table.svg` draws it anew."""
    picture = (GOLDEN.parents[1] / "docs" / "table.svg").read_text()
    assert example_table.words(picture) == example_table.words(example_table.example())
    assert "STALLED:" in example_table.words(picture)


@pytest.mark.parametrize("size", [Size(40, 10), Size(80, 24), Size(120, 40), Size(200, 60)])
def test_each_size_is_used_well(size: Size) -> None:
    """From 2 GPUs to 64: what a size has room for, with a stall and a GPU that is down."""
    drawn = []
    for count in (2, 8, 16, 64):
        run, gpus = builders.stalled(count), builders.gpu_lost(count)
        workers = tuple(replace(w, current_ratio=(n % 10) / 9) for n, w in enumerate(run.workers))
        gone = replace(gpus.devices[-1], last_answer_timestamp=builders.NOW - 4000.0)
        run, gpus = replace(run, workers=workers), replace(gpus, devices=(*gpus.devices[:-1], gone))
        view = run_view(run, gpus, builders.NOW, size, ENDPOINT, lambda gpu: trail_of(int(gpu)))
        drawn.append(draw(view, *size))
    assert all(len(lines.splitlines()) <= size.height for lines in drawn)
    text = f"{'=' * size.width}\n".join(drawn)
    assert max(map(len, text.splitlines())) <= size.width
    builders.check_golden(GOLDEN / f"terminal_{size.width}x{size.height}.txt", text)


def trail_of(gpu: int) -> list[float | None]:
    """Ten minutes of a GPU, of which the first one and a half are not known."""
    return [None, None, None, *(((gpu + place) % 9) / 8 for place in range(17))]


@pytest.mark.parametrize("gpus", [1, 3, 16, 64])
@pytest.mark.parametrize("size", [Size(80, 24), Size(60, 12), Size(80, 10), Size(200, 50)])
def test_it_fits_every_size(size: Size, gpus: int) -> None:
    """No view is longer or wider than the terminal, and the stalled worker is in it."""
    view = run_view(builders.stalled(gpus), builders.gpus_up(gpus), builders.NOW, size)
    lines = draw(view, size.width).splitlines()
    assert len(lines) <= size.height
    assert max(map(len, lines)) <= size.width
    assert any("STALLED 6m40s" in line for line in lines)


@pytest.mark.parametrize("size", [Size(60, 12), Size(80, 24), Size(120, 24)])
def test_long_names_of_machines_leave_room_for_the_state(size: Size) -> None:
    """The middle of a name is cut: its end tells one GPU from the others."""
    nodes = tuple(f"a-machine-with-a-very-long-name-{number}" for number in range(4))
    run, gpus = builders.of_nodes(builders.stalled(8), builders.gpus_up(8), nodes)
    drawn = draw(run_view(run, gpus, builders.NOW, size), size.width)
    assert max(map(len, drawn.splitlines())) <= size.width
    assert re.search(r"^a-m\S*…\S*-0/0 .* STALLED 6m40s", drawn, re.MULTILINE)
    assert re.search(r"^a-m\S*…\S*-3/1 .* busy 12s", drawn, re.MULTILINE)


def test_warnings_name_some_gpus_and_count_the_others() -> None:
    """As many as have room beside each other."""
    run, gpus = builders.of_nodes(builders.running(24), builders.no_gpus())
    lost = tuple(replace(w, state=WorkerState.LOST) for w in run.workers)
    run = replace(run, workers=lost)
    names = "gpu07/0, gpu08/0, gpu07/1, gpu08/1 and 20 more"
    assert warnings(run, worker_rows(run, gpus), builders.NOW) == [f"LOST: GPU {names}"]


def test_urgent_rows_come_first_when_not_all_fit() -> None:
    """A lost GPU, last in its order, is shown first, and the rest is counted."""
    run, gpus = builders.running(64), builders.gpu_lost(64)
    lines = draw(run_view(run, gpus, builders.NOW, Size(80, 12)), 80).splitlines()
    rows = lines[lines.index(next(x for x in lines if x.startswith("GPU"))) + 1 :]
    assert rows[0].startswith("63") and "GPU DOWN" in rows[0]  # noqa: PT018 - one row
    assert any("more:" in line for line in rows)


def test_ascii_terminals_get_ascii_only() -> None:
    """Neither the drawing nor a file's name brings in a character the terminal cannot show."""
    run = builders.running(2)
    named = replace(run.workers[0], current_file="/d/Gänse\x1b[2J.fa")
    run = replace(run, workers=(named, *run.workers[1:]))
    options = ViewOptions(ascii_only=True)
    drawn = draw(run_view(run, builders.gpus_up(), builders.NOW, Size(80, 24), options), 80)
    assert drawn.isascii()
    assert "\x1b" not in drawn


def test_only_work_in_progress_is_judged_by_its_utilisation() -> None:
    """A GPU that hangs at 100 % is not painted as good, nor one with nothing to do as poor."""
    run, gpus = builders.stalled(2), builders.gpus_up(2)
    idle = replace(run.workers[1], state=WorkerState.IDLE)
    sample = gpus.devices[1].sample
    assert sample is not None
    quiet = replace(gpus.devices[1], sample=replace(sample, utilization_ratio=0.0))
    run = replace(run, workers=(run.workers[0], idle))
    view = run_view(
        run, replace(gpus, devices=(gpus.devices[0], quiet)), builders.NOW, Size(80, 24)
    )
    console = Console(file=io.StringIO(), width=80, color_system="256", force_terminal=True)
    with console.capture() as capture:
        console.print(view)
    rows = [line for line in capture.get().splitlines() if "97%" in line or " 0%" in line]
    assert len(rows) == 2
    assert not [row for row in rows if "38;5;28m" in row or "38;5;160m 0%" in row]


def test_numbers_are_left_out_whole() -> None:
    """What does not fit on a narrow screen goes as a whole: neither rates nor counts are cut."""
    run = replace(builders.running(64), eta_seconds=400_000.0, files_failed=1234)
    lines = draw(run_view(run, builders.gpus_up(64), builders.NOW, Size(40, 10)), 40).splitlines()
    assert lines[0] == "running  for 1m00s  ETA 4d15h"
    assert lines[1].endswith(" 25% 1362/1650 files 1234 failed")


def test_narrow_terminals_keep_the_state() -> None:
    """At 40 columns the state is still there; columns of less weight are not."""
    view = run_view(builders.stalled(), builders.gpus_up(), builders.NOW, Size(40, 10))
    drawn = draw(view, 40)
    assert "STALLED 6m40s" in drawn
    assert "Mem%" not in drawn


def test_what_is_wrong_is_named_on_top_until_the_run_is_over() -> None:
    """Stalled, lost and silent GPUs are named, and not without end."""
    run = builders.stalled(64)
    workers = tuple(replace(w, is_stalled=int(w.gpu) < 10) for w in run.workers)
    run = replace(run, workers=(*workers[:-1], builders.lost_worker().workers[-1]))
    told = warnings(run, worker_rows(run, builders.gpus_up()), builders.NOW)
    assert told == ["LOST: GPU 1", "STALLED: GPU 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"]
    away = worker_rows(builders.stalled(), builders.gpu_lost(1))
    assert warnings(builders.stalled(), away, builders.NOW) == ["DOWN: GPU 0"]
    over = replace(run, state=RunState.FAILED)
    assert warnings(over, worker_rows(over, builders.gpus_up()), builders.NOW + 99) == []


@pytest.mark.parametrize(
    ("queued", "failed", "label"), [(3, 1, "ended with 3 left"), (0, 1, "ended with failures")]
)
def test_a_run_that_was_ended_is_not_told_to_have_failed(
    queued: int, failed: int, label: str
) -> None:
    """After a drain files are left; only files that were given up are failures."""
    run = RunSnapshot(0.0, state=RunState.FAILED, files_queued=queued, files_failed=failed)
    assert run.state_label == label
    assert RunSnapshot(0.0, state=RunState.DRAINING).state_label == "draining"


def test_a_log_line_has_the_facts_of_the_table() -> None:
    """One line however many GPUs there are; where it names some with trouble it is a warning."""
    level, line = describe_run(builders.stalled(64), builders.gpu_lost(64), builders.NOW)
    assert level == logging.WARNING
    assert line == (
        "running: 128/416 files (25%), 0 failed, 64 of 64 GPUs busy, 8.3k seq/s, 1 steal, "
        "ETA 3m00s (22:16), DOWN: GPU 63, STALLED: GPU 0, work imbalanced: 1m20s to 3m20s"
    )
    level, line = describe_run(builders.running(), builders.gpus_up(), builders.NOW)
    assert (level, "STALLED" in line) == (logging.INFO, False)
    line = describe_run(builders.shared(), builders.gpus_up(4), builders.NOW)[1]
    assert line.startswith("running: 0/1 files (25%), 3/8 parts, 0 failed, 4 of 4 GPUs busy")


def test_a_run_that_drains_says_how_long_and_what_a_user_can_do() -> None:
    """The remaining time counts down in the table and in log lines."""
    run = replace(builders.running(3), state=RunState.DRAINING, eta_seconds=125.0)
    options = ViewOptions(drain_hint="press Ctrl-C again")
    drawn = draw(run_view(run, builders.gpus_up(3), builders.NOW, Size(120, 24), options), 120)
    assert "3 files in process will finish, about 2m05s; press Ctrl-C again" in drawn
    line = describe_run(run, builders.gpus_up(3), builders.NOW)[1]
    assert line.endswith("3 files in process will finish, about 2m05s")
    one = replace(run, files_processing=1, eta_seconds=None)
    assert draining(one) == "1 file in process will finish"
    assert draining(replace(run, files_processing=0)) == "no file is in process; the run ends"


def test_a_run_that_drains_does_not_await_the_end_of_parts() -> None:
    """They end at their next sequence; so does a whole file whose worker was asked for that."""
    run = replace(builders.shared(3), state=RunState.DRAINING, eta_seconds=125.0)
    ends = "of files in process will end in a moment"
    assert draining(run) == f"3 parts {ends}"
    whole, asked, other = builders.running(3).workers
    asked = replace(asked, is_ending=True)
    mixed = replace(builders.running(3), eta_seconds=125.0, workers=(whole, asked, other))
    assert draining(mixed) == f"1 part {ends}; 2 files in process will finish, about 2m05s"
    joined = replace(builders.joining(3), state=RunState.DRAINING)
    assert draining(joined) == "1 file in process will finish, about 1s"
    idle = tuple(replace(w, current_range=None) for w in run.workers)
    assert draining(replace(run, workers=idle)) == "no file is in process; the run ends"


def test_cpu_slots_are_not_called_gpus() -> None:
    """Neither in the table nor in warnings."""
    run = builders.stalled(2)
    slots = tuple(replace(w, gpu=f"cpu{n}", name="CPU") for n, w in enumerate(run.workers))
    run = replace(run, workers=slots, recent_steals=())
    drawn = draw(run_view(run, builders.no_gpus(), builders.NOW, Size(100, 24)), 100)
    assert "STALLED: cpu0" in drawn
    assert "GPU" not in drawn
    line = describe_run(run, builders.no_gpus(), builders.NOW)[1]
    assert "2 of 2 CPU slots busy" in line
    assert "GPU" not in line


def test_intervals_are_kept_and_hold_ups_are_not_caught_up() -> None:
    """Two intervals that are no multiples of each other are both kept."""
    due = Every(5.0)
    taken = [now for now in range(0, 31, 2) if due.take(float(now))]
    assert taken == [0, 6, 10, 16, 20, 26, 30]
    assert [due.take(now) for now in (100.0, 101.0, 105.0)] == [True, False, True]


@pytest.mark.parametrize(
    ("encoding", "locale", "expected"),
    [
        ("utf-8", {}, False),
        ("utf-8", {"LANG": "de_DE.UTF-8"}, False),
        ("latin-1", {"LANG": "de_DE.ISO-8859-1"}, True),
        ("utf-8", {"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, True),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "en_US.UTF-8"}, False),
        ("utf-8", {"LC_ALL": "C.UTF-8"}, False),
    ],
)
def test_who_gets_ascii(encoding: str, locale: dict[str, str], *, expected: bool) -> None:
    """The stream's encoding and the user's locale decide, not what Python makes of it."""
    assert is_ascii_only(encoding, locale) is expected


def test_old_values_are_said_to_be_old() -> None:
    """A snapshot that is not renewed does not pass for the present."""
    view = run_view(builders.running(), builders.gpus_up(), builders.NOW + 90, Size(80, 24))
    assert "VALUES 1m30s OLD" in draw(view, 80)


def test_a_silent_source_shows_no_values() -> None:
    """When the endpoint is gone, the screen says since when and why."""
    drawn = draw(silence_view("http://h:9400/metrics", 1000.0, "refused", 1042.0), 80)
    assert "(42s)" in drawn
    assert "refused" in drawn


@pytest.mark.parametrize(
    ("ratio", "style"),
    [(0.8, GOOD), (0.79, FAIR), (0.5, FAIR), (0.49, POOR), (0.0, POOR), (None, "dim")],
)
def test_utilisation_colours(ratio: float | None, style: str) -> None:
    """Green from 80 %, yellow from 50 %, red below, dim when unknown."""
    assert utilization_style(ratio) == style


@pytest.mark.parametrize("name", [GOOD, FAIR, POOR])
def test_colours_are_legible_on_white_and_on_black(name: str) -> None:
    """Contrast by WCAG 2: enough for text on white, and for bold text on black."""
    parts = [part / 255 for part in Color.parse(name).get_truecolor()]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert 1.05 / (light + 0.05) >= 4.5
    assert (light + 0.05) / 0.05 >= 3.5


def test_numbers_are_short() -> None:
    """Durations and rates keep to a few characters at any magnitude."""
    durations = [format_duration(s) for s in (None, 0, 59.9, 60, 3599, 7620, 90000)]
    assert durations == ["-", "0s", "59s", "1m00s", "59m59s", "2h07m", "1d01h"]
    numbers = [format_number(v) for v in (None, 0, 7.5, 950, 999.9, 12_345, 2e6, 3e9)]
    assert numbers == ["-", "0", "7.5", "950", "1.0k", "12.3k", "2.0M", "3.0G"]
    assert clean("a\x1b[2Jb\udcff\n") == r"a\x1b[2Jb\xff\n"


def test_missing_gpu_values_are_explained() -> None:
    """A GPU that is down shows dashes, and below the table why."""
    drawn = draw(gpus_view(builders.gpu_lost()), 140)
    assert "GPU 1 is down: GPU is lost" in drawn
    assert "NVML Shared Library Not Found" in draw(gpus_view(builders.no_gpus()), 140)


def test_residues_stand_where_sequences_are_not_counted() -> None:
    """In the table, in its head and in log lines; they are marked, and unknown is never 0."""
    run = builders.running(1)
    unknown = replace(run.workers[0], throughput=None, residue_throughput=5_200_000.0)
    run = replace(run, workers=(unknown,))
    drawn = draw(run_view(run, builders.gpus_up(1), builders.NOW, Size(120, 24)), 120)
    assert "5.2M residues/s" in drawn
    assert "5.2M res " in drawn
    assert "5.2M residues/s" in describe_run(run, builders.gpus_up(1), builders.NOW)[1]
