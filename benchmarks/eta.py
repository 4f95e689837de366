"""Accuracy of the remaining time, the percentage and the bar of a run, in virtual time.

Each row is a workload with which an estimate made of residues alone is wrong: files with a fixed
cost, commands that report nothing before their end, GPUs that are throttled, content that is slow
on every GPU, wrong estimates of sizes. Files, GPUs and accidents are those of `benchmarks.balance`,
with the real scheduler; the snapshot that the table, the metrics and the plain log show is taken at
10, 50 and 90 % of the time from the moment at which the workers are ready to the end.

- `left`: the remaining time that is shown, beside the true one; 0 is right, -50 % half of it. The
  mean of its error over the seeds, and the mean of its size.
- `bar`: the percentage that is shown, minus the share of the time that has passed; in points.
- `none`: the share of the time in which no remaining time is shown: nothing was learned yet.

No estimate can foresee a later change: GPUs are throttled before 10 % of the time.

Run: python -m benchmarks.eta [--seeds 8] [--only TEXT]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.balance import EQUAL, Instance, Workload
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.scheduler import Decisions, Scheduler
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.simulation import Outage, Reports
from virnucpro_exporter.simulation.virtual_run import VirtualRun

MOMENTS = (0.1, 0.5, 0.9)
GOAL = 0.15

# Snapshots are taken so often in a run.
LOOKS = 1000


@dataclass(frozen=True, slots=True)
class Throttled:
    """GPUs that get slower.

    Attributes:
        share: Of their speed that is left to them.
        gpus: Which ones, by index.
        begin: When, as a share of the least time that the run takes.
        seconds: For how long each time; for ever where that is infinite.
        every: Seconds between two such times.
    """

    share: float
    gpus: Sequence[int]
    begin: float = 0.05
    seconds: float = math.inf
    every: float = math.inf


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a workload, and which GPUs are throttled."""

    workload: Workload
    throttled: Throttled | None = None


def uneven(name: str, **others: object) -> Workload:
    """Files whose sizes are known as well as from a sample, to 5 % where nothing is said."""
    return Workload(name, **{"estimates_off": 0.05, **others})  # type: ignore[arg-type]


def commands(name: str, **others: object) -> Workload:
    """Files of a processor that reports nothing, and whose sequences are not counted."""
    return uneven(name, reports=Reports.NONE, knows_sequences=False, **others)


ROWS = (
    Row(uneven("progress")),
    Row(uneven("progress, 500 files", count=500)),
    Row(uneven("sizes 30% off", estimates_off=0.3)),
    Row(uneven("content 20% off", content=0.2)),
    Row(uneven("sequences alone, not counted", reports=Reports.SEQUENCES, knows_sequences=False)),
    Row(uneven("20 s for each file, mean 60 s", mean=60.0, overhead=20.0)),
    Row(uneven("20 s for each file, 500 files", count=500, mean=60.0, overhead=20.0)),
    Row(uneven("60 s for each file, mean 30 s", count=200, mean=30.0, overhead=60.0)),
    Row(uneven("5 s for each file, mean 1 s", count=500, mean=1.0, overhead=5.0)),
    Row(commands("commands")),
    Row(commands("commands, 500 files", count=500)),
    Row(commands("commands, 8 equal GPUs, content", speeds=EQUAL, count=200, content=0.2)),
    Row(commands("commands, 20 s each, mean 60 s", count=200, mean=60.0, overhead=20.0)),
    Row(commands("commands, 60 s each, mean 30 s", count=200, mean=30.0, overhead=60.0)),
    Row(uneven("one of 8 throttled to 0.3"), Throttled(0.3, (7,))),
    Row(uneven("one of 8 throttled to 0.3, 500", count=500), Throttled(0.3, (7,))),
    Row(uneven("all throttled to 0.6"), Throttled(0.6, range(8))),
    Row(uneven("all throttled to 0.6, 500 files", count=500), Throttled(0.6, range(8))),
    Row(
        uneven("all at 0.5 for 60 s of 300 s", count=200),
        Throttled(0.5, range(8), 0.01, 60.0, 300.0),
    ),
    Row(
        commands("commands, all throttled to 0.6", count=500, mean=100.0), Throttled(0.6, range(8))
    ),
)


