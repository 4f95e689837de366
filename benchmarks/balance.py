"""How close to the best possible schedule the real scheduler comes, in virtual time.

Each row is a workload in which something is uneven or goes wrong: the sizes of files, the seconds
that a residue takes (some content is slow on every GPU), a cost that every file has however small
it is, wrong estimates and wrong declared speeds, GPUs that pause, slow down, freeze, join and
leave, and processors that report only sequences, or nothing. A GPU of speed 1 does 1,000 residues a
second. Where nothing else is said there are eight GPUs of speeds 1, 1, 1, 1, 1.5, 1.5, 2.5 and 2.5
and 50 files of lognormal(1.0) sizes, of 1,000 s on average on a GPU of speed 1. A new process takes
half a minute until it is ready, as one that loads a model does. Times count from when all processes
that are there from the start are ready. The stall threshold is the default, 5 minutes.

The figures are makespan / lower bound. The bound knows the real work and speeds: all work on all
GPUs while they work, or the largest file on the fastest; where each file has a fixed cost, that
takes any GPU as long, fast or slow. Not every bound can be reached: whole
files do not fill all GPUs evenly, and pauses are not subtracted. Beside ours, on the same files,
processes and accidents:

- `LPT`: one central queue, largest estimate first; `FIFO`: the same in the order of the files.
  They never end when a GPU freezes;
- `known`: whole files laid out by a planner that knows all times and freezes beforehand (MULTIFIT).
  It is left out where GPUs slow down, pause, join or leave.

`kills` are running attempts that were stopped, in a run on average; `waste` is the share of the
time of the GPUs that went into attempts without a result. A row in which a file was lost, failed or
completed twice is marked WRONG, and the exit status is then 1.

Run: python benchmarks/balance.py [--seeds 40] [--first-seed 0] [--quick] [--only TEXT]
"""

from __future__ import annotations

import argparse
import heapq
import math
import multiprocessing
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.commands import Command, RetireWorker, StartAttempt
from virnucpro_exporter.scheduling.facts import Fact, FileCompleted
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing
from virnucpro_exporter.scheduling.scheduler import Decisions, Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.simulation import (
    Mishap,
    Outage,
    Outcome,
    Reports,
    VirtualGpu,
    VirtualRun,
    VirtualWorkers,
    skewed_files,
)

MIXED = (1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 2.5, 2.5)
EQUAL = (1.0,) * 8
RESIDUES_PER_SECOND = 1000  # of a GPU of speed 1
STARTUP = 30.0  # seconds until a process is ready

# A frozen GPU stops at this share of the lower bound of the others alone.
FREEZE_AT = 0.3

# Pauses last so many seconds, and come so many seconds after each other on average.
PAUSE, BETWEEN_PAUSES = 30.0, 900.0

# With `--quick`: so many seeds, and only rows of so many files at most.
QUICK_SEEDS = 4
QUICK_FILES = 1000


@dataclass(frozen=True, slots=True)
class Workload:
    """A row of the table: what is uneven or goes wrong.

    Attributes:
        name: For the table.
        goal: Highest mean ratio, or None.
        beside_lpt: Highest mean ratio above that of LPT on the same seeds, or None.
        p95: Highest 95th percentile, or None.
        speeds: Declared speeds.
        count: How many files.
        sizes: How they are distributed.
        sigma: How wide a lognormal distribution of sizes is.
        mean: Seconds that a mean file takes a GPU of speed 1.
        estimates_off: Declared costs are off by up to this share.
        content: The seconds per residue of a file are off by up to this share, on every GPU alike.
        overhead: Seconds that each file takes beside its residues.
        factors: Real speed as a share of the declared one, by index of the GPU.
        speeds_off: Real speeds are up to so many times as high or as low as declared.
        reports: What the processor reports.
        knows_sequences: The sequences of files are known before.
        frozen: Index of the GPU that stops for ever.
        pauses: GPUs pause now and then.
        comes_and_goes: Two GPUs join late, one leaves and returns, one leaves for good.
        failing: Share of the files whose first attempt fails.
        startup: Seconds until a process is ready.
        on_stall: What the scheduler does with the file of a stalled worker.
        is_static: Files stay where they were assigned at the start.
        share_of_seeds: Rows that vary little or take long are run with fewer seeds.
    """

    name: str
    goal: float | None = None
    beside_lpt: float | None = None
    p95: float | None = None
    speeds: Sequence[float] = MIXED
    count: int = 50
    sizes: str = "lognormal"
    sigma: float = 1.0
    mean: float = 1000.0
    estimates_off: float = 0.3
    content: float = 0.0
    overhead: float = 0.0
    factors: Mapping[int, float] = field(default_factory=dict)
    speeds_off: float = 1.0
    reports: Reports = Reports.RESIDUES
    knows_sequences: bool = True
    frozen: int | None = None
    pauses: bool = False
    comes_and_goes: bool = False
    failing: float = 0.0
    startup: float = STARTUP
    on_stall: OnStall = OnStall.RETRY
    is_static: bool = False
    share_of_seeds: float = 1.0


