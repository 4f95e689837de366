import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from tests import builders
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot
from virnucpro_exporter.terminal.gpus_table import gpus_view
from virnucpro_exporter.terminal.views import (
    Size,
    ViewOptions,
    run_view,
    silence_view,
    utilization_style,
)
from virnucpro_exporter.text import clean, format_duration, format_number

GOLDEN = Path(__file__).parents[1] / "golden"
SCENES: dict[str, tuple[RunSnapshot, GpuSnapshot]] = {
    "idle": (builders.idle(), builders.gpus_up()),
    "busy": (builders.running(4), builders.gpus_up(4)),
    "stalled": (builders.stalled(4), builders.gpus_up(4)),
    "lost": (builders.lost_worker(4), builders.gpu_lost(4)),
    "64_gpus": (builders.stalled(64), builders.gpu_lost(64)),
    "finished": (builders.finished(), builders.gpus_up()),
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
    options = ViewOptions(endpoint="http://localhost:9400/metrics")
    drawn = draw(run_view(run, gpus, builders.NOW, Size(width, 24), options), width)
    builders.check_golden(GOLDEN / f"terminal_{scene}_{width}.txt", drawn)


@pytest.mark.parametrize("gpus", [1, 3, 16, 64])
@pytest.mark.parametrize("size", [Size(80, 24), Size(60, 12), Size(80, 10), Size(200, 50)])
def test_it_fits_every_size(size: Size, gpus: int) -> None:
    """No view is longer or wider than the terminal, and the stalled worker is in it."""
    view = run_view(builders.stalled(gpus), builders.gpus_up(gpus), builders.NOW, size)
    lines = draw(view, size.width).splitlines()
    assert len(lines) <= size.height
    assert max(map(len, lines)) <= size.width
    assert any("STALLED 6m40s" in line for line in lines)


def test_urgent_rows_come_first_when_not_all_fit() -> None:
    """A lost GPU, last in its order, is shown first, and the rest is counted."""
    run, gpus = builders.running(64), builders.gpu_lost(64)
    lines = draw(run_view(run, gpus, builders.NOW, Size(80, 12)), 80).splitlines()
    rows = lines[lines.index(next(x for x in lines if x.startswith("GPU"))) + 1 :]
    assert rows[0].startswith("63") and "GPU down" in rows[0]  # noqa: PT018 - one row
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


def test_old_values_are_said_to_be_old() -> None:
    """A snapshot that is not renewed does not pass for the present."""
    view = run_view(builders.running(), builders.gpus_up(), builders.NOW + 90, Size(80, 24))
    assert "values are 1m30s old" in draw(view, 80)


def test_a_silent_source_shows_no_values() -> None:
    """When the endpoint is gone, the screen says since when and why."""
    drawn = draw(silence_view("http://h:9400/metrics", 1000.0, "refused", 1042.0), 80)
    assert "(42s)" in drawn
    assert "refused" in drawn


@pytest.mark.parametrize(
    ("ratio", "style"),
    [(0.8, "green"), (0.79, "yellow"), (0.5, "yellow"), (0.49, "red"), (0.0, "red"), (None, "dim")],
)
def test_utilisation_colours(ratio: float | None, style: str) -> None:
    """Green from 80 %, yellow from 50 %, red below, dim when unknown."""
    assert utilization_style(ratio) == style


def test_numbers_are_short() -> None:
    """Durations and rates keep to a few characters at any magnitude."""
    durations = [format_duration(s) for s in (None, 0, 59.9, 60, 3599, 7620, 90000)]
    assert durations == ["-", "0s", "59s", "1m00s", "59m59s", "2h07m", "1d01h"]
    numbers = [format_number(v) for v in (None, 0, 7.5, 950, 999.9, 12_345, 2e6, 3e9)]
    assert numbers == ["-", "0", "7.5", "950", "1.0k", "12.3k", "2.0M", "3.0G"]
    assert clean("a\x1b[2Jb\udcff\n") == "a?[2Jb??"


def test_missing_gpu_values_are_explained() -> None:
    """A GPU that is down shows dashes, and below the table why."""
    drawn = draw(gpus_view(builders.gpu_lost()), 140)
    assert "GPU 1 is down: GPU is lost" in drawn
    assert "NVML Shared Library Not Found" in draw(gpus_view(builders.no_gpus()), 140)
