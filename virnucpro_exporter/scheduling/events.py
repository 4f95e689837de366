"""Events: the input of the scheduler.

Every event is a value. An attempt is one try at one file by one worker, and has a number that is
unique in the run: a message that carries an old number is known to be late.
"""

from __future__ import annotations

import enum

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.message import message
from virnucpro_exporter.scheduling.parts import BegunFile


@message
class FilesSubmitted:
    """New files, to be assigned to the live workers.

    Attributes:
        files: The files to process.
        skipped: Files of the run that an earlier one has finished.
        awaited: How many more files the run has, which are still being looked at; they count as
            waiting, and the run does not end before they came.
        begun: What an earlier run has left of the files of which it has done parts.
    """

    files: tuple[SequenceFile, ...]
    skipped: tuple[SequenceFile, ...] = ()
    awaited: int = 0
    begun: tuple[BegunFile, ...] = ()


@message
class WorkerLoading:
    """A worker's process was started; it loads its processor."""

    worker_id: WorkerId


@message
class WorkerReady:
    """A worker's process is up, has loaded its processor and can take files.

    Attributes:
        worker_id: The worker.
        can_split: Its processor does parts of files, and gives shares of them away meanwhile.
        cuts_first: Its processor does parts of files, and gives shares away only before it begins.
    """

    worker_id: WorkerId
    can_split: bool = False
    cuts_first: bool = False


@message
class WorkRequested:
    """A pipeline with its own threads requests one file for this worker, without waiting."""

    worker_id: WorkerId


@message
class AttemptStarted:
    """The worker began to process the file of this attempt."""

    worker_id: WorkerId
    attempt: AttemptNumber


@message
class Progress:
    """The worker got further within a file.

    Attributes:
        worker_id: The worker.
        attempt: Which attempt.
        sequences: Sequences of this file done since the attempt began.
        residues: Residues of this file done since then, or None when the processor counts only
            sequences.
    """

    worker_id: WorkerId
    attempt: AttemptNumber
    sequences: int
    residues: int | None = None


@message
class Cut:
    """Where a worker stops now, in the coordinates of the file.

    Attributes:
        at: The first record that begins here or later is not its own any more.
        position: Where the record begins that it has read last; its range begins there before the
            first.
        end: Where it would have stopped; of a file up to its end, that end.
    """

    at: int
    position: int
    end: int


@message
class AttemptShrunk:
    """The worker has given away a share of the range of its attempt, or reports that it cannot.

    Attributes:
        worker_id: The worker.
        attempt: Which attempt.
        cut: Where it stops now; None when it keeps all.
        is_final: It keeps all that it has for good.
    """

    worker_id: WorkerId
    attempt: AttemptNumber
    cut: Cut | None
    is_final: bool = False


@message
class SignOfLife:
    """The processes of a worker work on the file of this attempt, though they report nothing.

    It contains neither progress nor speed.
    """

    worker_id: WorkerId
    attempt: AttemptNumber


@message
class MemoryShort:
    """Batches of a worker did not fit into the memory of its device; it made them smaller.

    Attributes:
        worker_id: The worker.
        times: How often, since its last report.
    """

    worker_id: WorkerId
    times: int


@message
class AttemptCompleted:
    """The worker finished the file.

    Attributes:
        worker_id: The worker.
        attempt: Which attempt.
        sequences: Sequences in the file, or None when the processor does not report it.
        residues: Residues in the file, or None likewise.
        duration: Seconds the worker spent on it.
        outputs: Names of the files that the attempt left in its folder.
    """

    worker_id: WorkerId
    attempt: AttemptNumber
    sequences: int | None
    residues: int | None
    duration: float
    outputs: tuple[str, ...] = ()


@message
class AttemptFailed:
    """The attempt ended in an error; the worker itself is well.

    Attributes:
        worker_id: The worker.
        attempt: Which attempt.
        error: What went wrong, in one line.
        permanent: No other attempt would succeed (the file itself is the cause).
        storage: The storage is the cause, and not the file.
    """

    worker_id: WorkerId
    attempt: AttemptNumber
    error: str
    permanent: bool = False
    storage: bool = False


class LossCause(enum.Enum):
    """Why the process of a worker is gone."""

    SETUP_FAILED = "setup failed"  # its processor cannot be set up
    DIED_LOADING = "died while loading"  # before its processor was set up
    DIED_PROCESSING = "died while processing"  # by itself, with a file in process or without
    CANCELLED = "cancelled"  # killed by the pool, to stop an attempt
    TAKEN_AWAY = "taken away"  # its node took it away, and gives it another
    LEFT_CLUSTER = "left the cluster"  # its node is gone, or does not answer
    CANNOT_START = "cannot start"  # no process can be started there
    CANNOT_BE_KILLED = "cannot be killed"  # it does not end, so that its GPU is not free

    @property
    def is_worth_a_restart(self) -> bool:
        """Whether a new process may succeed."""
        return self in _RESTARTED

    @property
    def is_charged(self) -> bool:
        """Whether the file in process is charged with a failed attempt."""
        return self is LossCause.DIED_PROCESSING


_RESTARTED = frozenset({LossCause.DIED_PROCESSING, LossCause.CANCELLED, LossCause.TAKEN_AWAY})


@message
class WorkerLost:
    """The worker's process is gone.

    Attributes:
        worker_id: The worker.
        reason: How it ended, in one line.
        cause: Why; it decides whether there is a new process, and whether a file is charged.
        running: The attempt it was processing, where that is known; else the first it was handed.
    """

    worker_id: WorkerId
    reason: str
    cause: LossCause = LossCause.DIED_PROCESSING
    running: AttemptNumber | None = None


@message
class WorkerJoined:
    """A worker that was not there before, or that was given up and is back (its node joined)."""

    worker_id: WorkerId
    name: str = ""
    weight: float = 1.0


@message
class WorkerLeaving:
    """A worker has to leave soon: its node ends, or gets other work.

    It gets no more files, and is retired (`RetireWorker`) when it holds none; `WorkerLost` follows.

    Attributes:
        worker_id: The worker.
        reason: Why, in one line.
    """

    worker_id: WorkerId
    reason: str


@message
class TimePassed:
    """Nothing happened; a deadline may have been reached."""


@message
class WorkHeld:
    """Start no file for the moment; those in process go on."""


@message
class WorkReleased:
    """Start files again."""


@message
class DrainRequested:
    """Finish the files in process, start no more."""


# What happens to one worker; each has its `worker_id`.
WorkerEvent = (
    WorkerLoading
    | WorkerReady
    | WorkRequested
    | AttemptStarted
    | Progress
    | AttemptShrunk
    | SignOfLife
    | MemoryShort
    | AttemptCompleted
    | AttemptFailed
    | WorkerLost
    | WorkerJoined
    | WorkerLeaving
)

Event = WorkerEvent | FilesSubmitted | TimePassed | WorkHeld | WorkReleased | DrainRequested