def content(share: float, **others: float | None) -> Workload:
    """Eight equal GPUs, and files whose estimates are right but whose content varies."""
    name = f"content {share:.0%} off, 8 equal GPUs"
    return Workload(name, speeds=EQUAL, estimates_off=0.0, content=share, **others)  # type: ignore[arg-type]


ALONE, SILENT, DARK = Reports.SEQUENCES, Reports.NONE, Reports.NO_SIGN
WORKLOADS = (
    content(0.0, beside_lpt=0.003),
    content(0.1, beside_lpt=0.003),
    content(0.2, beside_lpt=0.003),
    content(0.4),
    Workload("content 20% off", estimates_off=0.0, content=0.2),
    Workload("content 40% off", estimates_off=0.0, content=0.4),
    Workload(
        "content 20% off, 64 mixed GPUs",
        goal=1.010,
        speeds=MIXED * 8,
        count=300,
        share_of_seeds=0.25,
        estimates_off=0.0,
        content=0.2,
    ),
    Workload(
        "content 20% off, 64 equal GPUs",
        goal=1.001,
        speeds=EQUAL * 8,
        count=300,
        share_of_seeds=0.25,
        estimates_off=0.0,
        content=0.2,
    ),
    Workload("sequences alone", goal=1.020, reports=ALONE),
    Workload("sequences alone, not counted", reports=ALONE, knows_sequences=False),
    Workload("bimodal, sequences alone", goal=1.04, sizes="bimodal", reports=ALONE),
    Workload(
        "bimodal, sequences alone, not counted",
        sizes="bimodal",
        reports=ALONE,
        knows_sequences=False,
    ),
    Workload("a GPU at 0.1x, sequences alone", goal=1.02, factors={0: 0.1}, reports=ALONE),
    Workload(
        "a GPU at 0.1x, sequences, not counted",
        factors={0: 0.1},
        reports=ALONE,
        knows_sequences=False,
    ),
    Workload("no progress", reports=SILENT, knows_sequences=False),
    Workload("bimodal, no progress", sizes="bimodal", reports=SILENT, knows_sequences=False),
    Workload("a GPU at 0.1x, no progress", factors={0: 0.1}, reports=SILENT, knows_sequences=False),
    Workload("no progress, no sign of life", reports=DARK, knows_sequences=False),
    Workload("a fast GPU freezes, no progress", frozen=7, reports=SILENT, knows_sequences=False),
    Workload("20 s for each file, mean 60 s", beside_lpt=-0.007, mean=60.0, overhead=20.0),
    Workload("pauses of 30 s", goal=1.04, pauses=True),
    Workload(
        "GPUs join and leave, load 20 s",
        goal=1.018,
        count=300,
        comes_and_goes=True,
        startup=20.0,
        share_of_seeds=0.5,
    ),
    Workload("all healthy", goal=1.03),
    Workload("all healthy, very uneven", goal=1.03, sigma=1.5),
    Workload("all healthy, Pareto", goal=1.03, sizes="pareto"),
    Workload("all healthy, 500 files", goal=1.005, count=500, share_of_seeds=0.5),
    Workload("all healthy, 5000 files", goal=1.001, count=5000, share_of_seeds=0.1),
    Workload("speeds up to 2x off", goal=1.021, speeds_off=2.0),
    Workload("slow GPU at 0.3x", goal=1.019, factors={0: 0.3}),
    Workload("slow GPU at 0.3x, very uneven", goal=1.019, sigma=1.5, factors={0: 0.3}),
    Workload("slow GPU at 0.3x, Pareto", goal=1.03, sizes="pareto", factors={0: 0.3}),
    Workload(
        "slow GPU at 0.3x, 500 files", goal=1.005, count=500, factors={0: 0.3}, share_of_seeds=0.5
    ),
    Workload("fast GPU at 0.3x", goal=1.06, factors={7: 0.3}),
    Workload("fast GPU at 0.3x, very uneven", goal=1.06, sigma=1.5, factors={7: 0.3}),
    Workload("one file in ten fails once", goal=1.067, failing=0.1),
    Workload("fast GPU freezes, retry", goal=1.08, p95=1.2, frozen=7),
    Workload("fast GPU freezes, mean 100 s", goal=1.08, p95=1.2, mean=100.0, frozen=7),
    Workload("fast GPU freezes, restart", frozen=7, on_stall=OnStall.RESTART),
    Workload("slow GPU freezes, retry", goal=1.10, frozen=0),
    Workload("slow GPU freezes, restart", goal=1.10, frozen=0, on_stall=OnStall.RESTART),
    Workload("slow GPU freezes, 500 files", goal=1.02, count=500, frozen=0, share_of_seeds=0.5),
    Workload("static, all healthy", is_static=True, share_of_seeds=0.25),
    Workload("static, slow GPU at 0.3x", factors={0: 0.3}, is_static=True, share_of_seeds=0.25),
)


