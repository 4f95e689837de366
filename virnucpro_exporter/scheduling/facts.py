"""Facts: what happened, for journal, log, report and views, each with its reason.

The scheduler reports each fact once, in the order decided. Consumers match facts with `match` and
`assert_never`, so that a new fact that one of them does not handle fails type checking.
Times are seconds on the scheduler's clock.
"""

from __future__ import annotations

import enum

from virnucpro_exporter.scheduling.files import FilePart, SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.message import message


class Outcome(enum.Enum):
    """How an attempt ended."""

    COMPLETED = "completed"  # it produced the file's one result
    FAILED = "failed"  # in an error of its processor
    TIMED_OUT = "timed out"  # it took longer than the limit for a file
    SUPERSEDED = "superseded"  # another attempt at the file was first, or the file was given up
    MOVED = "moved"  # taken back, because another worker does the file sooner
    WORKER_LOST = "worker lost"  # its worker's process is gone


@message
class FileStarted:
    """A worker was handed a file.

    Attributes:
        file: The file.
        worker_id: The worker.
        attempt: The number of the attempt.
        is_speculative: Another worker holds the file too; the first to complete wins.
    """

    file: SequenceFile
    worker_id: WorkerId
    attempt: AttemptNumber
    is_speculative: bool


@message
class AttemptEnded:
    """An attempt is over; whatever comes of it later is dropped.

    Attributes:
        attempt: Its number.
        worker_id: The worker that had it.
        file: The file.
        outcome: How it ended.
        reason: Why, in one line; empty for one that completed.
        started_at: When the worker began, or None where it was handed over and not begun.
        outputs: Names of the files that it left; of one that completed alone.
        is_charged: It counts against the limit of failures of its file.
    """

    attempt: AttemptNumber
    worker_id: WorkerId
    file: SequenceFile
    outcome: Outcome
    reason: str
    started_at: float | None
    outputs: tuple[str, ...] = ()
    is_charged: bool = False


@message
class FileQueued:
    """A file that was in process waits again, because its last attempt ended without a result.

    Attributes:
        file: The file.
        worker_id: The worker in whose queue it is.
        cause: How the attempt ended.
        reason: Why, in one line.
        ended_on: The worker that had the attempt.
        attempts: Attempts at the file so far.
        is_charged: The attempt counts against the limit of failures.
    """

    file: SequenceFile
    worker_id: WorkerId
    cause: Outcome
    reason: str
    ended_on: WorkerId
    attempts: int
    is_charged: bool


@message
class FileCompleted:
    """The file has its one result.

    Attributes:
        file: The file.
        worker_id: The worker that gave it.
        attempt: The attempt that gave it; of a file done in parts, the one that joined them.
        attempts: Attempts at the file, this one included; of one done in parts, those at its parts.
        duration: Seconds that this one took.
        sequences: Sequences in the file, or None when that is not known.
        residues: Residues in the file.
        outputs: Names of the files that are its result.
        parts: Of how many parts the results were joined; 0 for a file that was done whole.
    """

    file: SequenceFile
    worker_id: WorkerId
    attempt: AttemptNumber
    attempts: int
    duration: float
    sequences: int | None
    residues: int
    outputs: tuple[str, ...] = ()
    parts: int = 0


@message
class FileSplit:
    """A worker has given the end of its range away, which waits for another.

    Attributes:
        part: What the worker keeps.
        rest: What it gave away.
        worker_id: The worker.
        attempt: Its attempt, which goes on.
        target: The worker in whose queue the rest is.
        is_left: The run drains: the rest waits for the next run.
    """

    part: FilePart
    rest: FilePart
    worker_id: WorkerId
    attempt: AttemptNumber
    target: WorkerId
    is_left: bool = False

    @property
    def file(self) -> SequenceFile:
        """What is split."""
        return self.part


@message
class PartCompleted:
    """A part of a file is done; its results stay where they are until all parts are.

    Attributes:
        file: The part, with its residues.
        worker_id: The worker that did it.
        attempt: The attempt that did it.
        attempts: Attempts at the part, this one included.
        duration: Seconds that this one took.
        sequences: Sequences in the part, or None when that is not known.
        residues: Residues in the part.
        outputs: Names of the files that are its result, in the folder of the attempt.
    """

    file: FilePart
    worker_id: WorkerId
    attempt: AttemptNumber
    attempts: int
    duration: float
    sequences: int | None
    residues: int
    outputs: tuple[str, ...] = ()


@message
class FileFailed:
    """The file is given up.

    Attributes:
        file: The file.
        worker_id: The worker that had the last attempt.
        attempts: Attempts at the file, however they ended.
        failures: Those that count against the limit.
        limit: Failures after which a file is given up.
        error: What went wrong in the last one.
    """

    file: SequenceFile
    worker_id: WorkerId
    attempts: int
    failures: int
    limit: int
    error: str

    @property
    def is_permanent(self) -> bool:
        """Whether the file itself is the cause, so that no other attempt would succeed."""
        return self.failures < self.limit


@message
class FileStolen:
    """A waiting file went from the victim's queue to the thief, which starts it."""

    file: SequenceFile
    victim: WorkerId
    thief: WorkerId


@message
class Moved:
    """One file of a new plan: from the worker that had it to the queue of another."""

    file: SequenceFile
    source: WorkerId
    target: WorkerId


@message
class PlanChanged:
    """Files went to the queues of other workers at once, as speeds differ from those expected."""

    moves: tuple[Moved, ...]


@message
class StallStarted:
    """A worker has made no progress for the stall threshold.

    Attributes:
        worker_id: The worker.
        path: The file that it holds, or None.
        silent_seconds: How long ago its last progress was.
    """

    worker_id: WorkerId
    path: str | None
    silent_seconds: float


@message
class StallEnded:
    """A stalled worker made progress again, or was replaced, after so many seconds."""

    worker_id: WorkerId
    stalled_seconds: float


@message
class WorkerRestarted:
    """The worker gets a new process."""

    worker_id: WorkerId
    reason: str


@message
class WorkerRetired:
    """The worker is given up, or has left in order.

    Attributes:
        worker_id: The worker.
        reason: Why, in one line.
        has_left: It had announced that it would leave.
    """

    worker_id: WorkerId
    reason: str
    has_left: bool = False


@message
class MemoryRanShort:
    """Batches did not fit into the memory of a worker's device, and were made smaller.

    Attributes:
        worker_id: The worker.
        times: How often since the run began.
    """

    worker_id: WorkerId
    times: int


@message
class RunFinished:
    """No file is left to do (or, after a drain, none is in process)."""


Fact = (
    FileStarted
    | AttemptEnded
    | FileQueued
    | FileSplit
    | PartCompleted
    | FileCompleted
    | FileFailed
    | FileStolen
    | PlanChanged
    | StallStarted
    | StallEnded
    | WorkerRestarted
    | WorkerRetired
    | MemoryRanShort
    | RunFinished
)
