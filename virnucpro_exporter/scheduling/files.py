"""Files: the unit of work, its states, and the attempts at it.

A step that is not in `TRANSITIONS` is a defect of the caller or of the scheduler, and raises an
error with the story of the file. `docs/states.svg` is drawn from this table.

Records and attempts are mutable and private to the scheduler: only `state` changes them.
"""

from __future__ import annotations

import enum
import posixpath
from typing import TYPE_CHECKING

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.message import message
from virnucpro_exporter.scheduling.speed import NEVER, RecentSpeed

if TYPE_CHECKING:
    from virnucpro_exporter.scheduling.parts import SplitFile
    from virnucpro_exporter.scheduling.workers import Worker

# However little is left of an attempt, it is expected to take this share of the time since that was
# known: estimates are off by about that much.
_OVERDUE_SHARE = 0.2
_IN_TIME = 1.0 + _OVERDUE_SHARE

# An attempt that has fallen silent is not expected to end any more after this share of what its
# file takes, within bounds, and not before twice the longest silence so far between two reports of
# its worker. In seconds. A needless speculative attempt may cost a process, so the time that a new
# one takes to start is another bound.
_PATIENCE_SHARE = 0.25
_PATIENCE_AT_LEAST = 5.0
_PATIENCE_AT_MOST = 60.0
_PATIENCE_GAPS = 2.0

# One for all files: since Python 3.10 each frozenset() is a new object, of 216 bytes.
NOBODY: frozenset[WorkerId] = frozenset()


@message
class SequenceFile:
    """One FASTA or FASTQ file.

    Attributes:
        path: Its path; bytes that are not UTF-8 are surrogate escapes (`os.fsdecode`).
        sequences: Number of records; None if not counted.
        residues: Number of bases or amino acids, counted or estimated: the cost of the file.
        likely_sequences: Number of records estimated from a sample; None without an estimate.
    """

    path: str
    sequences: int | None = None
    residues: int = 1
    likely_sequences: int | None = None

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return posixpath.basename(self.path)


@message
class FilePart(SequenceFile):
    """A contiguous range of whole records of a file: those whose first byte lies in the range.

    `sequences` and `residues` are those of the part, as far as known.

    Attributes:
        start: Start of the range, in the file's own coordinates, which grow along the file.
        stop: End of the range, or None at the end of the file.
    """

    start: int = 0
    stop: int | None = None


class FileState(enum.Enum):
    """The state of a file; the normal path is queued, processing, completed."""

    __hash__ = object.__hash__  # that of Enum is written in Python, and `step` needs it twice

    QUEUED = "queued"  # in the queue of one worker
    PROCESSING = "processing"  # held by one worker, or by two
    COMPLETED = "completed"  # it has its one result
    FAILED = "failed"  # given up


class Step(enum.Enum):
    """What can happen to a file."""

    __hash__ = object.__hash__  # as above

    START = "start"  # an attempt begins; of a file in process, a speculative one
    STEAL = "steal"  # it goes to another worker, which starts it at once
    MOVE = "move"  # it goes into another worker's queue
    COMPLETE = "complete"
    REQUEUE = "requeue"  # no worker holds it any more, and it has no result yet
    GIVE_UP = "give up"


TRANSITIONS: dict[tuple[FileState, Step], FileState] = {
    (FileState.QUEUED, Step.START): FileState.PROCESSING,
    (FileState.QUEUED, Step.STEAL): FileState.QUEUED,
    (FileState.QUEUED, Step.MOVE): FileState.QUEUED,
    (FileState.QUEUED, Step.GIVE_UP): FileState.FAILED,  # a part whose file is given up
    (FileState.PROCESSING, Step.START): FileState.PROCESSING,
    (FileState.PROCESSING, Step.COMPLETE): FileState.COMPLETED,
    (FileState.PROCESSING, Step.REQUEUE): FileState.QUEUED,
    (FileState.PROCESSING, Step.GIVE_UP): FileState.FAILED,
}


_QUEUED = FileState.QUEUED  # before Python 3.12 looking a member up takes as long as a call


class FileRecord:
    """One unit of work and its state: a file, a part of one, or the join of its parts.

    Attributes:
        file: The file.
        state: Its state.
        attempts: Number of attempts started, however they ended.
        failures: Number of those that count against the limit.
        steals: How often it was stolen.
        moves: How often it was taken back from a worker that made progress.
        holders: The attempts in process: none, one, or one and a speculative one.
        avoid: Workers on which it failed, or from which it was taken back.
        notes: Problems so far, in words.
        split: The file that this is a part of, or the join of; None for a whole file.
    """

    __slots__ = (
        "attempts",
        "avoid",
        "failures",
        "file",
        "holders",
        "moves",
        "notes",
        "split",
        "state",
        "steals",
    )

    def __init__(self, file: SequenceFile) -> None:
        self.file = file
        self.state = _QUEUED
        self.attempts = 0
        self.failures = 0
        self.steals = 0
        self.moves = 0
        self.holders: tuple[Attempt, ...] = ()
        self.avoid = NOBODY
        self.notes: tuple[str, ...] = ()
        self.split: SplitFile | None = None

    @property
    def is_join(self) -> bool:
        """Whether this puts the results of all parts of a file together."""
        return self.split is not None and self.split.join is self

    def step(self, step: Step) -> None:
        """Apply a step to the file.

        Raises:
            SchedulingError: The step is not allowed in the present state.
        """
        try:
            self.state = TRANSITIONS[self.state, step]
        except KeyError:
            raise SchedulingError(
                f"{step.value!r} cannot happen to a file that is {self.state.value}; "
                f"its story: {self.story()}"
            ) from None

    def story(self) -> str:
        """What happened to the file so far, in one line."""
        holders = ", ".join(f"attempt {a.number} on {a.worker.id}" for a in self.holders)
        facts = [self.state.value, f"{self.attempts} attempts", f"{self.steals} steals"]
        held = [f"held by {holders}"] if holders else []
        return "; ".join([self.file.path, *facts, *self.notes, *held])


