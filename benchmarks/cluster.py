"""What it costs to run on a Dask cluster, and what it brings over `client.map`.

The nodes are processes of this machine, each with a Dask worker per virtual GPU; files are sleeps.
The clock starts when all worker processes are ready.

1. Files of 100 ms on four workers: makespan on Dask over that of the local pool, in turns.
2. 64 virtual GPUs on 8 nodes, 100 files a second: processor time of the process of the run, with
   its journal, the table, the log and a scrape a second.
3. Processor time of the run while no file ends, and how many short files a second go through Dask
   workers.
4. The files of `benchmarks.processes` (50 of lognormal(1.5) durations, declared costs up to 30 %
   off) on four nodes, beside `Client.map`, largest first, on the same Dask workers: all alike; two
   of a GPU model that is known to be half as fast; and one that turns out to run at 0.3x. The bound
   is that of the balance benchmark: no run can be sooner.
5. The same, all alike, and one of the nodes is killed in the middle.

Run: python -m benchmarks.cluster [--instances 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, get_worker, wait

from benchmarks.dispatch import watched
from benchmarks.processes import (
    CASES,
    FILES,
    SLOW_SPEED,
    Instance,
    Sleeper,
    make_instance,
    sleep,
)
from benchmarks.warm import WarmPool
from virnucpro_exporter.app.processor import FACTORY
from virnucpro_exporter.cluster.agent import Job
from virnucpro_exporter.cluster.connect import existing
from virnucpro_exporter.cluster.letters import Place
from virnucpro_exporter.cluster.nodes import NodeGpus
from virnucpro_exporter.cluster.pool import DaskPool
from virnucpro_exporter.config import run_config
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.events import WorkerJoined
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.simulation import lower_bound
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.workers.pool import WorkerPool

ROOT = Path(__file__).parents[1]
SHORT_SECONDS = 0.1
SHORT_FILES = 400
RESIDUES_PER_SECOND = 10_000  # of the sleeping processor
MANY_NODES, GPUS_PER_NODE = 8, 8
NODES_TOGETHER = 16  # in one process, where agents are feigned
RATE = 100.0  # files per second
RATE_SECONDS = 60.0
MEAN_SECONDS = 0.4
SLEEPER = "benchmarks.processes:Sleeper"


class OnMixed(Sleeper):
    """On two nodes with a slower model of GPU."""

    speeds: tuple[float, ...] = (1.0, 1.0, 0.5, 0.5)

    def setup(self, gpu: str) -> None:
        """Learn from the name how fast this worker is."""
        self.speed = self.speeds[number_of(gpu)]


class OnSlow(OnMixed):
    """On a node that is slower than its model."""

    speeds = (SLOW_SPEED, 1.0, 1.0, 1.0)


def number_of(name: str) -> int:
    """The number of a node, from the name of one of its workers."""
    return int(name.removeprefix("node").partition("/")[0].partition("-")[0])


class VirtualNode:
    """A node whose Dask workers are CPU slots, with as many GPUs to watch."""

    def place(self) -> Place:
        """A CPU slot."""
        return Place(None, "CPU", "")

    def gpus(self) -> GpuSnapshot:
        """All of them, read just now."""
        now = time.time()
        sample = GpuSample(now, utilization_ratio=0.5, power_watts=300.0, temperature_celsius=60.0)
        devices = [GpuDevice(str(i), up=True, sample=sample) for i in range(GPUS_PER_NODE)]
        return GpuSnapshot(now, "nvitop", tuple(devices))

    def close(self) -> None:
        """Nothing is watched."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the scheduler is, and the processes of the nodes."""

    address: str
    nodes: Sequence[subprocess.Popen[bytes]]
    workers: int


