"""What the scheduler remembers about files, attempts and workers: mutable, and private to it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from virnucpro_exporter.scheduling.files import FileState, SequenceFile
from virnucpro_exporter.scheduling.rates import LearnedSpeed, Throughput
from virnucpro_exporter.snapshot import DURATION_BUCKETS, DurationHistogram

# An overdue attempt is expected to take this share of its silence more: the longer a worker has
# said nothing, the less is it believed to be about to finish.
_OVERDUE_SHARE = 0.5


class FileRecord:
    """One input file and what became of it."""

    __slots__ = ("attempts", "avoid", "failures", "file", "holders", "state", "steals", "story")

    def __init__(self, file: SequenceFile) -> None:
        self.file = file
        self.state = FileState.QUEUED
        self.attempts = 0
        self.failures = 0
        self.steals = 0
        self.holders: tuple[Attempt, ...] = ()
        self.avoid: frozenset[str] = frozenset()  # workers on which it failed or stalled
        self.story: tuple[str, ...] = ()


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


class DurationTally:
    """Counts the durations of completed files by bucket."""

    __slots__ = ("_counts", "_exemplars", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATION_BUCKETS) + 1)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * len(self._counts)
        self._total = 0.0

    def add(self, seconds: float, file_name: str, now: float) -> None:
        """Count one file."""
        bucket = bisect_left(DURATION_BUCKETS, seconds)
        self._counts[bucket] += 1
        self._total += seconds
        self._exemplars[bucket] = (file_name, seconds, now)

    def snapshot(self, wall_offset: float) -> DurationHistogram:
        """The counts as they stand; `wall_offset` makes Unix seconds of the exemplars' times."""
        exemplars = tuple(e and (e[0], e[1], e[2] + wall_offset) for e in self._exemplars)
        return DurationHistogram(tuple(self._counts), self._total, exemplars)


@dataclass(slots=True)
class Counters:
    """What a worker's life adds up to; none of these ever goes down."""

    completed: int = 0
    failures: int = 0
    residues: int = 0
    restarts: int = 0
    stalls: int = 0
    stolen_from: int = 0
    stolen_to: int = 0
    steal_attempts: int = 0
    steals_empty: int = 0
    steals_declined: int = 0
    seconds_won: int = 0
    seconds_lost: int = 0
    busy_seconds: float = 0.0
    starved_seconds: float = 0.0
    stalled_seconds: float = 0.0
    durations: DurationTally = field(default_factory=DurationTally)


class Worker:
    """One worker, its queue, what it holds and how fast it is."""

    def __init__(self, gpu: str, name: str, weight: float, index: int, now: float) -> None:
        self.gpu = gpu
        self.name = name
        self.weight = weight
        self.index = index
        self.counters = Counters()
        # Its process
        self.is_ready = False  # up, and able to take files
        self.is_retired = False  # will never be up again
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
        self.longest_recent = float("inf")  # the longest of the recent files, in seconds
        # Its times
        self.touched_at = now  # the last progress, or when it came up or got its first work
        self.last_progress: float | None = None
        self.stalled_since: float | None = None
        self.busy_since: float | None = None
        self.idle_from = 0.0  # on the clock of waiting files, while it awaits work

    @property
    def has_work(self) -> bool:
        """Whether it holds a file or has files queued."""
        return bool(self.inflight or self.queue)

    def finish_at(self, now: float) -> float:
        """When it is expected to have done all that it holds and all that is queued for it."""
        if self.is_retired or self.stalled_since is not None:
            return float("inf")
        held = sum(attempt.remaining(now) for attempt in self.inflight.values())
        return now + held + self.queued_residues / self.speed

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


class WaitingClock:
    """Counts the files that wait in any queue, and the seconds during which there were some.

    An idle worker is starved while this clock runs, so its starved time is a difference of two
    readings, whatever the number of workers.
    """

    def __init__(self) -> None:
        self.files = 0
        self._seconds = 0.0
        self._since: float | None = None

    def count(self, change: int, now: float) -> None:
        """So many files more wait now."""
        self.files += change
        if self._since is None:
            if self.files > 0:
                self._since = now
        elif self.files == 0:
            self.stop(now)

    def stop(self, now: float) -> None:
        """Nobody waits for a file any more."""
        self._seconds = self.read(now)
        self._since = None

    def read(self, now: float) -> float:
        """Seconds so far."""
        return self._seconds if self._since is None else self._seconds + now - self._since
