"""What is to be done: the scheduler's words to the shell that carries attempts out."""

from __future__ import annotations

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.message import message


@message
class StartAttempt:
    """Hand the file to the worker; it processes what it is handed in that order."""

    worker_id: WorkerId
    attempt: AttemptNumber
    file: SequenceFile


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
    """The attempt gave the file its result: move what it wrote to its place."""

    file: SequenceFile
    attempt: AttemptNumber
    outputs: tuple[str, ...]


@message
class DiscardOutputs:
    """The attempt ended without being the file's result: remove what it wrote."""

    attempt: AttemptNumber


Command = StartAttempt | CancelAttempt | RestartWorker | RetireWorker | KeepOutputs | DiscardOutputs
