"""A wall clock that is set makes nothing wrong, and a run loop that hangs shows."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from tests.fakes import FakePool
from virnucpro_exporter.app.run import steady_clock
from virnucpro_exporter.app.simulate import NoResults
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.gpu.board import Board
from virnucpro_exporter.history import RunPeriod
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.journal.status import read_status
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.metrics.health import RunHealth, why_not_ready
from virnucpro_exporter.report.running_time import RunningTime
from virnucpro_exporter.scheduling.events import WorkerEvent
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.snapshot import Latest

HOUR = 3600.0


class Clocks:
    """A monotonic clock, and the one on the wall, which may be set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.offset = 1e9

    def steady(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset


def coordinator(clocks: Clocks) -> WorkStealingCoordinator:
    run = WorkStealingCoordinator(["0"], clock=clocks.steady, wall_clock=clocks.wall)
    run.submit([SequenceFile("/a.fa", 1, 10), SequenceFile("/b.fa", 1, 10)])
    run.next_file("0")
    run.record_file_start("0", "/a.fa")
    return run


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_all_moments_of_a_run_follow_the_wall_clock(step: float) -> None:
    """After the clock was set, the run is as old as before, and ready; nothing looks stalled."""
    clocks = Clocks()
    run = coordinator(clocks)
    clocks.now += 50.0
    before = run.snapshot()
    clocks.offset += step
    clocks.now += 1.0
    after = run.latest()
    assert after.timestamp == clocks.wall()
    assert after.start_timestamp - before.start_timestamp == step
    assert after.workers[0].last_progress_time == clocks.wall() - 51.0
    assert after.elapsed_seconds == 51.0
    assert RunHealth(run, clocks.wall).latest().success
    assert why_not_ready(after, None, clocks.wall()) == ""


def test_moments_do_not_flicker() -> None:
    """As long as nobody sets the clock, what is past stays where it is."""
    clocks = Clocks()
    run = coordinator(clocks)
    start = run.snapshot().start_timestamp
    clocks.offset += 0.1  # as time servers do
    assert run.snapshot().start_timestamp == start


def test_the_gpus_answered_when_they_answered() -> None:
    """The board tells the time of its last success by the clock of now, without a new answer."""
    clocks = Clocks()
    board = Board(3.0, clocks.steady, clocks.wall)
    board.succeeded(0.1, clocks.steady())
    assert board.snapshot().health.last_success_timestamp == clocks.wall()
    assert board.snapshot() is board.snapshot()
    clocks.offset += HOUR
    assert board.snapshot().health.last_success_timestamp == clocks.wall()


def test_a_run_loop_that_hangs_shows(tmp_path: Path) -> None:
    """Snapshots go on, as readers take them; the heartbeat does not, and the run is not ready."""
    clocks = Clocks()
    run = WorkStealingCoordinator(["0"], clock=clocks.steady, wall_clock=clocks.wall)
    assert run.snapshot().heartbeat_age is None
    seen = []

    class Hanging(FakePool):
        """It looks around once, and then a call takes two minutes."""

        def poll(self, timeout: float | None) -> list[WorkerEvent]:
            del timeout
            seen.append((RunHealth(run, clocks.wall).latest(), run.snapshot().heartbeat_age))
            clocks.now += 120.0
            seen.append((RunHealth(run, clocks.wall).latest(), run.snapshot().heartbeat_age))
            assert "no sign of the run for 120 s" in why_not_ready(
                run.latest(), None, clocks.wall()
            )
            runner.stop()
            return []

    runner = Runner(run, Hanging({}, tmp_path), ["0"], NoResults(), None)
    runner.run([SequenceFile("/a.fa", 1, 10)])
    (fresh, age), (stale, stale_age) = seen
    assert (fresh.success, age) == (True, 0.0)
    assert (stale.success, stale_age) == (False, 120.0)
    assert stale.last_success_timestamp == clocks.wall() - 120.0


def test_a_run_that_has_ended_needs_no_heartbeat() -> None:
    """Its last values are served on, and none of them counts as stale."""
    ended = replace(builders.finished(), heartbeat_age=300.0)
    health = RunHealth(Latest(ended), lambda: builders.NOW).latest()
    assert (health.success, health.last_success_timestamp) == (True, ended.timestamp)


def test_the_clock_of_a_journal_goes_on_evenly() -> None:
    """A run takes as long as it took, however the clock was set meanwhile."""
    clocks = Clocks()
    clock = steady_clock(clocks.steady, clocks.wall)
    begin = clock()
    assert begin == clocks.wall()
    clocks.offset -= HOUR
    clocks.now += 5.0
    assert clock() - begin == 5.0


def test_runs_are_in_the_order_of_their_rows(tmp_path: Path) -> None:
    """The last run is the one that was begun last, although the clock was set back before it."""
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    for number, begin in ((1, 5000.0), (2, 1000.0)):
        with closing(Journal(outputs)) as journal:
            journal.plan([])
            journal.begin(f"run {number}", {"number": number}, now=begin)
            journal.finish("completed", begin + 10.0)
    assert read_status(os.fspath(outputs.folder)).run_id == "run 2"
    history = read_history(outputs.folder, now=1020.0)
    assert [run.run_id for run in history.runs][-1] == "run 2"
    assert history.settings == {"number": 2}


def test_the_running_time_of_runs_between_which_the_clock_was_set_back() -> None:
    """Each moment counts within the run that it belongs to, one run after the other."""
    first, second = RunPeriod("1", "completed", 5000.0, 5010.0), RunPeriod("2", "", 1000.0, 1020.0)
    time = RunningTime([first, second])
    assert time.total == 30.0
    assert [time.at(moment) for moment in (5000.0, 5004.0, 1000.0, 1005.0)] == [
        0.0,
        4.0,
        10.0,
        15.0,
    ]
