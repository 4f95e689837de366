"""What it costs to show the runs of a machine: a scrape of `serve`, finding runs, being watched.

python -m benchmarks.runs
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests import builders
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.metrics import build_registry
from virnucpro_exporter.metrics.exposition import Format, render
from virnucpro_exporter.registry.announcement import Announcement
from virnucpro_exporter.registry.finder import ASK_SECONDS, RunFinder
from virnucpro_exporter.registry.record import Record, encode
from virnucpro_exporter.registry.storage import RunStorage
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.snapshot import Latest, RunSnapshot

WATCHED_SECONDS = 20.0


def run(number: int, gpus: int) -> RunSnapshot:
    """A run in full swing."""
    return replace(builders.running(gpus), name=f"run-{number}")


def scrape_seconds(runs: Sequence[RunSnapshot] | None) -> float:
    """Processor time of one scrape with eight GPUs; of one run alone when None."""
    gpus = Latest(builders.gpus_up(8))
    if runs is None:
        registry = build_registry(Latest(run(0, 8)), gpus)
    else:
        registry = build_registry(None, gpus, runs=Latest(tuple(runs)))
    times = []
    for _ in range(60):
        began = time.process_time()
        render(registry.collect(), Format.TEXT)
        times.append(time.process_time() - began)
    return statistics.median(times)


def announce(folder: str, count: int) -> None:
    """Announce runs on two GPUs each until standard input ends; for a process of its own."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            state = run(number, 2)
            made = Announcement(Path(folder), f"{number:012x}", Latest(state).latest)
            stack.callback(made.close, state)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()


@contextlib.contextmanager
def announced(folder: Path, count: int) -> Iterator[None]:
    """So many runs in a process of their own."""
    words = [sys.executable, "-m", "benchmarks.runs", str(folder), str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdout.readline()
        yield
        process.stdin.close()


def finding_share(folder: Path, count: int) -> float:
    """Share of a core that finding and following runs takes."""
    with announced(folder, count):
        finder = RunFinder([folder], 86400.0, RunStorage(folder / "state"))
        finder.start()
        time.sleep(3)
        assert len(finder.live()) == count  # noqa: S101 - or nothing is measured
        began = time.process_time()
        time.sleep(WATCHED_SECONDS)
        share = (time.process_time() - began) / WATCHED_SECONDS
        finder.stop()
    return share


def answer_seconds() -> float:
    """Processor time that a run on eight GPUs takes to answer once."""
    coordinator = WorkStealingCoordinator([str(n) for n in range(8)], name="run")
    coordinator.submit(SequenceFile(f"/{n}.fa", residues=n) for n in range(1000))
    for number in range(8):
        coordinator.next_file(str(number))
    times = []
    for _ in range(200):
        began = time.process_time()
        encode(Record(coordinator.snapshot()))
        times.append(time.process_time() - began)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    alone = scrape_seconds(None)
    print(f"scrape of one run on 8 GPUs: {1e3 * alone:.2f} ms of processor time")
    for runs, gpus in ((4, 2), (4, 8)):
        one = scrape_seconds([run(n, gpus) for n in range(runs)])
        print(
            f"scrape of serve, {runs} runs on {gpus} GPUs each: {1e3 * one:.2f} ms,"
            f" {one / alone:.2f} x"
        )
    with tempfile.TemporaryDirectory() as folder:
        print(f"finding 4 runs: {100 * finding_share(Path(folder), 4):.2f} % of a core")
    answer = answer_seconds()
    share = answer / ASK_SECONDS
    print(f"a run is asked every {ASK_SECONDS:g} s: {1e3 * answer:.2f} ms, {share:.3%} of a core")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        announce(sys.argv[1], int(sys.argv[2]))
    else:
        main()
