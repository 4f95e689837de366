"""Parts of files: the state of a split file, and which worker takes which share of what.

A file is done whole as long as files wait. When none does, an idle worker takes from the range that
ends last the share by which both end together, unless its part would be shorter than what it costs
beside its residues. The worker that holds the range reports where it stops before the other begins,
so no record is in two parts; one that does not answer keeps its range until it is lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virnucpro_exporter.scheduling.files import Attempt, FilePart, FileRecord, SequenceFile
from virnucpro_exporter.scheduling.files import FileState as State
from virnucpro_exporter.scheduling.ids import AttemptNumber
from virnucpro_exporter.scheduling.speed import NEVER

if TYPE_CHECKING:
    from virnucpro_exporter.scheduling.workers import Worker

# Whatever was learned, a part that takes less than this is not worth a process that begins it, a
# folder and its share of the join, in seconds.
LEAST_PART_SECONDS = 0.5

# A worker that has not answered for so long is passed over until it does, in seconds.
ANSWER_SECONDS = 2.0

# As long as nothing is known of how fast any worker is, an attempt is left alone for so long, in
# seconds. Then its worker, which sees how far it is, decides whether a share is worth it.
UNKNOWN_SECONDS = 1.0

# A worker that cannot give anything away once it has begun takes this share of what it would do of
# all that is left, but at least this share of what it would do of the file, and so many residues.
FIRST_SHARE = 0.5
_LEAST_SHARE = 0.0625
_LEAST_RESIDUES = 1_000_000

# A part ends after this share of what the run takes, unless what it costs beside its residues
# would then be more than this share of it, and not before so many seconds.
PART_SHARE = 1 / 32
PART_OVERHEAD = 1 / 300
LEAST_SAVED_SECONDS = 1.0

# To put results together takes about this share of the time of making them.
JOIN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class PartResult:
    """What a part that is done has left.

    Attributes:
        attempt: The attempt that did it, in whose folder its outputs are.
        sequences: Sequences in the part, or None when that is not known.
        residues: Residues in the part.
        outputs: Names of its outputs.
        duration: Seconds that it took.
    """

    attempt: AttemptNumber
    sequences: int | None
    residues: int
    outputs: tuple[str, ...] = ()
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class BegunFile:
    """A file of which an earlier run has done parts.

    Attributes:
        file: The whole file.
        parts: All of its parts in order, each with its result where it is done.
    """

    file: SequenceFile
    parts: tuple[tuple[FilePart, PartResult | None], ...]


class SplitFile:
    """A file that is done in parts. Mutable, and private to the scheduler.

    Attributes:
        file: The whole file.
        parts: Its parts, in order.
        results: What those that are done have left, by where they begin.
        join: What puts the results together, once all parts are done.
    """

    __slots__ = ("file", "join", "parts", "results")

    def __init__(self, file: SequenceFile, parts: Iterable[FileRecord]) -> None:
        self.file = file
        self.parts = list(parts)
        self.results: dict[int, PartResult] = {}
        self.join: FileRecord | None = None

    @property
    def is_done(self) -> bool:
        """Whether all parts are done."""
        return len(self.results) == len(self.parts)

    @property
    def has_failed(self) -> bool:
        """Whether the file is given up."""
        records = (*self.parts, self.join) if self.join else self.parts
        return any(record.state is State.FAILED for record in records)

    @property
    def in_order(self) -> list[PartResult]:
        """The results of the parts that are done, in the order of the file."""
        return [self.results[start] for start in sorted(self.results)]

    @property
    def sequences(self) -> int | None:
        """Sequences in the file, once all parts are done; None when that is not known."""
        known = [r.sequences for r in self.results.values() if r.sequences is not None]
        return sum(known) if len(known) == len(self.parts) else self.file.sequences

    @property
    def residues(self) -> int:
        """Residues in the parts that are done."""
        return sum(result.residues for result in self.results.values())

    def ranges(self) -> dict[FileRecord, tuple[float, float]]:
        """Where in the file each part begins and ends, as shares of its residues, 0 to 1."""
        ends = [0, *itertools.accumulate(record.file.residues for record in self.parts)]
        shares = itertools.pairwise(end / ends[-1] for end in ends)
        return dict(zip(self.parts, shares, strict=True))


def start_of(file: SequenceFile) -> int:
    """Where a file or a part of one begins."""
    return file.start if isinstance(file, FilePart) else 0


def stop_of(file: SequenceFile) -> int | None:
    """Where a file or a part of one ends; None at the end of the file."""
    return file.stop if isinstance(file, FilePart) else None


def cut_at(file: SequenceFile, at: int, end: int) -> tuple[FilePart, FilePart]:
    """The two parts of a file or part that is cut; residues are spread evenly over it.

    Args:
        file: What is cut.
        at: Where.
        end: Where it ends, as a number.
    """
    start = start_of(file)
    share = (end - at) / (end - start)
    given = min(max(round(file.residues * share), 1), max(file.residues - 1, 1))
    kept = max(file.residues - given, 1)
    sequences, sampled = _divide(file.sequences, share), _divide(file.likely_sequences, share)
    return (
        FilePart(file.path, sequences[0], kept, sampled[0], start, at),
        FilePart(file.path, sequences[1], given, sampled[1], at, stop_of(file)),
    )


def _divide(count: int | None, share: float) -> tuple[int | None, int | None]:
    """What stays and what goes of a count."""
    if count is None:
        return None, None
    given = round(count * share)
    return count - given, given


@dataclass(frozen=True, slots=True)
class Share:
    """What an idle worker should take.

    Attributes:
        thief: The worker.
        attempt: From which attempt.
        share: Of what that has not done yet.
    """

    thief: Worker
    attempt: Attempt
    share: float


def choose_shares(idle: Sequence[Worker], workers: Sequence[Worker], now: float) -> list[Share]:
    """Which idle worker takes which share of what; the ranges that end last come first.

    A range is asked for one share at a time, and while the one that ends last is about to begin or
    to answer, nothing else is cut up in its place.

    Args:
        idle: Workers without work, the fastest first.
        workers: All of them.
        now: The present time.
    """
    free = [worker for worker in idle if worker.can_split]
    if not free:
        return []
    is_pace_known = any(worker.learned.value is not None for worker in workers)
    running = [
        (attempt.remaining(now), attempt)
        for worker in workers
        for attempt in worker.inflight.values()
        if not attempt.is_cancelled and attempt.can_shrink and len(attempt.record.holders) == 1
    ]
    running.sort(key=lambda pair: -pair[0])
    asked = [a for _, a in running if a.asked_at is not None and not _is_overdue(a, now)]
    awaited = {attempt.asked_for for attempt in asked}
    free, shares = [worker for worker in free if worker not in awaited], []
    for remaining, attempt in running:
        if not free:
            break
        if remaining == NEVER or _is_overdue(attempt, now):
            continue
        if attempt.asked_at is not None or attempt.started_at is None:
            break
        if not is_pace_known and now - attempt.started_at < UNKNOWN_SECONDS:
            continue
        thief = next((w for w in free if w.id not in attempt.record.avoid), None)
        share = None if thief is None else fair_share(attempt.worker, thief, remaining)
        if thief is None or share is None:
            continue
        free.remove(thief)
        shares.append(Share(thief, attempt, share))
    return shares


def is_whole(attempt: Attempt) -> bool:
    """Whether all that an attempt has must be done by its worker, or anew by another.

    Of any other an idle worker takes a share, so that there is no need to do anything twice, or
    its worker is about to give the rest away before it begins.
    """
    is_asked = attempt.asked_at is not None
    return not (attempt.can_shrink or attempt.record.is_join or is_asked)


def _is_overdue(attempt: Attempt, now: float) -> bool:
    return attempt.asked_at is not None and now - attempt.asked_at > ANSWER_SECONDS


def fair_share(holder: Worker, thief: Worker, remaining: float) -> float | None:
    """The share of what is left by which both end together; None where it is not worth it.

    Args:
        holder: The worker that has the range.
        thief: The worker that would take the end of it.
        remaining: Seconds that the holder needs for all that is left.
    """
    overhead = thief.fixed.seconds
    if remaining <= overhead:  # it may be nothing at all
        return None
    slower = holder.speed / thief.speed
    share = (remaining - overhead) / (remaining * (1.0 + slower))
    seconds = share * remaining * slower
    return share if seconds >= max(overhead, LEAST_PART_SECONDS) else None


def part_seconds(workers: Sequence[Worker], residues: int, worker: Worker) -> float:
    """How long a part takes at most, so that little has to be done again after a kill.

    Args:
        workers: All that take files.
        residues: Of all files of the run.
        worker: The worker of the part.
    """
    run = residues / sum(other.speed for other in workers)
    return max(run * PART_SHARE, worker.fixed.likely().seconds / PART_OVERHEAD, LEAST_SAVED_SECONDS)


def first_share(worker: Worker, record: FileRecord, workers: Sequence[Worker], left: int) -> float:
    """What a worker is to do of a range that it cannot give away from once it has begun.

    The parts become smaller as less is left, so that all workers end at about the same time.

    Args:
        worker: The worker.
        record: The range.
        workers: All that take files.
        left: Residues of all that is not done.
    """
    residues = record.file.residues
    whole = record.file if record.split is None else record.split.file
    others = sum(other.speed for other in workers if other is not worker)
    fair = worker.speed / (worker.speed + others)
    seconds = 2.0 * max(worker.fixed.seconds, LEAST_PART_SECONDS)
    known = _LEAST_RESIDUES if worker.learned.value is None else seconds * worker.speed
    least = max(_LEAST_SHARE * fair * whole.residues, known)
    kept = max(FIRST_SHARE * fair * left, least)
    return kept / residues if kept + least <= residues else 1.0
