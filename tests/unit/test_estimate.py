"""What is shown of the rest of a run: its time, and the share of the work that is done."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from tests import events as said
from virnucpro_exporter.app.summary import summary_text
from virnucpro_exporter.scheduling.events import FilesSubmitted
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.scheduling.speed import FixedCost
from virnucpro_exporter.simulation import (
    Reports,
    VirtualGpu,
    VirtualRun,
    VirtualWorkers,
    skewed_files,
)
from virnucpro_exporter.snapshot import RunSnapshot


class Looking(Scheduler):
    """The scheduler, and what is shown of it at some shares of a run of known length."""

    def look(self, now: float) -> RunSnapshot:
        """What is shown at a moment."""
        return take_snapshot(self, RunContext(), now)


def played(
    sizes: list[int], overhead: float, reports: Reports, moments: list[float]
) -> tuple[float, list[RunSnapshot]]:
    """A run of two GPUs to its end: how long it took, and what was shown at some moments."""
    files = [SequenceFile(f"/{n}", None, size) for n, size in enumerate(sizes)]
    work = {file.path: file.residues for file in files}
    gpus = {"0": VirtualGpu(100.0), "1": VirtualGpu(200.0)}
    scheduler = Looking({"0": 1.0, "1": 2.0}, settings=SchedulerSettings(stall_threshold=1e9))
    shown: list[RunSnapshot] = []
    handle = scheduler.handle

    def watched(event: object, now: float) -> object:
        decisions = handle(event, now)  # type: ignore[arg-type]
        if len(shown) < len(moments) and now >= moments[len(shown)]:
            shown.append(scheduler.look(now))
        return decisions

    scheduler.handle = watched  # type: ignore[method-assign,assignment]
    workers = VirtualWorkers(gpus, 10.0, reports, overhead)
    run = VirtualRun(scheduler, gpus, work, workers=workers)
    return run.run(files).makespan, shown


@pytest.mark.parametrize("reports", [Reports.RESIDUES, Reports.NONE])
@pytest.mark.parametrize("overhead", [0.0, 30.0])
def test_the_time_left_and_the_share_done_are_made_of_seconds(
    reports: Reports, overhead: float
) -> None:
    """Also where most of the time of small files is a fixed cost, and commands report nothing."""
    rng = random.Random(1)
    sizes = [round(rng.lognormvariate(8.0, 1.0)) for _ in range(60)]
    end, _ = played(sizes, overhead, reports, [])
    _, shown = played(sizes, overhead, reports, [0.4 * end, 0.9 * end])
    for run in shown:
        assert run.eta_seconds == pytest.approx(end - run.timestamp, rel=0.15)
        assert run.progress == pytest.approx(run.timestamp / end, abs=0.05)
        assert 0.0 <= run.share_done <= 1.0


def test_the_share_done_is_one_of_the_files_while_they_are_looked_at() -> None:
    """Nothing is known of their seconds, and nothing is said of the time left."""
    scheduler = Scheduler({"0": 1.0})
    scheduler.handle(FilesSubmitted((SequenceFile("/a", 1, 100),), awaited=3), 0.0)
    scheduler.handle(said.ready("0"), 0.0)
    scheduler.handle(said.completed("0", 1, 1, 100, 10.0), 10.0)
    run = take_snapshot(scheduler, RunContext(), 10.0)
    assert (run.progress, run.eta_seconds, run.files_total) == (0.25, None, 4)


def test_a_second_attempt_counts_its_file_once() -> None:
    """The share that is done is that of the attempt which is further."""
    scheduler = Scheduler({"0": 1.0, "1": 10.0})
    scheduler.handle(FilesSubmitted((SequenceFile("/a", 100, 1000),)), 0.0)
    scheduler.handle(said.ready("0"), 0.0)
    scheduler.handle(said.progress("0", 1, 1, 10), 100.0)
    scheduler.handle(said.progress("0", 1, 2, 20), 200.0)
    scheduler.handle(said.ready("1"), 200.0)
    scheduler.handle(said.progress("1", 2, 50, 500), 201.0)
    scheduler.handle(said.progress("1", 2, 75, 750), 201.5)
    run = take_snapshot(scheduler, RunContext(), 201.5)
    assert run.progress == pytest.approx(0.75, abs=0.01)
    assert run.eta_seconds == 1.0


def test_a_fixed_cost_is_guessed_before_it_is_clear() -> None:
    """What is shown needs no certainty; one line of all workers serves before each has its own."""
    fixed = FixedCost()
    assert fixed.likely() == (0.0, float("inf"))
    for worker, residues in enumerate((60_000, 40_000, 20_000)):
        fixed.observe(str(worker), worker + 1.0, residues * (worker + 1.0), 50.0 + residues / 100.0)
    assert fixed.seconds == 0.0
    assert 10.0 < fixed.likely().seconds <= 50.0
    fixed.begun(7.0)
    fixed.ending.add(1.0)
    assert fixed.likely().seconds == pytest.approx(8.0)
    assert fixed.likely().unsure == 0.0


@pytest.mark.parametrize(("overhead", "slower"), [(0.0, 1.0), (60.0, 1.0), (0.0, 1 / 0.6)])
def test_a_sudden_change_of_speed_is_not_taken_for_a_fixed_cost(
    overhead: float, slower: float
) -> None:
    """The largest files come first: where GPUs get slower, it is the small ones that take longer.

    A fixed cost is found beside that, and however much the files vary.
    """
    rng = random.Random(3)
    fixed = FixedCost()
    for place in range(20):
        for worker in range(4):
            residues = 60_000 * 0.9**place
            work = residues / 100.0 * rng.uniform(0.95, 1.05) * (slower if place >= 4 else 1.0)
            fixed.observe(str(worker), 1.0, residues, overhead + work)
        if place >= 8:
            assert fixed.likely().seconds == pytest.approx(overhead, abs=15.0)


def test_no_time_is_shown_while_what_small_files_cost_is_not_known() -> None:
    """The first files of a command are the largest, and all alike: that says little of the rest."""
    scheduler = Looking({"0": 1.0, "1": 1.0}, settings=SchedulerSettings(stall_threshold=1e9))
    files = [SequenceFile(f"/{n}", None, 1000 if n < 8 else 10) for n in range(60)]
    scheduler.handle(FilesSubmitted(tuple(files)), 0.0)
    attempts = {gpu: said.ready(gpu) for gpu in ("0", "1")}
    for event in attempts.values():
        scheduler.handle(event, 0.0)
    shown = {}
    for turn in range(1, 7):
        for worker in scheduler.state.fleet:
            (attempt,) = worker.running
            scheduler.handle(
                said.completed(worker.id, attempt.number, None, attempt.record.file.residues, 50.0),
                50.0 * turn,
            )
        shown[turn] = scheduler.look(50.0 * turn)
    assert [turn for turn, run in shown.items() if run.eta_seconds is None] == [1, 2, 3, 4]
    seconds = shown[6].eta_seconds
    assert seconds == pytest.approx(24 * 50.0, rel=0.1)


def test_a_file_that_should_have_ended_long_ago_is_a_large_one() -> None:
    """Where sizes are wrong, what is left grows with what they may be; where exact, it does not."""
    left = []
    for ratio in (1.0, 1.4):
        scheduler = Looking({"0": 1.0})
        scheduler.handle(FilesSubmitted((SequenceFile("/large", 1, 10_000),)), 0.0)
        scheduler.handle(said.ready("0"), 0.0)
        for _ in range(30):
            scheduler.state.errors.observe(1000, round(1000 * ratio), 10.0, 10.0)
        for step in range(1, 96):
            scheduler.handle(said.progress("0", 1, step, 100 * step), float(step))
        seconds = scheduler.look(95.0).eta_seconds
        assert seconds is not None
        left.append(seconds)
    assert left[0] == pytest.approx(5.0, rel=0.01)
    assert left[1] > 30.0


def test_each_number_is_true_at_the_start_in_a_healthy_run_beside_a_stall_and_at_the_end() -> None:
    """Eight mixed GPUs: time left, share, throughput and balance beside what is really so.

    One of them freezes after half of the time. Until then nothing is out of balance; from its
    stall on it does nothing, and the time left is that of the other seven.
    """
    speeds = [1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 2.5, 2.5]
    files, work = skewed_files(60, random.Random(5), error=0.0)
    freezes_at = 0.5 * sum(work.values()) / sum(speeds) / 1000.0
    gpus = {
        str(n): VirtualGpu(1000.0 * speed, freezes_at=freezes_at if n == 1 else math.inf)
        for n, speed in enumerate(speeds)
    }
    scheduler = Looking({gpu: speeds[int(gpu)] for gpu in gpus})
    looked: list[RunSnapshot] = []
    turns = itertools.count()
    handle = scheduler.handle

    def watched(event: object, now: float) -> object:
        decisions = handle(event, now)  # type: ignore[arg-type]
        if scheduler.is_finished or next(turns) % 50 == 0:
            looked.append(scheduler.look(now))
        return decisions

    scheduler.handle = watched  # type: ignore[method-assign,assignment]
    virtual = VirtualRun(scheduler, gpus, work, workers=VirtualWorkers(gpus, 10.0))
    end = virtual.run(files).makespan
    first, *shown, last = looked
    assert (first.eta_seconds, first.progress) == (None, 0.0)
    assert {worker.throughput for worker in first.workers} == {None}
    assert (last.eta_seconds, last.progress, last.files_completed) == (0.0, 1.0, 60)
    healthy = [run for run in shown if 0.02 * end < run.timestamp < freezes_at]
    stalled = [run for run in shown if run.workers[1].is_stalled and run.timestamp < 0.95 * end]
    assert healthy
    assert stalled
    for run in healthy:
        assert not run.work_imbalanced
        assert run.progress == pytest.approx(run.timestamp / freezes_at / 2.0, abs=0.02)
        assert run.eta_seconds == pytest.approx(2.0 * freezes_at - run.timestamp, rel=0.1)
        for worker, speed in zip(run.workers, speeds, strict=True):
            assert worker.residue_throughput == pytest.approx(1000.0 * speed, rel=0.05)
    for run in stalled:
        assert run.eta_seconds == pytest.approx(end - run.timestamp, rel=0.15)
        assert run.workers[1].throughput == run.workers[1].residue_throughput == 0.0
    least = float(summary_text(last).rpartition("; ")[2].split()[0])
    assert 1.0 <= least < 1.1
    assert sum(worker.files_completed for worker in last.workers) == last.files_completed