@dataclass(slots=True)
class Watched:
    """The scheduler, and the values of its snapshots at many moments.

    Attributes:
        scheduler: The real one.
        every: Seconds between two snapshots.
        times: When they were taken.
        left: The remaining seconds that they show, or None.
        shares: The share of the work that they show as done, or None.
    """

    scheduler: Scheduler
    every: float
    times: list[float] = field(default_factory=list)
    left: list[float | None] = field(default_factory=list)
    shares: list[float | None] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether no file is left to do."""
        return self.scheduler.is_finished

    def next_deadline(self) -> float | None:
        """The next time at which the scheduler or the observer has to be called."""
        wanted = self.scheduler.next_deadline()
        look = self.times[-1] + self.every if self.times else None
        return min((at for at in (wanted, look) if at is not None), default=None)

    def handle(self, event: ev.Event, now: float) -> Decisions:
        """Take in one event, and note what a snapshot shows then."""
        decisions = self.scheduler.handle(event, now)
        if not self.times or now >= self.times[-1] + self.every:
            shown = take_snapshot(self.scheduler, RunContext(), now)
            self.times.append(now)
            self.left.append(shown.eta_seconds)
            self.shares.append(shown.progress)
        return decisions


@dataclass(frozen=True, slots=True)
class Result:
    """One run.

    Attributes:
        left: Error of the remaining time at each of `MOMENTS`, as a share of it, or None.
        bar: Error of the percentage, in points, or None.
        none: Share of the time in which no remaining time was shown.
        least: The least remaining time that was shown while work was left.
    """

    left: tuple[float | None, ...]
    bar: tuple[float | None, ...]
    none: float
    least: float


def scheduler(workload: Workload) -> Scheduler:
    """The real one. Commands give signs of life, so nothing counts as stalled."""
    return Scheduler(
        {str(index): speed for index, speed in enumerate(workload.speeds)},
        settings=SchedulerSettings(
            stall_threshold=1e9, reports_progress=workload.reports is Reports.RESIDUES
        ),
    )


def measure(case: tuple[int, int]) -> Result:
    """One run of a row, given by its index, from a seed."""
    index, seed = case
    row = ROWS[index]
    instance = Instance(row.workload, seed)
    workers, start, least = instance.workers(), instance.workload.startup, instance.bound()
    if row.throttled is not None:
        throttle = row.throttled
        for gpu in throttle.gpus:
            begin = start + throttle.begin * least
            while begin < start + 10 * least:
                workers.plan(
                    str(gpu), Outage(begin, begin + throttle.seconds, share=throttle.share)
                )
                begin += throttle.every
    watched = Watched(scheduler(row.workload), least / LOOKS)
    run = VirtualRun(watched, instance.virtual_gpus(), instance.work, workers=workers)
    end = run.run(instance.files, 1000 * least + 1e4).makespan
    left: list[float | None] = []
    bar: list[float | None] = []
    for share in MOMENTS:
        place = min(
            bisect_left(watched.times, start + share * (end - start)), len(watched.times) - 1
        )
        passed = (watched.times[place] - start) / (end - start)
        shown, done = watched.left[place], watched.shares[place]
        true = end - watched.times[place]
        left.append(None if shown is None else shown / true - 1.0)
        bar.append(None if done is None else done - passed)
    ready = [s for t, s in zip(watched.times, watched.left, strict=True) if start <= t < end]
    known = [seconds for seconds in ready if seconds is not None]
    return Result(tuple(left), tuple(bar), 1.0 - len(known) / len(ready), min(known, default=0.0))


def cells(values: Sequence[float | None]) -> str:
    """The mean and the mean size of what is known."""
    known = [value for value in values if value is not None]
    if not known:
        return f"{'-':>6} {'-':>5}"
    return f"{statistics.mean(known):>+6.0%} {statistics.mean(map(abs, known)):>5.0%}"


def main() -> int:
    """Print the table.

    Returns:
        1 if a run with work left was said to take no time.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="runs per row (default: 8)")
    parser.add_argument("--only", default="", help="the rows whose names have this text")
    options = parser.parse_args()
    heads = "".join(f"   left {share:.0%}" for share in MOMENTS)
    bars = "".join(f"    bar {share:.0%}" for share in MOMENTS)
    print("error of what is shown: mean, and mean of its size")
    print(f"{'':<34}{heads}  {bars}   none")
    is_sound = True
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for index, row in enumerate(ROWS):
            if options.only not in row.workload.name:
                continue
            results = pool.map(measure, [(index, seed) for seed in range(options.seeds)], 1)
            left = [[result.left[i] for result in results] for i in range(len(MOMENTS))]
            bar = [[result.bar[i] for result in results] for i in range(len(MOMENTS))]
            none = statistics.mean(result.none for result in results)
            missed = any(
                statistics.mean(abs(e) for e in errors if e is not None) > GOAL
                for errors in left
                if any(e is not None for e in errors)
            )
            print(
                f"{row.workload.name:<34}{' '.join(map(cells, left))}   {' '.join(map(cells, bar))}"
                f"  {none:>5.1%}{'  MISSED' if missed else ''}",
                flush=True,
            )
            is_sound = is_sound and all(result.least >= 1.0 for result in results)
    print(
        "remaining time was shown as 0 with work left" if not is_sound else "never 0 with work left"
    )
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
