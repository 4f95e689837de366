"""A simulation: the real coordinator, run loop and views, over virtual workers and GPUs.

`--speed` makes the virtual GPUs fast; it does not touch the clock. All times, in the metrics and in
the settings, are real seconds, so that they compare with Prometheus' `time()`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from virnucpro_exporter.app.run import Finished, keep_pace
from virnucpro_exporter.app.signals import RunSignals, ending
from virnucpro_exporter.app.views import linger, reserve, show
from virnucpro_exporter.config import SimulateConfig
from virnucpro_exporter.errors import UsageError, VirnucproError
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.simulated import Activity, SimulatedSource
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.simulation import SCENARIOS, Simulation, VirtualPool, VirtualWorkers
from virnucpro_exporter.snapshot import RunResult, RunSnapshot, RunState

__all__ = ["SCENARIOS", "simulate", "simulate_machines"]

log = logging.getLogger(__name__)

# Between two runs the first is seen as completed for so long, longer than scrapes are apart; less
# where virtual GPUs are faster than that many times.
_REST_SECONDS = 20.0
_REST_SPEED = 60.0

_LOOK_SECONDS = 0.2  # between two looks at the processes of several machines

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

    def move(self, attempt: int, names: Iterable[str]) -> None:
        """Likewise."""

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

    def run(number: int) -> SimulatedRun:
        workers = VirtualWorkers(plan.virtual_gpus, progress_every=plan.progress_every)
        pool = VirtualPool(workers)
        coordinator = WorkStealingCoordinator(
            plan.weights,
            names=plan.names,
            balancer=config.scheduling.balancer,
            policy=plan.policy(config.scheduling.balancer),
            settings=settings,
            processor=f"simulated:{chosen.scenario}",
            name=config.metrics.run_name or "",
            clock=pool.now,
        )
        return SimulatedRun(coordinator, workers, pool, begin(plan, number, workers))

    newest = NewestRun(run(0))
    monitor = GPUMonitor(
        source=SimulatedSource(
            tuple(plan.names.values()),
            lambda gpu: activity(newest.run.workers, gpu),
            seed=chosen.seed,
        ),
        reopen_after=_REOPEN_SECONDS,
        links=config.metrics.gpu_links,
        processes=config.metrics.gpu_processes,
    )
    with contextlib.ExitStack() as stack:
        reserved = reserve(config.metrics, stack, run=config.metrics.run_name or "")
        stack.enter_context(monitor).wait()
        log.info(
            "simulating %r: %d files on %d GPUs at %g times real speed; a worker counts as stalled"
            " after %g s",
            *(chosen.scenario, chosen.files, chosen.gpus, chosen.speed, settings.stall_threshold),
        )
        shown = show(config.views, config.metrics, reserved, stack, newest, monitor, Path())
        signals = stack.enter_context(RunSignals(newest.stop, newest.stop))
        for number in itertools.count(1):
            snapshot = newest.run.to_its_end(signals)
            rest = min(_REST_SECONDS, _REST_SECONDS * _REST_SPEED / chosen.speed)
            if signals.caught or not chosen.forever or not newest.run.pool.rest(rest):
                break
            newest.run = run(number)
        signals.detach()
        shown.dashboard.stop()
        tell(Finished(snapshot, 0))
        if not signals.caught:
            linger(config.metrics, signals, shown.server)
        return snapshot


class SimulatedRun:
    """A run over the files of one batch, with workers, a clock and a history of its own.

    Args:
        coordinator: Decides.
        workers: What its workers do, and when.
        pool: Has them do it.
        files: Of the batch.
    """

    def __init__(
        self,
        coordinator: WorkStealingCoordinator,
        workers: VirtualWorkers,
        pool: VirtualPool,
        files: Sequence[SequenceFile],
    ) -> None:
        self.workers = workers
        self.pool = pool
        self._coordinator = coordinator
        gpus = [worker.gpu for worker in coordinator.latest().workers]
        self._runner = Runner(coordinator, pool, gpus, NoResults(), None)
        self._files = files
        coordinator.expect(len(files))

    def latest(self) -> RunSnapshot:
        """How it stands."""
        return self._coordinator.latest()

    def stop(self) -> None:
        """End it at once; for handlers of signals."""
        self._runner.stop()

    def to_its_end(self, signals: RunSignals) -> RunSnapshot:
        """Do all files, or what there is time for until a signal comes."""
        if not signals.caught:
            self._runner.run(self._files)
        is_whole = self._coordinator.snapshot().state is RunState.COMPLETED
        result = RunResult.COMPLETED if is_whole else RunResult.FAILED
        return self._coordinator.conclude(RunResult.INTERRUPTED if signals.caught else result, 0)


class NewestRun:
    """Where views find the newest of the runs that follow each other.

    What an earlier run remembered goes with it, so that an endless simulation does not grow.

    Attributes:
        run: The newest.
    """

    def __init__(self, run: SimulatedRun) -> None:
        self.run = run

    def latest(self) -> RunSnapshot:
        """How the newest run stands."""
        return self.run.latest()

    def stop(self) -> None:
        """End it at once; for handlers of signals."""
        self.run.stop()


def simulate_machines(config: SimulateConfig) -> int:
    """Run a simulation for each machine, in a process of its own, until they end or a signal comes.

    The scenario befalls the first machine; on the others nothing goes wrong.

    Returns:
        The exit status of the first one that failed; 0 if all went well.

    Raises:
        UsageError: They would all write to one file or to one group of a Pushgateway.
    """
    metrics = config.metrics
    shared = {
        "--metrics-log": config.views.metrics_log,
        "--textfile": metrics.textfile,
        "--push-gateway": metrics.push_gateway,
    }
    for option, value in shared.items():
        if value:
            raise UsageError(f"--machines and {option}: all would write to one place; remove one")
    context = multiprocessing.get_context("fork")
    machines = [
        context.Process(target=_machine, args=(config, number), daemon=True)
        for number in range(config.simulated.machines)
    ]
    for machine in machines:
        machine.start()
    over = ending()
    while not over.wait(_LOOK_SECONDS) and any(m.exitcode is None for m in machines):
        if any(m.exitcode for m in machines):
            break
    for machine in machines:
        machine.terminate()
    for machine in machines:
        machine.join()
    return next((abs(m.exitcode) for m in machines if m.exitcode), 0)


def _machine(config: SimulateConfig, number: int) -> None:
    """One of several machines, in its process: its own seed, port and prefix of its log lines."""
    make = logging.getLogRecordFactory()

    def named(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        record.msg = f"machine {number + 1}: {record.msg}"
        return record

    logging.setLogRecordFactory(named)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    chosen, metrics = config.simulated, config.metrics
    scenario = chosen.scenario if number == 0 else "balanced"
    addresses = [_moved(address, number) for address in metrics.web_listen_address]
    try:
        simulate(
            config.model_copy(
                update={
                    "simulated": chosen.model_copy(
                        update={"seed": chosen.seed + number, "scenario": scenario}
                    ),
                    "views": config.views.model_copy(update={"dashboard": False}),
                    "metrics": metrics.model_copy(update={"web_listen_address": addresses}),
                }
            )
        )
    except VirnucproError as error:
        log.error("%s", error)  # noqa: TRY400 - one clear line, no traceback
        raise SystemExit(error.exit_code) from None


def _moved(address: str, number: int) -> str:
    """An address with a port so many higher; port 0 stays: the system chooses."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number if int(port) else 0}"


def _end_with_parent() -> None:
    """End when the process that started this one is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


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
