"""How many files a second go through two worker processes, beside what Python itself offers.

Every contender gives 20,000 file names one by one to two spawned processes that do nothing with
them, and takes 20,000 results back; in turns, three times each, the median counts. This package
balances, steals, learns speeds, watches for stalls and publishes snapshots meanwhile.

Process start-up is left out for all: the clock starts when both workers have answered. This
package plans the whole run before its workers start, so that time is added to its own. Its journal,
where it is on, is created before and written to the end within the measured time.

Then the idle gap: how long a worker waits between two files of 5 ms each, while the live table is
drawn every 2 s, the log is written every 5 s, and another process scrapes the endpoint each second.

Run: python -m benchmarks.dispatch
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.warm import WarmPool
from virnucpro_exporter.app.processor import FACTORY
from virnucpro_exporter.app.run import SWITCH_SECONDS
from virnucpro_exporter.config import RunConfig
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.snapshot import GpuSnapshot, Latest
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard
from virnucpro_exporter.web.server import MetricsServer
from virnucpro_exporter.workers.local_pool import LocalPool

FILES = 20_000
WORKERS = ("cpu0", "cpu1")
ROUNDS = 3
GAP_FILES = 2000
PATHS = [f"/nowhere/{index:06}.fa" for index in range(FILES)]
SPAWN = multiprocessing.get_context("spawn")
Watch = Callable[[WorkStealingCoordinator, str], AbstractContextManager[None]]


class Noop:
    """Does nothing and leaves nothing."""

    def output_names(self, file: Path) -> Sequence[str]:
        """None."""
        del file
        return ()

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Report that the file held one residue."""
        del file, output, progress
        return Processed(1, 1)


class FiveMilliseconds(Noop):
    """Takes 5 ms, and prints how long ago the file before ended to the worker's log."""

    def __init__(self) -> None:
        self._ended: float | None = None

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Sleep; printing belongs to the file's own time, not to the gap."""
        if self._ended is not None:
            print(time.perf_counter() - self._ended)
        time.sleep(0.005)
        done = super().process(file, output, progress)
        self._ended = time.perf_counter()
        return done


SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(1.0)
"""


@contextmanager
def watched(coordinator: WorkStealingCoordinator, folder: str) -> Iterator[None]:
    """The run is drawn, logged, served and scraped, as it is by default."""
    sys.setswitchinterval(SWITCH_SECONDS)
    with ExitStack() as stack:
        screen = Console(file=stack.enter_context(Path(os.devnull).open("w")), force_terminal=True)
        gpus = Latest(GpuSnapshot(time.time()))
        log = Path(folder) / "gpu_metrics.log"
        stack.enter_context(LoadBalancingDashboard(coordinator, gpus, log_file=log, console=screen))
        server = stack.enter_context(MetricsServer(coordinator, listen=["127.0.0.1:0"]))
        scraper = subprocess.Popen([sys.executable, "-c", SCRAPER, server.urls[0]])
        stack.callback(scraper.wait)
        stack.callback(scraper.kill)
        yield


def this_package(
    target: str,
    paths: Sequence[str],
    folder: str,
    *,
    is_journaled: bool = False,
    beside: Watch | None = None,
    settings: SchedulerSettings | None = None,
) -> float:
    """Seconds for planning and running the files, in a folder.

    Args:
        target: The class of the processor, in this module.
        paths: The names of the files.
        folder: For all that a run writes.
        is_journaled: With a journal.
        beside: What watches the run meanwhile.
        settings: Those of `run` where none are given.

    Raises:
        RuntimeError: Not all files were completed.
    """
    files = [SequenceFile(path, 1, 1) for path in paths]
    outputs = Outputs(folder)
    outputs.prepare()
    coordinator = WorkStealingCoordinator(
        WORKERS, settings=settings or RunConfig().scheduler_settings()
    )
    with ExitStack() as stack:
        if beside is not None:
            stack.enter_context(beside(coordinator, folder))
        journal = None
        if is_journaled:
            journal = stack.enter_context(closing(Journal(outputs, fresh=True)))
            journal.plan([InputFile(path, 1, 1) for path in paths])
            journal.begin(coordinator.run_id, {}, time.time())
        spec = {"kind": "python", "target": f"benchmarks.dispatch:{target}"}
        pins: dict[str, dict[str, str]] = {gpu: {} for gpu in WORKERS}
        pool = WarmPool(
            LocalPool(spec, FACTORY, outputs.attempts, outputs.logs, pins), len(WORKERS)
        )
        stack.callback(pool.close)
        begin = time.perf_counter()
        Runner(coordinator, pool, WORKERS, outputs, journal).run(files)
        end = time.perf_counter()
    done = coordinator.snapshot().files_completed
    if done != len(files):
        raise RuntimeError(f"{done} of {len(files)} files were completed")
    return (pool.first_spawn - begin) + (end - pool.all_ready)


def noop_run(*, is_journaled: bool) -> float:
    """Seconds of this package for the files that take no time."""
    with tempfile.TemporaryDirectory() as folder:
        return this_package("Noop", PATHS, folder, is_journaled=is_journaled)


def noop(path: str) -> tuple[str, int]:
    """What the peers do with a file."""
    return path, 1


def answer(_: int) -> int:
    """The id of this process; slow enough that another one gets the next request."""
    time.sleep(0.05)
    return os.getpid()


def warm(ask: Callable[[], Sequence[int]]) -> None:
    """Send requests until all workers have answered."""
    while len(set(ask())) < len(WORKERS):
        pass


def executor() -> float:
    """Seconds of `ProcessPoolExecutor.submit`."""
    with ProcessPoolExecutor(len(WORKERS), mp_context=SPAWN) as pool:
        warm(lambda: list(pool.map(answer, range(4))))
        begin = time.perf_counter()
        futures = [pool.submit(noop, path) for path in PATHS]
        for future in futures:
            future.result()
        return time.perf_counter() - begin


def imap() -> float:
    """Seconds of `Pool.imap_unordered(chunksize=1)`."""
    with SPAWN.Pool(len(WORKERS)) as pool:
        warm(lambda: pool.map(answer, range(4), chunksize=1))
        begin = time.perf_counter()
        for _ in pool.imap_unordered(noop, PATHS, chunksize=1):
            pass
        return time.perf_counter() - begin


def serve_queue(tasks: Any, results: Any) -> None:
    """A worker between two queues."""
    results.put(None)
    while (path := tasks.get()) is not None:
        results.put(noop(path))


def manager_queue() -> float:
    """Seconds of two `Manager().Queue`s, one for the files and one for the results."""
    with SPAWN.Manager() as manager:
        tasks, results = manager.Queue(), manager.Queue()
        workers = [SPAWN.Process(target=serve_queue, args=(tasks, results)) for _ in WORKERS]
        for worker in workers:
            worker.start()
        for _ in workers:
            results.get()
        begin = time.perf_counter()
        for path in PATHS:
            tasks.put(path)
        for _ in PATHS:
            results.get()
        seconds = time.perf_counter() - begin
        for _ in workers:
            tasks.put(None)
        for worker in workers:
            worker.join()
        return seconds


def idle_gaps() -> list[float]:
    """Seconds between the end of a file and the begin of the next one, sorted."""
    gaps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        this_package("FiveMilliseconds", PATHS[:GAP_FILES], folder, beside=watched)
        for log in Outputs(folder).logs.glob("worker-*.log"):
            gaps += map(float, log.read_text().splitlines())
    return sorted(gaps)


CONTENDERS: dict[str, Callable[[], float]] = {
    "journal off": functools.partial(noop_run, is_journaled=False),
    "journal on": functools.partial(noop_run, is_journaled=True),
    "ProcessPoolExecutor": executor,
    "Manager().Queue": manager_queue,
    "Pool.imap_unordered": imap,
}
GOALS = (
    ("journal off", "ProcessPoolExecutor", 4.0),
    ("journal off", "Manager().Queue", 3.0),
    ("journal off", "Pool.imap_unordered", 0.8),
    ("journal on", "ProcessPoolExecutor", 2.0),
)


def main() -> None:
    """Print the tables."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, contender in CONTENDERS.items():
            seconds[name].append(contender())
    rates = {name: FILES / statistics.median(taken) for name, taken in seconds.items()}
    print(f"{FILES:,} files through {len(WORKERS)} processes, median of {ROUNDS}")
    for name, rate in rates.items():
        print(f"{name:<20} {rate:>9,.0f} files/s")
    print()
    for ours, peer, goal in GOALS:
        ratio = rates[ours] / rates[peer]
        verdict = "" if ratio >= goal else "MISSED"
        print(f"{ours:<12} / {peer:<20} {ratio:>6.2f}x goal {goal:.1f}x {verdict}".rstrip())
    gaps = idle_gaps()
    median, p99 = statistics.median(gaps) * 1e6, gaps[int(0.99 * len(gaps))] * 1e6
    print("\nidle gap between 5 ms files, with the terminal, the log and a scrape a second")
    for name, found, goal in (("median", median, 60.0), ("p99", p99, 1000.0)):
        verdict = "" if found <= goal else "MISSED"
        print(f"{name:<6} {found:>6,.0f} us, goal {goal:>5,.0f} us {verdict}".rstrip())


if __name__ == "__main__":
    main()
