"""Commands: what the scheduler has its shell carry out."""

from __future__ import annotations

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.message import message


@message
class StartAttempt:
    """Hand the file to the worker; it processes what it is handed in that order.

    Attributes:
        worker_id: The worker.
        attempt: The number of the attempt.
        file: The file, or the part of it.
        joins: The attempts that did the parts of the file, in order: their results are to be put
            together. Empty where the file or part is to be processed.
        share: Where the worker gives shares away before it begins: what it is to do of the range
            at most; `AttemptShrunk` follows. 1 where it may keep all.
    """

    worker_id: WorkerId
    attempt: AttemptNumber
    file: SequenceFile
    joins: tuple[AttemptNumber, ...] = ()
    share: float = 1.0


@message
class ShrinkAttempt:
    """Have the worker give away the last share of what it has not read; `AttemptShrunk` follows.

    Attributes:
        worker_id: The worker.
        attempt: Which attempt.
        share: Above 0, up to 1: all but the record that it reads.
        least_seconds: It keeps all where it would take less time than this for the share, at its
            pace so far. It has the exact progress; the scheduler has an estimate.
    """

    worker_id: WorkerId
    attempt: AttemptNumber
    share: float
    least_seconds: float = 0.0


@message
class CancelAttempt:
    """Stop the attempt; whatever it still reports is dropped."""

    worker_id: WorkerId
    attempt: AttemptNumber


@message
class RestartWorker:
    """Start a new process for the worker, after killing the old one if there is one.

    No `WorkerLost` follows for the old process; `WorkerReady` does for the new one.
    """

    worker_id: WorkerId


@message
class RetireWorker:
    """Kill the worker's process if there is one, and do not start another."""

    worker_id: WorkerId


@message
class KeepOutputs:
    """The attempt produced the file's result: move its outputs to their place."""

    worker_id: WorkerId
    file: SequenceFile
    attempt: AttemptNumber
    outputs: tuple[str, ...]


@message
class DiscardOutputs:
    """The attempt ended without producing the file's result: remove its outputs."""

    attempt: AttemptNumber


Command = (
    StartAttempt
    | ShrinkAttempt
    | CancelAttempt
    | RestartWorker
    | RetireWorker
    | KeepOutputs
    | DiscardOutputs
)
