"""Workers: their queues, what they hold, and when they are expected to be done.

Mutable, and private to the scheduler: only `state` changes them.
"""

from __future__ import annotations

from collections import deque

from virnucpro_exporter.scheduling.counters import Counters
from virnucpro_exporter.scheduling.files import Attempt, FileRecord
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.speed import NEVER, Errors, FixedCost, LearnedSpeed, Throughput

# A worker that has done nothing yet counts as having done a file of so many seconds: it gets files
# one by one until some twenty of them were short.
_LONG_SECONDS = 10.0


class Worker:
    """One worker, its queue, what it holds and how fast it is.

    Attributes:
        id: Its id.
        name: The model of its device, empty when it is not known.
        weight: Its declared speed.
        index: Its place in the order of the workers.
        counters: Its totals.
        is_loading: Its process is up and sets its processor up.
        is_ready: Its process is up and able to take files.
        is_leaving: It gets no more files, and goes when it holds none.
        can_split: Its processor reads a range that may end sooner while it reads.
        cuts_first: Its processor does ranges that may end sooner before it begins.
        retired_at: Since when it is given up, or None.
        is_retired: It is given up, and has no process unless it joins again.
        has_left: It is retired because it left in order: it was leaving.
        spawned_at: When its process was last started.
        startup: Seconds until its last process was ready; before the first is, as long as another
            worker took.
        slow_setups: Processes in a row that took too long to load.
        awaits_work: It requested a file and got none.
        troubles: Files that failed on it or took its process, since its last success.
        queue: Files that wait for it, largest first.
        queued_residues: Their residues.
        inflight: Attempts that it was handed, by number, in the order of handing over; cancelled
            ones until it reports that they stopped.
        speed: Residues per second that are expected of it, once anything was learned of any worker;
            before that, its weight.
        learned: Its measured speed.
        fixed: What every file costs beside its residues; one for all workers.
        errors: How wrong estimates are; one for all workers.
        pace: Residues per second in its last completed file, or None.
        longest_gap: The longest time in seconds between two reports within a file; 0 for one that
            never reported.
        is_doubted: It fell silent, and has shown nothing since.
        throughput: Sequences and residues per second, for people.
        longest_recent: About the longest duration of its recent files, in seconds.
        touched_at: When it last made progress, came up or got its first work.
        alive_at: When it last gave a sign of life other than progress.
        has_reported: It reported progress within a file.
        last_progress: When it last made progress, or None.
        stalled_since: When its present stall was noticed, or None.
        busy_since: Since when it has held files, or None.
        idle_from: What the clock of waiting files showed when it began to await work.
    """

    __slots__ = (
        "alive_at",
        "awaits_work",
        "busy_since",
        "can_split",
        "counters",
        "cuts_first",
        "errors",
        "fixed",
        "has_left",
        "has_reported",
        "id",
        "idle_from",
        "index",
        "inflight",
        "is_doubted",
        "is_leaving",
        "is_loading",
        "is_ready",
        "is_retired",
        "last_progress",
        "learned",
        "longest_gap",
        "longest_recent",
        "name",
        "pace",
        "queue",
        "queued_residues",
        "retired_at",
        "slow_setups",
        "spawned_at",
        "speed",
        "stalled_since",
        "startup",
        "throughput",
        "touched_at",
        "troubles",
        "weight",
    )

    def __init__(
        self,
        worker_id: WorkerId,
        name: str,
        weight: float,
        index: int,
        now: float,
        fixed: FixedCost,
        errors: Errors,
    ) -> None:
        self.id = worker_id
        self.name = name
        self.weight = weight
        self.index = index
        self.counters = Counters()
        self.is_loading = False
        self.is_ready = False
        self.is_leaving = False
        self.can_split = self.cuts_first = False
        self.is_retired = False
        self.has_left = False
        self.retired_at: float | None = None
        self.spawned_at = now
        self.startup = 0.0
        self.slow_setups = 0
        self.awaits_work = False
        self.troubles: list[str] = []
        self.queue: deque[FileRecord] = deque()
        self.queued_residues = 0
        self.inflight: dict[AttemptNumber, Attempt] = {}
        self.speed = weight
        self.learned = LearnedSpeed()
        self.fixed = fixed
        self.errors = errors
        self.pace: float | None = None
        self.longest_gap = 0.0
        self.is_doubted = False
        self.throughput = Throughput()
        self.longest_recent = _LONG_SECONDS
        self.touched_at = now
        self.alive_at = now
        self.has_reported = False
        self.last_progress: float | None = None
        self.stalled_since: float | None = None
        self.busy_since: float | None = None
        self.idle_from = 0.0

    @property
    def has_work(self) -> bool:
        """Whether it holds a file or has files queued."""
        return bool(self.inflight or self.queue)

    @property
    def running(self) -> list[Attempt]:
        """The attempts it holds whose result is still wanted."""
        return [attempt for attempt in self.inflight.values() if not attempt.is_cancelled]

    def free_at(self, now: float) -> float:
        """When it is expected to be up and to have done all that it holds."""
        if self.is_retired or self.stalled_since is not None:
            return NEVER
        begin = now
        if not (
            self.is_ready or self.is_leaving
        ):  # one that is overdue is expected to be late by as much again
            begin += abs(self.spawned_at + self.startup - now)
        for attempt in self.inflight.values():
            if not attempt.is_cancelled:
                begin += attempt.remaining(now)
        return begin

    def finish_at(self, now: float) -> float:
        """When it is expected to have done all that it holds and all that is queued for it."""
        return (
            self.free_at(now)
            + len(self.queue) * self.fixed.seconds
            + self.queued_residues / self.speed
        )

    def seconds(self, residues: float, files: int = 1) -> float:
        """How long it takes for so many files with so many residues in all."""
        return files * self.fixed.seconds + residues / self.speed

    def would_end(self, cost: int, now: float) -> float:
        """When a file of this cost would end if it were queued here, behind the larger ones."""
        residues, files = cost, 1
        for record in self.queue:
            if record.file.residues < cost:
                break
            residues += record.file.residues
            files += 1
        return self.free_at(now) + self.seconds(residues, files)