@contextmanager
def cluster(nodes: int, gpus: int, *words_of_nodes: str, together: int = 1) -> Iterator[Cluster]:
    """A scheduler and nodes, until the end of the context.

    Args:
        nodes: How many.
        gpus: Of each node.
        words_of_nodes: `feigned`, or nothing.
        together: How many nodes share a process.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(*words: str) -> subprocess.Popen[bytes]:
            with (folder / "log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *words], cwd=ROOT, stdout=log, stderr=log
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        file = folder / "scheduler.json"
        start(
            "distributed.cli.dask_scheduler",
            "--host=127.0.0.1",
            "--port=0",
            "--no-dashboard",
            f"--scheduler-file={file}",
        )
        while not file.exists():
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        names = [f"node{number}" for number in range(nodes)]
        started = [
            start("benchmarks.virtual_node", address, str(gpus), *some, *words_of_nodes)
            for some in (names[at : at + together] for at in range(0, nodes, together))
        ]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(nodes * gpus)
        yield Cluster(address, started, nodes * gpus)


@dataclass(slots=True)
class Took:
    """How long a run took, and what it took of its own process, in seconds."""

    wall: float
    processor: float


MakePool = Callable[[Outputs, str, ExitStack], "tuple[WorkerPool, Sequence[str]]"]


def local_pool(workers: int) -> MakePool:
    """Processes of this machine."""

    def make(outputs: Outputs, target: str, stack: ExitStack) -> tuple[WorkerPool, Sequence[str]]:
        gpus = [f"cpu{number}" for number in range(workers)]
        spec = {"kind": "python", "target": target}
        pins: dict[str, dict[str, str]] = {gpu: {} for gpu in gpus}
        pool = LocalPool(spec, FACTORY, outputs.attempts, outputs.logs, pins)
        stack.callback(pool.close)
        return pool, gpus

    return make


def dask_pool(on: Cluster) -> MakePool:
    """All workers of a cluster."""

    def make(outputs: Outputs, target: str, stack: ExitStack) -> tuple[WorkerPool, Sequence[str]]:
        probe = outputs.hidden / "probe"
        probe.write_text("here")
        job = Job(
            spec={"kind": "python", "target": target},
            factory=FACTORY,
            node="benchmarks.cluster:VirtualNode",
            attempts=str(outputs.attempts),
            logs=str(outputs.logs),
            folder=str(ROOT),
            probe=str(probe),
            token="here",  # noqa: S106 - no secret
            lease=60.0,
        )
        pool = DaskPool(lambda: existing(on.address, None), job, gpus=NodeGpus())
        stack.callback(pool.close)
        joined = pool.wait_for_workers()
        while len(joined) < on.workers:
            joined += [event for event in pool.poll(0.1) if isinstance(event, WorkerJoined)]
        return pool, sorted(event.worker_id for event in joined)

    return make


def ours(
    make: MakePool,
    files: Sequence[SequenceFile],
    target: str = SLEEPER,
    *,
    weights: Sequence[float] = (),
    is_whole: bool = False,
    beside: Callable[[], None] = lambda: None,
) -> Took:
    """Run the files.

    Args:
        make: The pool.
        files: To be slept through.
        target: The processor.
        weights: The speed that is expected of each worker; all the same when empty.
        is_whole: With journal, table, log and a scrape a second.
        beside: Begins when the workers are started.

    Raises:
        RuntimeError: Not all files were completed.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        outputs = Outputs(folder)
        outputs.prepare()
        pool, gpus = make(outputs, target, stack)
        settings = run_config({"dask": "x"} if isinstance(pool, DaskPool) else {})
        expected = dict(zip(gpus, weights or [1.0] * len(gpus), strict=True))
        coordinator = WorkStealingCoordinator(expected, settings=settings.scheduler_settings())
        journal = None
        if is_whole:
            stack.enter_context(watched(coordinator, folder))
            journal = stack.enter_context(closing(Journal(outputs, fresh=True)))
            journal.plan([InputFile(file.path, 1, 1) for file in files])
            journal.begin(coordinator.run_id, {}, time.time())
        warm = WarmPool(pool, len(gpus))
        beside()
        Runner(coordinator, warm, gpus, outputs, journal).run(files)
        wall = time.perf_counter() - warm.all_ready
        processor = time.process_time() - warm.processor_seconds
        done = coordinator.snapshot().files_completed
        if done != len(files):
            raise RuntimeError(f"{done} of {len(files)} files were completed")
        return Took(wall, processor)


def sleep_on_dask(name: str, speeds: Sequence[float]) -> int:
    """A file of the peer."""
    return sleep(name, speeds[number_of(str(get_worker().name))])


