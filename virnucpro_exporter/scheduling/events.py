"""What can happen to the scheduler, and what it asks for.

Every event and action is a value. An attempt is one try at one file by one worker, and has a number
that is unique in the run: a message that carries an old number is known to be late.
"""

from __future__ import annotations

from dataclasses import dataclass

from virnucpro_exporter.scheduling.files import SequenceFile


@dataclass(frozen=True, slots=True)
class FilesSubmitted:
    """New files, to be spread over the live workers."""

    files: tuple[SequenceFile, ...]


@dataclass(frozen=True, slots=True)
class WorkerLoading:
    """A worker's process was started; it loads its processor."""

    gpu: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker's process is up, has loaded its processor and can take files."""

    gpu: str


@dataclass(frozen=True, slots=True)
class WorkRequested:
    """A pipeline with threads of its own asks for one file for this worker, now or never."""

    gpu: str


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The worker began to process the file of this attempt."""

    gpu: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The worker got further within a file.

    Attributes:
        gpu: The worker.
        attempt: Which attempt.
        sequences: Sequences of this file done since the attempt began.
        residues: Residues of this file done since then, or None when the processor counts only
            sequences.
    """

    gpu: str
    attempt: int
    sequences: int
    residues: int | None = None


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """The processes of a worker work on the file of this attempt, though they report nothing.

    It says neither how far nor how fast they get.
    """

    gpu: str
    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptCompleted:
    """The worker finished the file.

    Attributes:
        gpu: The worker.
        attempt: Which attempt.
        sequences: Sequences in the file, or None when the processor does not know.
        residues: Residues in the file, or None likewise.
        duration: Seconds the worker spent on it.
        outputs: Names of the files that the attempt left in its folder.
    """

    gpu: str
    attempt: int
    sequences: int | None
    residues: int | None
    duration: float
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt ended in an error; the worker itself is well.

    Attributes:
        gpu: The worker.
        attempt: Which attempt.
        error: What went wrong, in one line.
        permanent: No other attempt could do better (the file itself is at fault).
    """

    gpu: str
    attempt: int
    error: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker's process is gone.

    Attributes:
        gpu: The worker.
        reason: How it ended, in one line.
        restart: It may be tried again; False when its processor could not be set up.
        blame: The file it was processing is charged with a failed attempt.
        running: The attempt it was processing, where that is known; else the first it was handed.
    """

    gpu: str
    reason: str
    restart: bool = True
    blame: bool = True
    running: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker that was not there before, or that was given up and is back (its node joined)."""

    gpu: str
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened; a deadline may have been reached."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Finish the files in process, start no more."""


Event = (
    FilesSubmitted
    | WorkerLoading
    | WorkerReady
    | WorkRequested
    | AttemptStarted
    | Progress
    | SignOfLife
    | AttemptCompleted
    | AttemptFailed
    | WorkerLost
    | WorkerJoined
    | TimePassed
    | DrainRequested
)


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Hand the file to the worker; it processes what it is handed in that order."""

    gpu: str
    attempt: int
    file: SequenceFile


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """Stop the attempt; whatever it still reports is dropped."""

    gpu: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RestartWorker:
    """Start a new process for the worker, after killing the old one if there is one.

    No `WorkerLost` follows for the old process; `WorkerReady` does for the new one.
    """

    gpu: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetireWorker:
    """Kill the worker's process if there is one, and do not start another."""

    gpu: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileCompleted:
    """The file has its one result: that of this attempt. Keep its output."""

    file: SequenceFile
    gpu: str
    attempt: int
    attempts: int
    duration: float
    sequences: int | None
    residues: int | None


@dataclass(frozen=True, slots=True)
class FileRetried:
    """An attempt failed; the file waits for another."""

    file: SequenceFile
    gpu: str
    attempt: int
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class FileFailed:
    """The file is given up."""

    file: SequenceFile
    gpu: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class FileStolen:
    """A file moved from the victim's queue to the thief."""

    file: SequenceFile
    victim: str
    thief: str


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """So many files moved to other queues at once, because speeds are other than believed."""

    files: int


@dataclass(frozen=True, slots=True)
class StallStarted:
    """A worker has made no progress for the stall threshold."""

    gpu: str
    path: str | None
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class StallEnded:
    """A stalled worker made progress again, or was replaced."""

    gpu: str
    stalled_seconds: float


@dataclass(frozen=True, slots=True)
class RunFinished:
    """No file is left to do (or, after a drain, none is in process)."""


Action = (
    StartAttempt
    | CancelAttempt
    | RestartWorker
    | RetireWorker
    | FileCompleted
    | FileRetried
    | FileFailed
    | FileStolen
    | PlanChanged
    | StallStarted
    | StallEnded
    | RunFinished
)
