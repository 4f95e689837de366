"""What the scheduler remembers about files, attempts and workers: mutable, and private to it."""

from __future__ import annotations

from collections import deque

from virnucpro_exporter.scheduling.counters import Counters
from virnucpro_exporter.scheduling.files import FileState, SequenceFile
from virnucpro_exporter.scheduling.speed import LearnedSpeed, Throughput

# An overdue attempt is expected to take this share of its silence more: the longer a worker has
# said nothing, the less is it believed to be about to finish.
_OVERDUE_SHARE = 0.5

# One for all files: since Python 3.10 each frozenset() is a new object, of 216 bytes.
NOBODY: frozenset[str] = frozenset()

# A worker that has done nothing yet counts as having done a file of so many seconds: it gets files
# one by one until some twenty of them were short.
_LONG_SECONDS = 10.0


class FileRecord:
    """One input file and what became of it."""

    __slots__ = (
        "attempts",
        "avoid",
        "errors",
        "failures",
        "file",
        "holders",
        "moves",
        "state",
        "steals",
    )

    def __init__(self, file: SequenceFile) -> None:
        self.file = file
        self.state = FileState.QUEUED
        self.attempts = 0
        self.failures = 0
        self.steals = 0
        self.moves = 0  # how often it was taken back from a worker that made progress
        self.holders: tuple[Attempt, ...] = ()
        self.avoid = NOBODY  # workers on which it failed or stalled
        self.errors: tuple[str, ...] = ()

    def story(self) -> str:
        """What happened to the file so far, in one line."""
        holders = ", ".join(f"attempt {a.number} on {a.worker.gpu}" for a in self.holders)
        facts = [self.state.value, f"{self.attempts} attempts", f"{self.steals} steals"]
        held = [f"held by {holders}"] if holders else []
        return "; ".join([self.file.path, *facts, *self.errors, *held])


class Attempt:
    """One try at one file by one worker."""

    __slots__ = (
        "done",
        "is_cancelled",
        "is_second",
        "number",
        "record",
        "reported_at",
        "sequences",
        "started_at",
        "worker",
    )

    def __init__(
        self, number: int, record: FileRecord, worker: Worker, now: float, *, is_second: bool
    ) -> None:
        self.number = number
        self.record = record
        self.worker = worker
        self.is_second = is_second
        self.is_cancelled = False
        self.started_at: float | None = None
        self.reported_at = now
        self.done = 0  # residues
        self.sequences = 0

    @property
    def left(self) -> int:
        """Residues still to do, as far as known."""
        return max(self.record.file.residues - self.done, 0)

    def remaining(self, now: float) -> float:
        """Estimated seconds until it ends; infinite while its worker stalls."""
        if self.worker.stalled_since is not None:
            return float("inf")
        silence = now - self.reported_at
        return max(self.left / self.worker.speed - silence, _OVERDUE_SHARE * silence)


class Worker:
    """One worker, its queue, what it holds and how fast it is."""

    __slots__ = (
        "alive_at",
        "awaits_work",
        "busy_since",
        "counters",
        "gpu",
        "has_reported",
        "idle_from",
        "index",
        "inflight",
        "is_loading",
        "is_ready",
        "is_retired",
        "last_progress",
        "learned",
        "longest_recent",
        "name",
        "queue",
        "queued_residues",
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

    def __init__(self, gpu: str, name: str, weight: float, index: int, now: float) -> None:
        self.gpu = gpu
        self.name = name
        self.weight = weight
        self.index = index
        self.counters = Counters()
        # Its process
        self.is_loading = False  # up, and setting its processor up
        self.is_ready = False  # up, and able to take files
        self.is_retired = False  # will never be up again
        self.spawned_at = now  # when its process was last started
        self.startup = 0.0  # seconds until its last process was ready
        self.slow_setups = 0  # processes in a row that took too long to load
        self.awaits_work = False  # asked for a file and got none
        self.troubles: list[str] = []  # files on which its process was lost since the last success
        # Its work
        self.queue: deque[FileRecord] = deque()  # largest first
        self.queued_residues = 0
        self.inflight: dict[int, Attempt] = {}  # in the order in which they were handed over
        # Its speed
        self.speed = weight  # residues per second once anything was learned
        self.learned = LearnedSpeed()
        self.throughput = Throughput()
        self.longest_recent = _LONG_SECONDS  # the longest of the recent files
        # Its times
        self.touched_at = now  # the last progress, or when it came up or got its first work
        self.alive_at = now  # the last sign of life other than progress
        self.has_reported = False  # progress within a file
        self.last_progress: float | None = None
        self.stalled_since: float | None = None
        self.busy_since: float | None = None
        self.idle_from = 0.0  # on the clock of waiting files, while it awaits work

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
            return float("inf")
        begin = now if self.is_ready else max(now, self.spawned_at + self.startup)
        for attempt in self.inflight.values():
            if not attempt.is_cancelled:
                begin += attempt.remaining(now)
        return begin

    def finish_at(self, now: float) -> float:
        """When it is expected to have done all that it holds and all that is queued for it."""
        return self.free_at(now) + self.queued_residues / self.speed

    def would_end(self, cost: int, now: float) -> float:
        """When a file of this cost would end if it were queued here, behind the larger ones."""
        before = 0
        for record in self.queue:
            if record.file.residues < cost:
                break
            before += record.file.residues
        return self.free_at(now) + (before + cost) / self.speed

    def end_busy(self, now: float) -> None:
        """It holds nothing any more."""
        if self.busy_since is not None:
            self.counters.busy_seconds += now - self.busy_since
            self.busy_since = None

    def push(self, record: FileRecord) -> None:
        """Queue a file at its place by cost."""
        cost = record.file.residues
        position = next((i for i, r in enumerate(self.queue) if r.file.residues < cost), None)
        if position is None:
            self.queue.append(record)
        else:
            self.queue.insert(position, record)
        self.queued_residues += cost

    def take(self, position: int) -> FileRecord:
        """Take the file at a position out of the queue."""
        record = self.queue[position]
        del self.queue[position]
        self.queued_residues -= record.file.residues
        return record