def peer(
    on: Cluster,
    instance: Instance,
    speeds: Sequence[float],
    beside: Callable[[], None] = lambda: None,
) -> float:
    """Seconds of `Client.map`, its files largest first.

    Raises:
        RuntimeError: Not all files were completed.
    """
    with Client(on.address) as client:
        begin = time.perf_counter()
        beside()
        # Largest first, as declared: so a user of Dask would submit them.
        ordered = sorted(instance.files, key=lambda file: -file.residues)
        names = [file.name for file in ordered]
        futures = client.map(sleep_on_dask, names, speeds=speeds, pure=False)
        done = wait(futures).done
        seconds = time.perf_counter() - begin
        if sum(future.status == "finished" for future in done) != FILES:
            raise RuntimeError("files are left")
        return seconds


def even_files(count: int, seconds: float) -> list[SequenceFile]:
    """Files that all take as long."""
    residues = round(seconds * RESIDUES_PER_SECOND)
    return [SequenceFile(f"/virtual/{n}/{residues}-{residues}", 1, residues) for n in range(count)]


def verdict(*, is_met: bool) -> str:
    """What is printed behind a goal."""
    return "" if is_met else " MISSED"


def measure_overhead(rounds: int) -> None:
    """Print by how much Dask makes a run longer."""
    files = even_files(SHORT_FILES, SHORT_SECONDS)
    ratios = []
    with cluster(4, 1) as on:
        for _ in range(rounds):
            here = ours(local_pool(4), files).wall
            there = ours(dask_pool(on), files).wall
            ratios.append(there / here)
    ratio = statistics.median(ratios)
    print(f"{SHORT_FILES} files of {SHORT_SECONDS:g} s on 4 workers, median of {rounds}")
    print(
        f"Dask / local pool: {ratio:.4f} ({min(ratios):.4f} to {max(ratios):.4f}), goal 1.01",
        end="",
    )
    print(verdict(is_met=ratio <= 1.01), flush=True)


def measure_load() -> None:
    """Print what the run's own process needs for a hundred files a second."""
    gpus = MANY_NODES * GPUS_PER_NODE
    files = even_files(int(RATE * RATE_SECONDS), gpus / RATE)
    with cluster(MANY_NODES, GPUS_PER_NODE) as on:
        took = ours(dask_pool(on), files, is_whole=True)
    share = took.processor / took.wall
    print(f"\n{gpus} virtual GPUs on {MANY_NODES} nodes, {len(files) / took.wall:.0f} files/s")
    print(f"processor time of the run: {share:.1%} of one core, goal 20 %", end="")
    print(verdict(is_met=share < 0.2))
    print(f"{took.processor / len(files) * 1e3:.2f} ms per file", flush=True)


class Measured(threading.Thread):
    """Takes the processor time of the process while a run goes on.

    Args:
        runner: What it goes on.
        warm: Whether all workers are ready.
        seconds: For how long.
        settle: And how long after all have begun.
    """

    def __init__(self, runner: Runner, warm: WarmPool, seconds: float, settle: float = 5.0) -> None:
        super().__init__(daemon=True)
        self.share = 0.0
        self._warm = warm
        self._runner, self._seconds, self._settle = runner, seconds, settle

    def run(self) -> None:
        """Measure once, and end the run."""
        while not self._warm.all_ready:
            time.sleep(0.1)
        time.sleep(self._settle)
        begin, used = time.perf_counter(), time.process_time()
        time.sleep(self._seconds)
        self.share = (time.process_time() - used) / (time.perf_counter() - begin)
        self._runner.stop()


