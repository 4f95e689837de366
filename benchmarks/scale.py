"""The load that 1,024 GPUs and a million files put on the one process that coordinates them.

A cluster of 128 nodes in virtual time (`virnucpro_exporter.simulation.VirtualCluster`) on the real
scheduler, run loop, journal, metrics, table and log. The workers alone are made up, so that talking
to them and renaming outputs are not in these figures. Files take ten seconds on average and are
lognormal distributed. Nodes join late, leave and return; GPUs are slow, freeze and crash; files
fail.

All times are processor time, which a machine that is busy with other things disturbs little. Those
of the run include garbage collection. It takes about six minutes and 1 GB of memory.

Run: python -m benchmarks.scale [--nodes 128] [--files 1000000]
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.scale_views import MIB, Views, cpu, rss, show
from virnucpro_exporter.app.run import keep_pace
from virnucpro_exporter.app.simulate import NoResults
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.schema import Change
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Decisions, Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.simulation import VirtualCluster, VirtualPool, timeless

T = TypeVar("T")
POINTS = {"beginning": 0.01, "middle": 0.5, "end": 0.999}  # shares of the files that are done
_BIN = 1e-5  # seconds


@dataclass
class Spent:
    """Processor time of one kind of work, in seconds, and how it is spread."""

    seconds: float = 0.0
    times: int = 0
    longest: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)

    def timed(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do a piece of work, and note how long it took."""
        begin = time.thread_time()
        result = work(*arguments)
        self.note(time.thread_time() - begin)
        return result

    def note(self, seconds: float) -> None:
        """A piece of work took so long."""
        self.seconds += seconds
        self.times += 1
        self.longest = max(self.longest, seconds)
        self.bins[int(seconds / _BIN)] += 1

    def quantile(self, share: float) -> float:
        """Seconds within which this share of all pieces was done."""
        left = self.times * (1.0 - share)
        for number in sorted(self.bins, reverse=True):
            left -= self.bins[number]
            if left < 0:
                return (number + 1) * _BIN
        return 0.0


class Phase:
    """Where the processor time of a part of the run goes."""

    def __init__(self) -> None:
        self.decisions, self.journal, self.workers, self.garbage = (Spent() for _ in range(4))
        self.events = 0
        self._began = time.thread_time()

    def loop(self) -> float:
        """Seconds of the run loop: all but what the virtual workers took."""
        return time.thread_time() - self._began - self.workers.seconds


class Coordinator(WorkStealingCoordinator):
    """Notes how long decisions take, and how often each file was done."""

    phase: Phase
    done: bytearray  # how often, by the number of the file
    completed = 0

    def handle(self, events: Iterable[ev.Event]) -> Decisions:
        """Decide."""
        events = list(events)
        self.phase.events += len(events)
        decisions = self.phase.decisions.timed(super().handle, events)
        for fact in decisions.facts:
            if isinstance(fact, fa.FileCompleted):
                self.done[int(fact.file.name.partition(".")[0])] += 1
                self.completed += 1
        return decisions


class TimedJournal(Journal):
    """Notes how long writing takes."""

    phase: Phase

    def record(self, changes: Iterable[Change], now: float, offset: float = 0.0) -> None:
        """Write."""
        self.phase.journal.timed(super().record, changes, now, offset)


class TimedPool(VirtualPool):
    """Notes how long the virtual workers take, and calls `look` now and then."""

    phase: Phase
    look: Callable[[], None]

    def poll(self, timeout: float | None) -> list[ev.WorkerEvent]:
        """The next event."""
        self.look()
        return self.phase.workers.timed(super().poll, timeout)

    def start(self, worker_id: str, actions: Sequence[co.StartAttempt]) -> None:
        """Hand files to a worker."""
        self.phase.workers.timed(super().start, worker_id, actions)


