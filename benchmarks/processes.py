"""How much sooner real runs end than those of a process pool, with and without a slow worker.

Four worker processes sleep through 50 files of lognormal(1.5) durations, whose declared costs are
up to 30 % off. In some of the runs one worker takes 1/0.3 as long for everything, or the seconds
per residue of a file are up to 20 % off and the declared costs are right, or workers report
sequences alone. The peer is `multiprocessing.Pool.imap_unordered` with a chunk size of 1, which
takes the files in their order, or by falling declared cost (LPT) where that is said.
Both clocks start when all workers are ready. Eight instances, each with both, in turn.

The bound is that of the balance benchmark: all work on all workers, or the largest file on the
fastest, whichever is longer. No schedule is sooner, so peer/ours cannot be more than peer/bound.

Two lines more: two workers with 8 equal files, of which one falls to 0.05 of its speed in the
middle of its last file (the clock of the scheduler goes 100 times as fast, so that its minutes are
short); and 8 commands on 4 workers that take twice the stall threshold and report nothing.

Run: python -m benchmarks.processes [--instances 8] [--mean 0.2]
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.warm import WarmPool
from virnucpro_exporter.app.processor import FACTORY, processor_spec
from virnucpro_exporter.config import Processor, RunConfig, Scheduling
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.simulation import lower_bound, skewed_files
from virnucpro_exporter.snapshot import RunSnapshot
from virnucpro_exporter.workers.local_pool import LocalPool

WORKERS = ("cpu0", "cpu1", "cpu2", "cpu3")
SLOW_SPEED = 0.3
FILES = 50
RESIDUES_PER_SECOND = 10_000
RESIDUES_PER_SEQUENCE = 10
STEP_SECONDS = 0.02

# Files of the throttled run: 600 s on a clock that goes 100 times as fast.
THROTTLED_SECONDS, THROTTLED_SPEED, CLOCK_RATE = 6.0, 0.05, 100.0

COMMAND_SECONDS, COMMANDS = 2.0, 8
SPAWN = multiprocessing.get_context("spawn")


def sleep(name: str, speed: float, progress: ProgressCallback | None = None) -> int:
    """Take as long as a worker of that speed needs, and report how far it is.

    Returns:
        The residues of the file.
    """
    effort, residues = map(int, name.split("-"))
    begin = time.perf_counter()
    seconds = effort / (RESIDUES_PER_SECOND * speed)
    while (left := seconds - (time.perf_counter() - begin)) > 0:
        time.sleep(min(left, STEP_SECONDS))
        if progress is not None:
            done = min(1.0, (time.perf_counter() - begin) / seconds)
            progress(int(done * residues) // RESIDUES_PER_SEQUENCE, int(done * residues))
    return residues


class Sleeper:
    """Sleeps for the time in the file's name; the first worker may be slow."""

    slow = ""

    def output_names(self, file: Path) -> Sequence[str]:
        """None."""
        del file
        return ()

    def setup(self, gpu: str) -> None:
        """Learn how fast this worker is."""
        self.speed = SLOW_SPEED if gpu == self.slow else 1.0

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Sleep."""
        del output
        residues = sleep(file.name, self.speed, progress)
        return Processed(1 + residues // RESIDUES_PER_SEQUENCE, residues)


class SleeperWithOneSlow(Sleeper):
    """The first worker is slow."""

    slow = "cpu0"


class SleeperBySequences(Sleeper):
    """Reports sequences alone."""

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Sleep."""

        def without_residues(sequences: int, residues: int | None = None) -> None:
            del residues
            progress(sequences)

        return Processed(super().process(file, output, without_residues).sequences, None)