def quiet_share(nodes: int, seconds: float) -> float:
    """Processor time of the run, as a share of a core, while all work and no file ends."""
    workers = nodes * GPUS_PER_NODE
    with (
        cluster(nodes, GPUS_PER_NODE, "feigned", together=NODES_TOGETHER) as on,
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        outputs = Outputs(folder)
        outputs.prepare()
        pool, gpus = dask_pool(on)(outputs, SLEEPER, stack)
        settings = run_config({"dask": "x"}).scheduler_settings()
        coordinator = WorkStealingCoordinator(dict.fromkeys(gpus, 1.0), settings=settings)
        warm = WarmPool(pool, workers)
        runner = Runner(coordinator, warm, gpus, outputs, None)
        measured = Measured(runner, warm, seconds)
        measured.start()
        runner.run(even_files(workers, 100_000.0))
        measured.join()
        return measured.share


def measure_quiet(nodes: Sequence[int], seconds: float) -> None:
    """Print what the run needs while no file ends, and what follows for many more GPUs."""
    print(f"\nno file ends: feigned agents, {GPUS_PER_NODE} on each node, over {seconds:g} s")
    points = []
    for count in nodes:
        share = quiet_share(count, seconds)
        points.append((count * GPUS_PER_NODE, share))
        print(
            f"{count * GPUS_PER_NODE:>6} GPUs on {count} nodes: {share:.2%} of a core", flush=True
        )
    slope, start = statistics.linear_regression(*zip(*points, strict=True))
    for gpus, goal in ((1024, 0.1), (10_000, 1.0)):
        share = start + slope * gpus
        line = f"{gpus:>6} GPUs by the slope: {share:.1%} of a core, goal {goal:.0%}"
        print(line + verdict(is_met=share <= goal), flush=True)


def measure_rate(nodes: int, files: int, seconds: float) -> None:
    """Print how many short files a second go through Dask workers."""
    gpus = nodes * GPUS_PER_NODE
    with cluster(nodes, GPUS_PER_NODE, "feigned") as on:
        took = ours(dask_pool(on), even_files(files, seconds))
    rate = files / took.wall
    print(f"\n{files} files of {seconds * 1e3:g} ms on {gpus} feigned agents of {nodes} nodes:")
    print(f"{rate:.0f} files/s, goal 2,000", end="")
    print(verdict(is_met=rate >= 2000))
    print(f"{took.processor / files * 1e3:.2f} ms of processor time per file", flush=True)


def measure_balance(instances: int) -> None:
    """Print both makespans over the bound."""
    alike = (1.0,) * 4
    print(f"\n{FILES} files of {MEAN_SECONDS:g} s on average, 4 nodes, beside Client.map")
    print(f"{'':<14} {'ours/bound':>11} {'map/bound':>11} {'map/ours':>10} {'least':>7}  goal")
    with cluster(4, 1) as on:
        for name, target, speeds, weights, goal in (
            ("all alike", SLEEPER, alike, alike, 0.99),
            ("two at 0.5x", "benchmarks.cluster:OnMixed", OnMixed.speeds, OnMixed.speeds, 0.99),
            ("one at 0.3x", "benchmarks.cluster:OnSlow", OnSlow.speeds, alike, 1.2),
        ):
            rows = []
            for seed in range(instances):
                instance = make_instance(CASES[0], seed, MEAN_SECONDS)
                bound = lower_bound(instance.work, [s * RESIDUES_PER_SECOND for s in speeds])
                mine = ours(dask_pool(on), instance.files, target, weights=weights).wall
                theirs = peer(on, instance, speeds)
                rows.append((mine / bound, theirs / bound, theirs / mine))
            mine, theirs, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
            least = min(row[2] for row in rows)
            line = f"{name:<14} {mine:>11.3f} {theirs:>11.3f} {ratio:>10.3f} {least:>7.3f}  {goal}"
            is_met = least >= 0.99 and ratio >= goal
            print(line + verdict(is_met=is_met), flush=True)


def measure_kill() -> None:
    """Print how long both take when a node dies in the middle; both have to do all files."""
    instance = make_instance(CASES[0], 0, MEAN_SECONDS)
    half = lower_bound(instance.work, [RESIDUES_PER_SECOND] * 4) / 2

    def killing(on: Cluster, after: float) -> Callable[[], None]:
        timer = threading.Timer(after, on.nodes[0].kill)
        return timer.start

    with cluster(4, 1) as on:
        # Its processes need about a second to be ready.
        mine = ours(dask_pool(on), instance.files, beside=killing(on, half + 1.0)).wall
    with cluster(4, 1) as on:
        theirs = peer(on, instance, [1.0] * 4, beside=killing(on, half))
    print(f"\none of 4 nodes is killed after about {half:.1f} s: all {FILES} files are done")
    print(f"in {mine:.1f} s by this package, and in {theirs:.1f} s by Client.map", flush=True)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measure_overhead(options.rounds)
    measure_load()
    measure_quiet((4, 8, 16, 32), 20.0)
    measure_rate(8, 20_000, 0.02)
    measure_balance(options.instances)
    measure_kill()


if __name__ == "__main__":
    main()