def memory_of_files(count: int, gpus: int) -> None:
    """Print what a waiting file takes; in a process of its own, where nothing else changes."""
    rng = random.Random(1)
    before = rss()
    sizes = (max(1, int(rng.lognormvariate(13.0, 1.5))) for _ in range(count))
    files = tuple(
        SequenceFile(f"/scratch/project/reads/{i:06}.fa", 1000 + size // 500, size)
        for i, size in enumerate(sizes)
    )
    named = rss()
    scheduler = Scheduler({str(gpu): 1.0 for gpu in range(gpus)})
    scheduler.handle(ev.FilesSubmitted(files), 0.0)
    show("memory of a file, its path and size", (named - before) * MIB / count, unit="bytes")
    show("memory of its place in a queue", (rss() - named) * MIB / count, unit="bytes")


class Bench:
    """The run, and what is printed of it.

    Args:
        cluster: What is simulated.
        folder: For the journal and the log.
    """

    def __init__(self, cluster: VirtualCluster, folder: Path) -> None:
        self._cluster = cluster
        self._outputs = Outputs(folder)
        self._outputs.prepare()
        self._journal = TimedJournal(self._outputs)
        self._points = list(POINTS.items())
        weights = {gpu: cluster.weights[gpu] for gpu in cluster.at_start}
        self._pool = TimedPool(cluster.workers(), clock=timeless())
        self._coordinator = Coordinator(
            weights,
            names=cluster.names,
            settings=SchedulerSettings(on_stall=OnStall.RESTART),
            processor="simulated",
            clock=self._pool.now,
        )
        self._coordinator.done = bytearray(cluster.count)
        nodes = (gpu.partition("/")[0] for gpu in cluster.names)
        self._views = Views(self._coordinator, nodes, folder)
        self._pool.look = self._look
        self._seconds = 0.0  # of the run loop
        self._new_phase()

    def _new_phase(self) -> None:
        self._phase = phase = Phase()
        self._coordinator.phase = self._journal.phase = self._pool.phase = phase

    def _look(self) -> None:
        """Measure the views once a point of the run is reached."""
        if self._points:
            name, share = self._points[0]
            if self._coordinator.completed >= share * self._cluster.count:
                del self._points[0]
                self._print_phase(f"until the {name} ({share:.1%} of the files are done)")
                self._views.measure()
                self._new_phase()

    def _collected(self, step: str, info: Mapping[str, int]) -> None:
        """Note how long the garbage collector takes over old objects."""
        if info["generation"] == 2:
            if step == "start":
                self._garbage_began = time.thread_time()
            else:
                self._phase.garbage.note(time.thread_time() - self._garbage_began)

    def _print_phase(self, title: str) -> None:
        phase, loop = self._phase, self._phase.loop()
        one, journal = phase.decisions, phase.journal
        virtual = self._pool.now()
        print(f"\n{title}, {virtual:,.0f} s of the run", flush=True)
        show("events", phase.events, f"in {one.times:,} turns of the loop", unit="")
        show("decisions", phase.events / one.seconds, unit="a second")
        spread = f"99.9 % within {1000 * one.quantile(0.999):.2f} ms"
        spread += f", the longest {1000 * one.longest:.0f} ms"
        show("a decision", 1000 * one.seconds / one.times, spread)
        show("a transaction of the journal", 1000 * journal.seconds / max(1, journal.times))
        show("the whole loop", phase.events / loop, "events", unit="a second")
        self._seconds += loop
        pauses = f"{phase.garbage.times} times, the longest {1000 * phase.garbage.longest:.0f} ms"
        show("garbage collection", 1000 * phase.garbage.seconds, pauses)
        show("memory", rss(), unit="MiB")

    def run(self) -> None:
        """Play the run to its end and print what it took.

        Raises:
            RuntimeError: A file was not done, or twice.
        """
        self._print_plan("journal of a new run")
        self._journal.begin(self._coordinator.run_id, {}, time.time())
        gc.callbacks.append(self._collected)
        runner = Runner(
            self._coordinator, self._pool, self._cluster.at_start, NoResults(), self._journal
        )
        self._new_phase()
        runner.run(self._cluster.inputs[0])
        gc.callbacks.remove(self._collected)
        self._print_phase("until every file was done")
        self._print_outcome()
        self._print_plan("journal of a run that resumes")

    def _print_plan(self, what: str) -> None:
        files, work = self._cluster.inputs
        sources = [InputFile(file.path, work[file.path], 0) for file in files]
        taken = cpu(lambda: self._journal.plan(sources), times=1)
        size = self._outputs.journal.stat().st_size / MIB
        show(what, taken / 1000, f"{size:,.0f} MiB on disk", unit="s")

    def _print_outcome(self) -> None:
        run, bound = self._coordinator.snapshot(), self._cluster.lower_bound()
        times = Counter(self._coordinator.done)
        if times != {1: self._cluster.count}:
            raise RuntimeError(f"how often files were done: {times}")
        print(f"\nall {run.files_completed:,} files were done once")
        show("makespan", run.elapsed_seconds, f"{run.elapsed_seconds / bound:.4f} x the bound", "s")
        share = f"{self._seconds / run.elapsed_seconds:.1%} of a core"
        show("processor time of the whole loop", self._seconds, share, "s")
        steals = sum(count for _, count in run.steals)
        show("steals", steals, f"{run.resteals:,} of a file stolen before", "")
        show("retries", run.retries, f"{sum(w.restarts for w in run.workers):,} restarts", "")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        show("peak of memory", peak, unit="MiB")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=128, help="of 8 GPUs (default: 128)")
    parser.add_argument("--files", type=int, default=1_000_000, help="default: 1000000")
    options = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())
    cluster = VirtualCluster(options.nodes, options.files)
    keep_pace()
    print(f"{len(cluster.names):,} GPUs, {cluster.count:,} files", flush=True)
    spawn = multiprocessing.get_context("spawn")
    apart = spawn.Process(target=memory_of_files, args=(cluster.count, len(cluster.names)))
    apart.start()
    apart.join()
    with tempfile.TemporaryDirectory() as folder:
        Bench(cluster, Path(folder)).run()


if __name__ == "__main__":
    main()