class Attempt:
    """One try at one file by one worker.

    Attributes:
        number: Its number.
        record: The file.
        worker: The worker that holds it.
        is_speculative: Another attempt at the file was in process when this one started.
        is_cancelled: Its worker was instructed to stop it and has not confirmed that yet; its
            result is no longer wanted.
        handed_at: When the file was handed to the worker.
        started_at: When the worker began to process it, if it has reported that.
        reported_at: When the worker last reported how far it is; at first, when it was handed over.
        counted_at: When `done` was true.
        recent: Its speed over its last minute, or None before the first residues.
        start: Seconds until the first report of residues, and their number; None before it and
            after the next report.
        pace: Seconds per residue between its last two reports, or None.
        silent: Seconds of a stall that ended by itself; they do not count towards its speed.
        done: Residues done.
        sequences: Sequences done.
        asked_at: When its worker was requested to give away a share of the range; None when no
            answer is pending.
        asked_for: The worker that is to get that share.
        keeps_all: Its worker cannot give anything away.
        save_at: When ending the part is next considered, which limits the work that a kill loses.
    """

    __slots__ = (
        "asked_at",
        "asked_for",
        "counted_at",
        "done",
        "handed_at",
        "is_cancelled",
        "is_speculative",
        "keeps_all",
        "number",
        "pace",
        "recent",
        "record",
        "reported_at",
        "save_at",
        "sequences",
        "silent",
        "start",
        "started_at",
        "worker",
    )

    def __init__(
        self,
        number: AttemptNumber,
        record: FileRecord,
        worker: Worker,
        now: float,
        *,
        is_speculative: bool,
    ) -> None:
        self.number = number
        self.record = record
        self.worker = worker
        self.is_speculative = is_speculative
        self.is_cancelled = False
        self.handed_at = now
        self.started_at: float | None = None
        self.reported_at = now
        self.counted_at = now
        self.recent: RecentSpeed | None = None
        self.start: tuple[float, int] | None = None
        self.pace: float | None = None
        self.silent = 0.0
        self.done = 0
        self.sequences = 0
        self.asked_at: float | None = None
        self.asked_for: Worker | None = None
        self.keeps_all = False
        self.save_at = 0.0

    @property
    def can_shrink(self) -> bool:
        """Whether its worker may give away a share of the range while it processes it."""
        return self.worker.can_split and not self.keeps_all and not self.record.is_join

    @property
    def left(self) -> int:
        """Residues still to do, as far as known."""
        left = self.record.file.residues - self.done
        return max(left, 0)

    def remaining(self, now: float) -> float:
        """Estimated seconds until it ends; infinite while its worker is stalled or it is quiet.

        The larger of two estimates, from its worker's speed and from its own last minute: a GPU may
        have become slower, and the content of a file may be slow on every GPU. An overdue attempt
        is expected to take as long again as it is overdue.
        """
        worker, since = self.worker, now - self.counted_at
        if worker.stalled_since is not None or (worker.longest_gap and self.is_quiet(now)):
            return NEVER
        if not self.done:
            expected = worker.fixed.seconds + self.record.file.residues / worker.speed
        else:
            left = self.left
            expected = left / worker.speed
            pace = None if self.recent is None else self.recent.seconds_per_residue
            if pace is not None:
                expected = max(expected, left * pace)
        if expected >= _IN_TIME * since:
            return expected - since
        return max(since - expected, _OVERDUE_SHARE * since)

    def is_quiet(self, now: float) -> bool:
        """Whether a worker that reports progress has fallen silent.

        This includes the end of its file, where the limit is doubled: it may be writing results.
        """
        gap = self.worker.longest_gap
        if not gap or now - self.reported_at <= _PATIENCE_GAPS * gap:
            return False
        share = _PATIENCE_SHARE * self.worker.seconds(self.record.file.residues)
        patience = max(min(share, _PATIENCE_AT_MOST), self.worker.startup, _PATIENCE_AT_LEAST)
        return now - self.reported_at > (patience if self.left else 2.0 * patience)

    def likely_done(self, now: float) -> float:
        """Estimated residues done by now, between reports or without any."""
        return self.done + (now - self.counted_at) * self.worker.speed