class CentralQueue:
    """The peers: every worker that is free gets the first file of one queue, the fastest first.

    Args:
        speeds: Declared speeds, by worker.
        at_start: It begins when so many workers are ready.
        is_sorted: The largest estimate comes first, else the files stay in their order.
    """

    def __init__(self, speeds: Mapping[str, float], at_start: int, *, is_sorted: bool) -> None:
        self._speeds = speeds
        self._at_start = at_start
        self._is_sorted = is_sorted
        self._waiting: list[tuple[int, int, SequenceFile]] = []
        self._held: dict[str, tuple[int, SequenceFile]] = {}
        self._free: list[str] = []
        self._left = self._put_before = self._attempts = 0
        self._is_open = False

    @property
    def is_finished(self) -> bool:
        """Whether no file is left to do."""
        return not self._left

    def next_deadline(self) -> None:
        """It never looks at the time."""

    def handle(self, event: ev.Event, now: float) -> Decisions:
        """Take in one event, and say what is to be done and what happened."""
        del now
        commands: list[Command] = []
        facts: list[Fact] = []
        if isinstance(event, ev.FilesSubmitted):
            self._left = len(event.files)
            for file in event.files:
                self._put(file)
        elif isinstance(event, ev.WorkerReady):
            self._free.append(event.worker_id)
            self._is_open = self._is_open or len(self._free) == self._at_start
        elif isinstance(event, ev.AttemptCompleted):
            facts.append(self._complete(event))
        elif isinstance(event, ev.AttemptFailed):
            self._put(self._held.pop(event.worker_id)[1])
            self._free.append(event.worker_id)
        elif isinstance(event, ev.WorkerLost):
            if event.worker_id in self._held:
                self._put(self._held.pop(event.worker_id)[1])
            self._free = [gpu for gpu in self._free if gpu != event.worker_id]
            commands.append(RetireWorker(WorkerId(event.worker_id)))
        return Decisions([*commands, *self._starts()], facts)

    def _put(self, file: SequenceFile) -> None:
        rank = -file.residues if self._is_sorted else 0
        self._put_before += 1
        heapq.heappush(self._waiting, (rank, self._put_before, file))

    def _complete(self, event: ev.AttemptCompleted) -> Fact:
        number, file = self._held.pop(event.worker_id)
        self._free.append(event.worker_id)
        self._left -= 1
        residues = file.residues if event.residues is None else event.residues
        return FileCompleted(
            file,
            WorkerId(event.worker_id),
            AttemptNumber(number),
            1,
            event.duration,
            event.sequences,
            residues,
        )

    def _starts(self) -> Iterator[StartAttempt]:
        self._free.sort(key=lambda gpu: -self._speeds[gpu])
        while self._is_open and self._free and self._waiting:
            gpu, (*_, file) = self._free.pop(0), heapq.heappop(self._waiting)
            self._attempts += 1
            self._held[gpu] = (self._attempts, file)
            yield StartAttempt(WorkerId(gpu), AttemptNumber(self._attempts), file)


