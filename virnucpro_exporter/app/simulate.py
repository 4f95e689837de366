"""A simulation: the real coordinator, run loop and views, over virtual workers and GPUs.

`--speed` makes the virtual GPUs fast; it does not touch the clock. All times, in the metrics and in
the settings, are real seconds, so that they compare with Prometheus' `time()`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from virnucpro_exporter.app.run import Finished, keep_pace
from virnucpro_exporter.app.signals import RunSignals
from virnucpro_exporter.app.views import linger, reserve, show
from virnucpro_exporter.config import SimulateConfig
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.simulated import Activity, SimulatedSource
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.simulation import SCENARIOS, Simulation, VirtualPool, VirtualWorkers
from virnucpro_exporter.snapshot import RunResult, RunSnapshot, RunState

__all__ = ["SCENARIOS", "simulate"]

log = logging.getLogger(__name__)

# Between two batches of files the run is seen as completed for so long.
_REST_SECONDS = 5.0

# A lost virtual GPU that came back is found this soon, for `--speed` shortens its absence too.
_REOPEN_SECONDS = 2.0

# Share of the memory that a loaded model fills, whether or not it computes.
_MODEL_MEMORY = 0.62


class NoResults:
    """Virtual workers write nothing."""

    def claim(self, name: str, path: str) -> str | None:
        """Every name is free."""
        del name, path
        return None

    def provide(self, attempt: int) -> None:
        """Nothing is needed."""

    def commit(self, attempt: int, names: Iterable[str]) -> None:
        """Nothing is kept."""

    def keep(self, attempt: int) -> None:
        """Nothing lies anywhere."""

    def discard(self, attempt: int) -> None:
        """Nothing is removed."""

    def probe(self) -> None:
        """Nothing can be in the way."""


def simulate(
    config: SimulateConfig, tell: Callable[[Finished], None] = lambda _: None
) -> RunSnapshot:
    """Run a simulation to its end, or to the first signal.

    Args:
        config: What to simulate, and how it is shown.
        tell: Called at the end, before the endpoint lingers.

    Raises:
        UsageError: An address or a path cannot be used, or the web configuration is wrong.
    """
    keep_pace()
    chosen, settings = config.simulated, config.scheduler_settings()
    plan = Simulation(
        SCENARIOS[chosen.scenario],
        gpus=chosen.gpus,
        count=chosen.files,
        speed=chosen.speed,
        seed=chosen.seed,
        stall_threshold=settings.stall_threshold,
    )
    workers = VirtualWorkers(plan.virtual_gpus, progress_every=plan.progress_every)
    monitor = GPUMonitor(
        source=SimulatedSource(
            tuple(plan.names.values()), lambda gpu: activity(workers, gpu), seed=chosen.seed
        ),
        reopen_after=_REOPEN_SECONDS,
        links=config.metrics.gpu_links,
        processes=config.metrics.gpu_processes,
    )
    with contextlib.ExitStack() as stack:
        reserved = reserve(config.metrics, stack, run=config.metrics.run_name or "")
        stack.enter_context(monitor).wait()
        pool = VirtualPool(workers)
        coordinator = WorkStealingCoordinator(
            plan.weights,
            names=plan.names,
            balancer=config.scheduling.balancer,
            policy=plan.policy(config.scheduling.balancer),
            settings=settings,
            processor=f"simulated:{chosen.scenario}",
            clock=pool.now,
        )
        log.info(
            "simulating %r: %d files on %d GPUs, %g times as fast as real ones; a worker counts as"
            " stalled after %g s",
            *(chosen.scenario, chosen.files, chosen.gpus, chosen.speed, settings.stall_threshold),
        )
        shown = show(config.views, config.metrics, reserved, stack, coordinator, monitor, Path())
        runner = Runner(coordinator, pool, list(plan.names), NoResults(), None)
        signals = stack.enter_context(RunSignals(runner.stop, runner.stop))
        for number in itertools.count():
            runner.run(begin(plan, number, workers))
            if runner.was_stopped or not chosen.forever or not pool.rest(_REST_SECONDS):
                break
        signals.detach()
        is_whole = coordinator.snapshot().state is RunState.COMPLETED
        result = RunResult.COMPLETED if is_whole else RunResult.FAILED
        snapshot = coordinator.conclude(RunResult.INTERRUPTED if signals.caught else result, 0)
        shown.dashboard.stop()
        tell(Finished(snapshot, 0))
        linger(config.metrics, signals, shown.server)
        return snapshot


def begin(plan: Simulation, number: int, workers: VirtualWorkers) -> Sequence[SequenceFile]:
    """Prepare the workers for a batch, and give its files."""
    batch = plan.batch(number)
    workers.add(batch.work, batch.mishaps)
    for gpu, outage in batch.outages:
        begin, end = workers.now + outage.begin, workers.now + outage.end
        workers.plan(gpu, replace(outage, begin=begin, end=end))
    return batch.files


def activity(workers: VirtualWorkers, gpu: str) -> Activity:
    """What a virtual GPU does, as its worker has it do."""
    outage = workers.outage(gpu)
    if outage is not None and outage.is_loss:
        return Activity(is_lost=True)
    if not workers.is_ready(gpu):
        return Activity()
    if not workers.is_busy(gpu):
        return Activity(memory=_MODEL_MEMORY)
    if outage is not None:  # it spins in a kernel that never ends
        return Activity(compute=1.0, power=0.4, memory=_MODEL_MEMORY)
    return Activity(compute=0.97, power=0.85, memory=_MODEL_MEMORY)
