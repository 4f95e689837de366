import io
from collections.abc import Iterable
from dataclasses import replace

import pytest
from rich.console import Console

from tests import builders
from virnucpro_exporter.snapshot import (
    Machine,
    RunEnd,
    RunResult,
    RunState,
    SourceSilentError,
)
from virnucpro_exporter.terminal.machines import MachinesDisplay, Seen, machines_view
from virnucpro_exporter.terminal.views import Size, ViewOptions

RUN, GPUS = builders.stalled(4), builders.gpu_lost(8)
SERVED = Seen("http://gpu7:9877/metrics", "gpu7:9877", Machine({"plankton": RUN}, GPUS))
QUIET = SourceSilentError("http://gpu8:9877/metrics", None, "Connection refused")
SILENT = Seen("http://gpu8:9877/metrics", "gpu8:9877", None, QUIET)
ALONE = Seen("http://gpu9:9877/metrics", "gpu9:9877", Machine({"": RUN}, GPUS))


def draw(machines: list[Seen], size: Size) -> list[str]:
    """The screen."""
    console = Console(file=io.StringIO(), width=size.width, height=size.height)
    with console.capture() as capture:
        console.print(machines_view(machines, builders.NOW, size, ViewOptions()))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("size", [Size(40, 9), Size(80, 23), Size(120, 39), Size(200, 59)])
def test_every_machine_is_on_the_screen_or_counted(size: Size) -> None:
    """Runs, free GPUs and machines that do not answer have a title each, at every size."""
    lines = draw([SERVED, SILENT, ALONE], size)
    assert len(lines) <= size.height
    assert max(map(len, lines)) <= size.width
    titles = ("gpu7:9877 plankton", "gpu7:9877 other GPUs", "gpu8:9877", "gpu9:9877")
    whole = [title for title in titles if title in lines]
    assert whole == list(titles[: len(whole)])
    hidden = len(titles) - len(whole)
    assert hidden == 0 or lines[-1].startswith(f"+{hidden} more: ")
    assert "STALLED 6m40s" in "\n".join(lines)
    if size.height > 30:
        assert not hidden
        assert "Connection refused" in lines
        assert any("GPU 7 is down: GPU is lost" in line for line in lines)


def test_a_run_alone_looks_as_on_its_own_terminal() -> None:
    """Without a title: there is nothing to tell it from."""
    assert draw([ALONE], Size(80, 23))[0].startswith("running  for 1m00s")


class Source:
    """A machine that answers what it is told to, in turn."""

    def __init__(self, name: str, answers: Iterable[Machine | SourceSilentError]) -> None:
        self.name, self.url = name, f"http://{name}/metrics"
        self._answers = iter(answers)

    def latest(self) -> Machine:
        """The next one."""
        answer = next(self._answers)
        if isinstance(answer, SourceSilentError):
            raise answer
        return answer


def test_the_end_stays_and_is_the_result() -> None:
    """Once all runs have ended nothing is asked any more, so that the last screen stays."""
    end = RunEnd(builders.NOW, RunResult.INTERRUPTED)
    over = Machine({"": replace(builders.finished(1), state=RunState.FAILED, end=end)})
    going = Machine({"": builders.running(1)})
    sources = [Source("a", [going, over]), Source("b", [QUIET, going, over])]
    display = MachinesDisplay(sources, plain=True)
    for expected in (None, None, (RunResult.INTERRUPTED, RunResult.INTERRUPTED)):
        assert display.results is None
        display._show(log=False, plain=True)
        assert display.results == expected
    display._show(log=False, plain=True)


def test_runs_that_come_and_go_have_no_end() -> None:
    """`serve` is watched until a signal, whatever its runs do."""
    end = RunEnd(builders.NOW, RunResult.COMPLETED)
    served = Machine({"old": replace(builders.finished(1), end=end)}, builders.gpus_up(1))
    display = MachinesDisplay([Source("a", [served])], plain=True)
    display._show(log=False, plain=True)
    assert display.results is None