class Instance:
    """The files and GPUs of one run.

    Args:
        workload: What is uneven or goes wrong.
        seed: Where chance begins.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        rng = random.Random(seed)
        files, self.work = skewed_files(
            workload.count,
            rng,
            distribution=workload.sizes,
            sigma=workload.sigma,
            error=workload.estimates_off,
            mean=round(workload.mean * RESIDUES_PER_SECOND),
        )
        if not workload.knows_sequences:
            files = [SequenceFile(file.path, None, file.residues) for file in files]
        self.files = files
        off = workload.content
        self.pace = {path: rng.uniform(1.0 - off, 1.0 + off) for path in self.work}
        self.speeds = [
            speed
            * workload.factors.get(index, 1.0)
            * math.pow(workload.speeds_off, rng.uniform(-1.0, 1.0))
            * RESIDUES_PER_SECOND
            for index, speed in enumerate(workload.speeds)
        ]
        self._rng = rng
        self._pauses = [list(self._make_pauses()) for _ in self.speeds]
        self.failing = [path for path in self.work if rng.random() < workload.failing]

    def _make_pauses(self) -> Iterator[tuple[float, float]]:
        now = STARTUP
        while self.workload.pauses and now < 10 * self._about:
            now += self._rng.expovariate(1.0 / BETWEEN_PAUSES)
            yield now, now + PAUSE
            now += PAUSE

    @cached_property
    def load(self) -> dict[str, float]:
        """Work of each file beside its overhead, as residues of ordinary content."""
        return {path: self.work[path] * self.pace[path] for path in self.work}

    @cached_property
    def _about(self) -> float:
        """Seconds that the run takes at least if no GPU changes."""
        frozen = self.workload.frozen
        going = [speed for index, speed in enumerate(self.speeds) if index != frozen]
        return max(sum(self.load.values()) / sum(going), max(self.load.values()) / max(going))

    @cached_property
    def freezes_at(self) -> float:
        """When the GPU freezes that does, in seconds."""
        return self.workload.startup + FREEZE_AT * self._about

    def times_away(self) -> Iterator[tuple[int, float, float]]:
        """The index of each GPU that is away for a time, from when and until when."""
        if self.workload.comes_and_goes:
            start, about = self.workload.startup, self._about
            yield 1, 0.0, start + 0.2 * about
            yield 7, 0.0, start + 0.3 * about
            yield 4, start + 0.4 * about, start + 0.6 * about
            yield 2, start + 0.5 * about, math.inf

    def virtual_gpus(self) -> dict[str, VirtualGpu]:
        """The GPUs as they really are."""
        frozen = self.workload.frozen
        return {
            str(index): VirtualGpu(
                speed,
                freezes_at=self.freezes_at if index == frozen else math.inf,
                startup=self.workload.startup,
            )
            for index, speed in enumerate(self.speeds)
        }

    @cached_property
    def at_start(self) -> list[str]:
        """The GPUs that are there from the start."""
        late = {index for index, begin, _ in self.times_away() if not begin}
        return [str(index) for index in range(len(self.speeds)) if index not in late]

    def workers(self) -> VirtualWorkers:
        """What the workers do, and when."""
        workload = self.workload
        workers = VirtualWorkers(
            self.virtual_gpus(), reports=workload.reports, overhead=workload.overhead
        )
        workers.add(self.work, dict.fromkeys(self.failing, Mishap(1)), self.pace)
        for index, pauses in enumerate(self._pauses):
            for begin, end in pauses:
                workers.plan(str(index), Outage(begin, end))
        for index, begin, end in self.times_away():
            gpu = WorkerId(str(index))
            if begin:
                lost = ev.WorkerLost(gpu, "its node has left", ev.LossCause.LEFT_CLUSTER)
                workers.announce(begin, lost)
            if end < math.inf:
                joined = ev.WorkerJoined(gpu, weight=workload.speeds[index])
                workers.announce(end - workload.startup, joined)
        return workers

    def scheduler(self) -> Scheduler:
        """The real one, at the start of a run."""
        declared = self.workload.speeds
        return Scheduler(
            {gpu: declared[int(gpu)] for gpu in self.at_start},
            settings=SchedulerSettings(
                on_stall=self.workload.on_stall,
                reports_progress=self.workload.reports is Reports.RESIDUES,
            ),
            policy=NoStealing() if self.workload.is_static else EarliestFinish(),
        )

    def peer(self, *, is_sorted: bool) -> float | None:
        """Seconds that the run takes with a central queue; None where it never ends."""
        declared = {str(index): speed for index, speed in enumerate(self.workload.speeds)}
        outcome = self.play(CentralQueue(declared, len(self.at_start), is_sorted=is_sorted))
        return None if outcome is None else outcome.makespan - self.workload.startup

    def play(self, decides: Scheduler | CentralQueue) -> Outcome | None:
        """The run with one of the competitors; None where it never ends."""
        run = VirtualRun(decides, self.virtual_gpus(), self.work, workers=self.workers())
        try:
            return run.run(self.files, 100 * self._about + 1e4, at_start=self.at_start)
        except RuntimeError:
            return None

    def bound(self) -> float:
        """Seconds from the start below which no schedule can end."""
        overhead = self.workload.overhead
        if overhead:  # no row with that has GPUs that come and go
            return least_seconds(list(self.load.values()), self.speeds, overhead)
        changes = sorted(self._changes())
        left, now, speed = sum(self.load.values()), self.workload.startup, 0.0
        for at, change in changes:
            if left <= speed * (at - now):
                break
            left, now, speed = left - speed * (at - now), at, speed + change
        begun = self.workload.startup
        return max(now + left / speed - begun, max(self.load.values()) / max(self.speeds))

    def _changes(self) -> Iterator[tuple[float, float]]:
        """When the speed of all GPUs together changes, in seconds, and by how much."""
        start = self.workload.startup
        for index, speed in enumerate(self.speeds):
            away = [(begin, end) for which, begin, end in self.times_away() if which == index]
            if index == self.workload.frozen:
                away.append((self.freezes_at, math.inf))
            yield start, speed
            for begin, end in away:
                yield max(begin, start), -speed
                if end < math.inf:
                    yield end, speed

    def known(self) -> float | None:
        """Seconds of a planner that knows all, or None where that is not computed."""
        workload = self.workload
        if workload.pauses or workload.comes_and_goes or workload.failing:
            return None
        until = [math.inf] * len(self.speeds)
        if workload.frozen is not None:
            until[workload.frozen] = self.freezes_at - workload.startup
        return best_known(list(self.load.values()), self.speeds, until, workload.overhead)


def least_seconds(work: Sequence[float], speeds: Sequence[float], overhead: float) -> float:
    """Seconds that files take at least where each costs some seconds on any GPU, fast or slow.

    The least time within which they fit if they could be cut, and each piece cost its share of the
    seconds. Then the largest files belong on the fastest GPUs: the seconds of the small ones go to
    waste least on slow ones.
    """
    fastest = max(speeds)

    def fit(seconds: float) -> bool:
        sizes, left = sorted(work), 1.0  # of the largest file, the share that has no place
        for speed in sorted(speeds, reverse=True):
            room = seconds
            while sizes and room > 0.0:
                takes = left * (overhead + sizes[-1] / speed)
                if takes > room:
                    left *= 1.0 - room / takes
                    break
                sizes.pop()
                room, left = room - takes, 1.0
        return not sizes

    enough = 2.0 * sum(overhead + size / fastest for size in work)
    return max(_least_time(fit, enough), overhead + max(work) / fastest)


def best_known(
    work: Sequence[float],
    speeds: Sequence[float],
    works_until: Sequence[float],
    overhead: float = 0.0,
) -> float:
    """Seconds that whole files take when sizes, speeds and faults are known (MULTIFIT).

    The least time within which files by falling size, each on the slowest GPU that still has room
    for it, all find a place; where files have an overhead, on the fastest.
    """
    sizes = sorted(work, reverse=True)
    gpus = list(zip(speeds, works_until, strict=True))

    def fit(seconds: float) -> bool:
        room = sorted((speed * min(seconds, until), speed) for speed, until in gpus)
        if overhead:
            room.reverse()
        left = [residues for residues, _ in room]
        for size in sizes:
            takes = (size + overhead * speed for _, speed in room)
            places = enumerate(zip(left, takes, strict=True))
            place = next((i for i, (rest, needed) in places if needed <= rest), None)
            if place is None:
                return False
            left[place] -= size + overhead * room[place][1]
        return True

    return _least_time(fit, 2.0 * sum(overhead + size / max(speeds) for size in sizes))


def _least_time(fit: Callable[[float], bool], enough: float) -> float:
    """The least number of seconds in which files fit, given a number that is enough."""
    too_short = 0.0
    while enough - too_short > 1e-4 * enough:
        middle = (too_short + enough) / 2.0
        if fit(middle):
            enough = middle
        else:
            too_short = middle
    return enough


@dataclass(frozen=True, slots=True)
class Result:
    """One run of each competitor, as makespan / lower bound.

    Attributes:
        ours: Of this scheduler.
        lpt: Of the central queue, largest first; None where it never ends.
        fifo: Of the central queue in the order of the files, likewise.
        known: Of the planner that knows all, where that is computed.
        kills: Running attempts that our scheduler stopped.
        waste: Share of GPU time that went into attempts without a result, in our run.
    """

    ours: float
    lpt: float | None
    fifo: float | None
    known: float | None
    kills: int
    waste: float


def measure(case: tuple[int, int]) -> Result | str:
    """One run of a workload, given by its index, from a seed.

    Returns:
        The result, or what is wrong: a file was lost, failed or completed twice.
    """
    index, seed = case
    instance = Instance(WORKLOADS[index], seed)
    outcome = instance.play(instance.scheduler())
    if outcome is None:
        return f"seed {seed}: the run did not end"
    if outcome.completed != dict.fromkeys(instance.work, 1):
        lost = sorted(set(instance.work) - set(outcome.completed))
        twice = sorted(path for path, times in outcome.completed.items() if times > 1)
        return f"seed {seed}: lost {lost} (given up: {outcome.failed}), twice {twice}"
    bound = instance.bound()
    lpt, fifo = instance.peer(is_sorted=True), instance.peer(is_sorted=False)
    known = instance.known()
    return Result(
        (outcome.makespan - instance.workload.startup) / bound,
        lpt and lpt / bound,
        fifo and fifo / bound,
        known and known / bound,
        outcome.kills,
        outcome.wasted_share,
    )


def percentile_95(values: Sequence[float]) -> float:
    """The value that one in twenty exceeds."""
    return sorted(values)[int(0.95 * len(values))]


def figures(workload: Workload, results: Sequence[Result]) -> str:
    """The figures of one row."""
    ours = [result.ours for result in results]
    mean, p95 = statistics.mean(ours), percentile_95(ours)
    cells = [f"{mean:>7.4f} {p95:>7.4f}"]
    lpt = [result.lpt for result in results if result.lpt]
    fifo = [result.fifo for result in results if result.fifo]
    for peer in (lpt, fifo):
        ends = len(peer) == len(results)
        cells.append(
            f"{statistics.mean(peer):>7.4f} {percentile_95(peer):>7.4f}"
            if ends
            else f"{'never':>7} {'never':>7}"
        )
    known = [result.known for result in results if result.known]
    cells.append(f"{statistics.mean(known):>7.4f}" if known else f"{'-':>7}")
    cells.append(f"{statistics.mean(result.kills for result in results):>6.1f}")
    cells.append(f"{statistics.mean(result.waste for result in results):>6.1%}")
    goal = workload.goal
    if workload.beside_lpt is not None:
        goal = statistics.mean(lpt) + workload.beside_lpt
    if goal is not None:
        is_missed = mean > goal or (workload.p95 is not None and p95 > workload.p95)
        cells.append(f"{goal:>6.3f}{' MISSED' if is_missed else ''}")
    return " ".join(cells)


def throttled() -> tuple[float, float]:
    """Two equal GPUs, 8 files of 600 s; one falls to 0.05x in the middle of its last file.

    Returns:
        Seconds that the run takes, and the lower bound.
    """
    files = [SequenceFile(f"/{n}", 1, 600 * RESIDUES_PER_SECOND) for n in range(8)]
    work = {file.path: file.residues for file in files}
    gpus = {gpu: VirtualGpu(float(RESIDUES_PER_SECOND)) for gpu in ("0", "1")}
    workers = VirtualWorkers(gpus)
    at, share = 2100.0, 0.05
    workers.plan("0", Outage(at, share=share))
    scheduler = Scheduler(dict.fromkeys(gpus, 1.0), settings=SchedulerSettings())
    outcome = VirtualRun(scheduler, gpus, work, workers=workers).run(files)
    return outcome.makespan, at + (8 * 600 - 2 * at) / (1.0 + share)


def raced() -> float:
    """One file of 600 s; GPUs of speeds 1, 1.5 and 2.5 are ready 10 ms after each other.

    Returns:
        Seconds that the run takes.
    """
    speeds = {"0": 1.0, "1": 1.5, "2": 2.5}
    file = SequenceFile("/a", 1, 600 * RESIDUES_PER_SECOND)
    gpus = {
        gpu: VirtualGpu(speed * RESIDUES_PER_SECOND, startup=STARTUP + 0.01 * int(gpu))
        for gpu, speed in speeds.items()
    }
    outcome = VirtualRun(Scheduler(speeds), gpus, {file.path: file.residues}).run([file])
    return outcome.makespan - STARTUP


def main() -> int:
    """Print the table.

    Returns:
        1 if a file was lost or doubled.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40, help="runs per row (default: 40)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--quick", action="store_true", help="few seeds, in under 2 minutes")
    parser.add_argument("--only", default="", help="the rows whose names have this text")
    options = parser.parse_args()
    seeds = QUICK_SEEDS if options.quick else options.seeds
    print("makespan / lower bound: mean and 95th percentile")
    print(f"{'':<38} {'runs':>4} {'ours':>7} {'p95':>7} {'LPT':>7} {'p95':>7}", end=" ")
    print(f"{'FIFO':>7} {'p95':>7} {'known':>7} {'kills':>6} {'waste':>6} {'goal':>6}")
    is_sound = True
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for index, workload in enumerate(WORKLOADS):
            if options.only not in workload.name:
                continue
            if options.quick and workload.count > QUICK_FILES:
                continue
            runs = max(1, round(seeds * workload.share_of_seeds))
            cases = [(index, options.first_seed + i) for i in range(runs)]
            results = pool.map(measure, cases, chunksize=1)
            wrong = [result for result in results if isinstance(result, str)]
            right = [result for result in results if not isinstance(result, str)]
            row = f"WRONG: {wrong[0]}" if wrong else figures(workload, right)
            print(f"{workload.name:<38} {runs:>4} {row}", flush=True)
            is_sound = is_sound and not wrong
    seconds, bound = throttled()
    verdict = "" if seconds <= 3000 else "MISSED"
    print(f"2 GPUs, one throttled: {seconds:,.0f} s, bound {bound:,.0f} s, goal 3,000 s {verdict}")
    race = raced()
    verdict = "" if race <= 240.1 else "MISSED"
    print(f"start-up race: {race:,.2f} s, goal 240 s {verdict}".rstrip())
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
