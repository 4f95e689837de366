"""Many GPUs and many files: nothing is lost, and no event costs a look at all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tests import events as said
from virnucpro_exporter.app.simulate import NoResults
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.simulation import (
    VirtualCluster,
    VirtualGpu,
    VirtualPool,
    VirtualRun,
    timeless,
)


@pytest.mark.parametrize("on_stall", [OnStall.RETRY, OnStall.RESTART])
def test_a_cluster_in_trouble_does_each_file_once(on_stall: OnStall) -> None:
    """Nodes that join and leave, GPUs that freeze and crash, files that fail: none is lost."""
    cluster = VirtualCluster(8, 5000)
    pool = VirtualPool(cluster.workers(), clock=timeless())
    coordinator = WorkStealingCoordinator(
        {gpu: cluster.weights[gpu] for gpu in cluster.at_start},
        settings=SchedulerSettings(stall_threshold=60.0, on_stall=on_stall),
        clock=pool.now,
    )
    Runner(coordinator, pool, cluster.at_start, NoResults(), None).run(cluster.inputs[0])
    run = coordinator.snapshot()
    assert (run.files_completed, run.files_failed, len(run.workers)) == (5000, 0, 64)
    assert {worker.gpu: worker.stalls for worker in run.workers}["gpu006/1"] > 0
    assert {victim for (victim, _), _ in run.steals} == {""}, "not a series for each pair"
    assert sum(n for _, n in run.steals) == sum(w.work_stolen_from for w in run.workers) > 100
    assert run.elapsed_seconds < 1.3 * cluster.lower_bound()


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python a piece of work takes."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_no_event_costs_more_with_more_files() -> None:
    """A result, a node that leaves, a look at the clock and a snapshot: as long as ever."""

    def costs(files: int) -> list[int]:
        scheduler = Scheduler({str(gpu): 1.0 for gpu in range(32)})
        inputs = tuple(SequenceFile(f"/{i}", 1, 2_000_000 - i) for i in range(files))
        scheduler.handle(ev.FilesSubmitted(inputs), 0.0)
        for gpu in scheduler.state.workers:
            scheduler.handle(said.ready(gpu), 0.0)
        events: list[ev.Event] = [
            said.started("3", 4),
            said.completed("3", 4, 1, 2_000_000, 20.0),
            said.lost("4", "its node has left", ev.LossCause.LEFT_CLUSTER),
            ev.TimePassed(),
        ]
        works = [lambda event=event: scheduler.handle(event, 500.0) for event in events]
        snapshot = lines_run(lambda: take_snapshot(scheduler, RunContext(), 500.0))
        return [*map(lines_run, works), snapshot]

    few, many = costs(640), costs(12_800)
    assert all(after <= 1.5 * before for before, after in zip(few, many, strict=True))


def test_idle_gpus_are_not_compared_with_each_other() -> None:
    """An event of a run on four times the GPUs costs about four times as much, at its end too."""

    def lines_per_event(gpus: int) -> float:
        cluster = VirtualCluster(gpus // 8, 3 * gpus)
        files, work = cluster.inputs
        healthy = {gpu: VirtualGpu(weight * 1e5) for gpu, weight in cluster.weights.items()}
        run = VirtualRun(Scheduler(cluster.weights), healthy, work)
        events = 0

        def play() -> None:
            nonlocal events
            events = run.run(files).events

        return lines_run(play) / events

    few, many = lines_per_event(32), lines_per_event(128)
    assert many < 6 * few
