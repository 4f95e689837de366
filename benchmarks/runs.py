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

from benchmarks import dispatch
from tests import builders
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.metrics import build_registry
from virnucpro_exporter.metrics.exposition import Format, render
from virnucpro_exporter.registry.announcement import Announcement
from virnucpro_exporter.registry.finder import ASK_SECONDS, RunFinder
from virnucpro_exporter.registry.record import Record, encode
from virnucpro_exporter.registry.storage import RunStorage
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.snapshot import Latest, RunSnapshot

WATCHED_SECONDS = 20.0
FILES, PAIRS = 10_000, 9
OFTEN_SECONDS = 0.005  # between two questions, so that what one costs can be seen

ASKER = """
import socket, struct, sys, time
with socket.socket(socket.AF_UNIX) as run:
    run.connect(sys.argv[1])
    answers = run.makefile("rb")
    while True:
        run.sendall(b"?")
        answers.read(*struct.unpack(">I", answers.read(4)))
        time.sleep(float(sys.argv[2]))
"""


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


def watched_loss() -> tuple[float, float]:
    """How much more processor time a run of files that take no time takes when it is watched.

    It is asked far more often than by `serve`, and what one question costs is set against the time
    between two of its questions. The run is announced in both halves of a pair.

    Returns:
        The median, as a share of one; and what the middle half of the pairs lies within, each way.
    """
    paths = [f"/nowhere/{number:06}.fa" for number in range(FILES)]
    settings = SchedulerSettings(second_attempts=False)

    def seconds(*, is_asked: bool) -> tuple[float, int]:
        taken, questions = 0.0, 0

        @contextlib.contextmanager
        def beside(coordinator: WorkStealingCoordinator, folder: str) -> Iterator[None]:
            nonlocal taken, questions

            def latest() -> RunSnapshot:
                nonlocal questions
                questions += 1
                return coordinator.snapshot()

            runs = Path(folder) / "runs"
            runs.mkdir(mode=0o700)
            announcement = Announcement(runs, "0" * 12, latest)
            words = [sys.executable, "-c", ASKER, f"{runs}/{'0' * 12}.sock", str(OFTEN_SECONDS)]
            asker = subprocess.Popen(words, stderr=subprocess.DEVNULL) if is_asked else None
            began = time.process_time()
            yield
            taken = time.process_time() - began
            if asker is not None:
                asker.kill()
                asker.wait()
            announcement.close(coordinator.snapshot())

        with tempfile.TemporaryDirectory() as folder:
            dispatch.this_package("Noop", paths, folder, beside=beside, settings=settings)
        return taken, questions

    losses = []
    for pair in range(PAIRS):
        taken = {
            is_asked: seconds(is_asked=is_asked) for is_asked in (bool(pair % 2), not pair % 2)
        }
        (asked, questions), (alone, _) = taken[True], taken[False]
        losses.append((asked - alone) / questions / ASK_SECONDS)
    low, middle, high = statistics.quantiles(losses, n=4)
    return middle, (high - low) / 2


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
    loss, spread = watched_loss()
    print(f"a run that is watched takes {loss:.3%} more processor time (+- {spread:.3%})")
    print(f"a run is asked every {ASK_SECONDS:g} s: {1e3 * answer:.2f} ms, {share:.3%} of a core")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        announce(sys.argv[1], int(sys.argv[2]))
    else:
        main()
