"""Counters of a run: mutable, and private to the scheduler."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.snapshot import DURATION_BUCKETS, DurationHistogram


class DurationTally:
    """Counts the durations of completed files by bucket."""

    __slots__ = ("_counts", "_exemplars", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATION_BUCKETS) + 1)
        self._exemplars: list[tuple[SequenceFile, float, float] | None]
        self._exemplars = [None] * len(self._counts)
        self._total = 0.0

    def add(self, seconds: float, file: SequenceFile, now: float) -> None:
        """Count one file."""
        bucket = bisect_left(DURATION_BUCKETS, seconds)
        self._counts[bucket] += 1
        self._total += seconds
        self._exemplars[bucket] = (file, seconds, now)

    def snapshot(self, wall_offset: float) -> DurationHistogram:
        """The counts as they stand; `wall_offset` makes Unix seconds of the exemplars' times."""
        exemplars = tuple(e and (e[0].name, e[1], e[2] + wall_offset) for e in self._exemplars)
        return DurationHistogram(tuple(self._counts), self._total, exemplars)


@dataclass(slots=True)
class Counters:
    """The totals of a worker; none of these ever decreases.

    Attributes:
        completed: Files whose result it produced; of those done in parts, the ones that it joined.
        parts: Parts of files that it did.
        failures: Its attempts that counted against the limit of their file.
        sequences: Sequences of the files whose result it gave, without work thrown away.
        residues: Residues done.
        moved: Its attempts that were taken back, because another worker does the file sooner.
        restarts: New processes that it got.
        shortages: Batches that did not fit into the memory of its device.
        stalls: How often it stalled.
        stolen_from: Files that others stole from its queue.
        stolen_to: Files that it stole.
        stolen_residues: Residues of the files that others stole from its queue.
        steal_attempts: Times it requested work with an empty queue.
        steals_empty: Those when no file waited.
        steals_declined: Those when it left what waited to others.
        speculative_won: Its speculative attempts that produced the result.
        speculative_lost: Those that did not.
        busy_seconds: Time in which it held files, without the present one.
        starved_seconds: Time idle while files waited, without the present one.
        stalled_seconds: Time stalled, without the present stall.
        lost_seconds: Time given up, without the present one.
        durations: How long its files took.
    """

    completed: int = 0
    parts: int = 0
    sequences: int = 0
    failures: int = 0
    residues: int = 0
    moved: int = 0
    restarts: int = 0
    shortages: int = 0
    stalls: int = 0
    stolen_from: int = 0
    stolen_to: int = 0
    stolen_residues: int = 0
    steal_attempts: int = 0
    steals_empty: int = 0
    steals_declined: int = 0
    speculative_won: int = 0
    speculative_lost: int = 0
    busy_seconds: float = 0.0
    starved_seconds: float = 0.0
    stalled_seconds: float = 0.0
    lost_seconds: float = 0.0
    durations: DurationTally = field(default_factory=DurationTally)


class WaitingClock:
    """Counts the files that wait in any queue, and the seconds during which there were some.

    An idle worker is starved while this clock runs, so its starved time is a difference of two
    readings, whatever the number of workers.
    """

    __slots__ = ("_is_closed", "_seconds", "_since", "files")

    def __init__(self) -> None:
        self.files = 0
        self._is_closed = False
        self._seconds = 0.0
        self._since: float | None = None

    def count(self, change: int, now: float) -> None:
        """So many files more wait now."""
        self.files += change
        if self._since is None:
            if self.files > 0 and not self._is_closed:
                self._since = now
        elif self.files == 0:
            self.stop(now)

    def stop(self, now: float) -> None:
        """No worker waits for a file any more."""
        self._seconds = self.read(now)
        self._since = None

    def close(self, now: float) -> None:
        """No worker will wait for a file any more, whatever happens."""
        self.stop(now)
        self._is_closed = True

    def read(self, now: float) -> float:
        """Seconds so far."""
        # In this order the sum never goes down by a rounding error, as a counter must not.
        return self._seconds if self._since is None else self._seconds + (now - self._since)