class SleeperThrottled(Sleeper):
    """The first worker falls to a twentieth of its speed while it is in its fourth file."""

    def setup(self, gpu: str) -> None:
        """Learn when this worker slows down."""
        self._worked = 0.0
        self._slows_at = 3.5 * THROTTLED_SECONDS if gpu == "cpu0" else float("inf")

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Sleep."""
        del output
        _, residues = map(int, file.name.split("-"))
        done, before = 0.0, time.perf_counter()
        while done < THROTTLED_SECONDS:
            time.sleep(STEP_SECONDS)
            now = time.perf_counter()
            done += (now - before) * (1.0 if self._worked < self._slows_at else THROTTLED_SPEED)
            self._worked += now - before
            before = now
            so_far = int(residues * min(done / THROTTLED_SECONDS, 1.0))
            progress(so_far // RESIDUES_PER_SEQUENCE, so_far)
        return Processed(1 + residues // RESIDUES_PER_SEQUENCE, residues)


_speed = 1.0  # of this process of the peer


def set_speed(counter: Any, is_one_slow: bool) -> None:  # noqa: FBT001 - initializers take no names
    """In a process of the peer: the first one to come may be slow."""
    global _speed  # noqa: PLW0603 - an initializer has no other way to hand it on
    with counter.get_lock():
        _speed = SLOW_SPEED if is_one_slow and counter.value == 0 else 1.0
        counter.value += 1


def sleep_for_peer(name: str) -> int:
    """A file of the peer."""
    return sleep(name, _speed)


@dataclass(frozen=True, slots=True)
class Instance:
    """Files with their declared costs, and what they really take, as residues, by path."""

    files: Sequence[SequenceFile]
    work: dict[str, int]

    def bound(self, *, is_one_slow: bool) -> float:
        """Seconds that no schedule can undercut."""
        speeds = [SLOW_SPEED if is_one_slow else 1.0, 1.0, 1.0, 1.0]
        return lower_bound(self.work, [speed * RESIDUES_PER_SECOND for speed in speeds])


@dataclass(frozen=True, slots=True)
class Case:
    """What is uneven.

    Attributes:
        name: For the table.
        sleeper: The class that workers run.
        goal: How many times sooner than the peer, at least; None for no goal.
        is_one_slow: One worker is slow; then every instance has to reach the goal.
        content: The seconds per residue of a file are off by up to this share.
        is_sorted: The peer gets the files by falling declared cost.
        is_counted: The sequences of the files are known.
    """

    name: str
    sleeper: str
    goal: float | None = None
    is_one_slow: bool = False
    content: float = 0.0
    is_sorted: bool = False
    is_counted: bool = True


CASES = (
    Case("all healthy", "Sleeper", 1.4),
    Case("one at 0.3x", "SleeperWithOneSlow", 1.0, is_one_slow=True),
    Case("content 20% off, LPT", "Sleeper", content=0.2, is_sorted=True),
    Case("sequences alone, LPT", "SleeperBySequences", is_sorted=True, is_counted=False),
)


def make_instance(case: Case, seed: int, mean_seconds: float) -> Instance:
    """Files in random order."""
    mean = int(mean_seconds * RESIDUES_PER_SECOND)
    rng = random.Random(seed)
    files, work = skewed_files(FILES, rng, mean=mean, error=0.0 if case.content else 0.3)
    # The worker needs the true work, which only the name can carry.
    named, effort = [], {}
    for number, file in enumerate(files):
        residues = work[file.path]
        takes = max(1, round(residues * rng.uniform(1.0 - case.content, 1.0 + case.content)))
        path = f"/virtual/{number}/{takes}-{residues}"
        sequences = file.sequences if case.is_counted else None
        named.append(SequenceFile(path, sequences, file.residues))
        effort[path] = takes
    return Instance(named, effort)


def run(
    files: Sequence[SequenceFile], spec: Mapping[str, Any], coordinator: WorkStealingCoordinator
) -> tuple[float, RunSnapshot]:
    """Seconds of this package, and what was seen at the end.

    Args:
        files: What is done.
        spec: The processor.
        coordinator: Of a run that has not begun.

    Raises:
        RuntimeError: Not all files were completed.
    """
    workers = [worker.gpu for worker in coordinator.snapshot().workers]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        outputs = Outputs(folder)
        outputs.prepare()
        pins: dict[str, dict[str, str]] = {gpu: {} for gpu in workers}
        pool = WarmPool(
            LocalPool(spec, FACTORY, outputs.attempts, outputs.logs, pins, look_seconds=0.2),
            len(workers),
        )
        stack.callback(pool.close)
        Runner(coordinator, pool, workers, outputs, None).run(files)
        end = time.perf_counter()
        seen = coordinator.snapshot()
        if seen.files_completed != len(files):
            raise RuntimeError("files are left")
        return end - pool.all_ready, seen


def python(sleeper: str) -> dict[str, str]:
    """The processor that is a class of this module."""
    return {"kind": "python", "target": f"benchmarks.processes:{sleeper}"}


def ours(instance: Instance, sleeper: str) -> float:
    """Seconds of this package."""
    coordinator = WorkStealingCoordinator(WORKERS, settings=RunConfig().scheduler_settings())
    seconds, _ = run(instance.files, python(sleeper), coordinator)
    return seconds


def throttled() -> tuple[float, float]:
    """Seconds, and least seconds, of two workers of which one is throttled, on the fast clock."""
    size = int(THROTTLED_SECONDS * RESIDUES_PER_SECOND)
    files = [
        SequenceFile(f"/{n}/{size}-{size}", size // RESIDUES_PER_SEQUENCE, size) for n in range(8)
    ]
    coordinator = WorkStealingCoordinator(
        WORKERS[:2],
        settings=RunConfig().scheduler_settings(),
        clock=lambda: CLOCK_RATE * time.monotonic(),
    )
    seconds, _ = run(files, python("SleeperThrottled"), coordinator)
    at = 3.5 * THROTTLED_SECONDS
    least = at + (8 * THROTTLED_SECONDS - 2 * at) / (1.0 + THROTTLED_SPEED)
    return CLOCK_RATE * seconds, CLOCK_RATE * least


def long_commands() -> tuple[float, float, int, int]:
    """Commands of twice the threshold: seconds, least seconds, stalls and speculative attempts."""
    files = [SequenceFile(f"/{n}", None, 1000) for n in range(COMMANDS)]
    wanted = Processor(name="command", command=("sleep", str(COMMAND_SECONDS)))
    config = RunConfig(
        processor=wanted, scheduling=Scheduling(stall_threshold=COMMAND_SECONDS / 2.0)
    )
    coordinator = WorkStealingCoordinator(WORKERS, settings=config.scheduler_settings())
    seconds, seen = run(files, processor_spec(wanted, Scheduling()), coordinator)
    started = sum(w.second_attempts_won + w.second_attempts_lost for w in seen.workers)
    least = COMMANDS / len(WORKERS) * COMMAND_SECONDS
    return seconds, least, sum(w.stalls for w in seen.workers), started


def peer(instance: Instance, case: Case) -> float:
    """Seconds of a process pool."""
    counter = SPAWN.Value("i", 0)
    files = instance.files
    if case.is_sorted:
        files = sorted(files, key=lambda file: -file.residues)
    with SPAWN.Pool(len(WORKERS), set_speed, (counter, case.is_one_slow)) as pool:
        while counter.value < len(WORKERS):
            time.sleep(0.01)
        begin = time.perf_counter()
        for _ in pool.imap_unordered(sleep_for_peer, [f.name for f in files], chunksize=1):
            pass
        return time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--mean", type=float, default=0.2, help="seconds per file")
    options = parser.parse_args()
    print(f"{FILES} files of {options.mean:g} s on average, {len(WORKERS)} workers")
    print(f"{'':<22} {'ours/bound':>11} {'peer/bound':>11} {'peer/ours':>10} {'least':>7}  goal")
    for case in CASES:
        rows = []
        for seed in range(options.instances):
            instance = make_instance(case, seed, options.mean)
            bound = instance.bound(is_one_slow=case.is_one_slow)
            mine = ours(instance, case.sleeper)
            theirs = peer(instance, case)
            rows.append((mine / bound, theirs / bound, theirs / mine))
        mine, theirs, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
        least = min(row[2] for row in rows)
        line = f"{case.name:<22} {mine:>11.3f} {theirs:>11.3f} {ratio:>10.3f} {least:>7.3f}"
        if case.goal is not None:
            is_missed = (least if case.is_one_slow else ratio) < case.goal
            line += f"  {case.goal:.1f} {'MISSED' if is_missed else ''}".rstrip()
        print(line, flush=True)
    seconds, least = throttled()
    verdict = "" if seconds <= 1.01 * 3000.0 else " MISSED"
    print(
        f"one of two throttled: {seconds:,.0f} s, bound {least:,.0f} s, goal 3,000 s + 1 %{verdict}"
    )
    seconds, least, stalls, repeated = long_commands()
    verdict = " MISSED" if stalls or repeated else ""
    print(
        f"commands of twice the threshold: {seconds / least:.3f} of the bound,"
        f" {stalls} stalls, {repeated} second attempts, goal 0 of both{verdict}"
    )


if __name__ == "__main__":
    main()
