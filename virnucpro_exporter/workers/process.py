"""The pool's side of one worker process: its messages, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from virnucpro_exporter.scheduling.commands import StartAttempt
from virnucpro_exporter.scheduling.events import (
    AttemptCompleted,
    AttemptFailed,
    AttemptShrunk,
    AttemptStarted,
    Cut,
    LossCause,
    MemoryShort,
    Progress,
    WorkerEvent,
    WorkerLost,
    WorkerReady,
)
from virnucpro_exporter.scheduling.files import FilePart
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.workers import wire
from virnucpro_exporter.workers.starts import NEVER

# A worker whose channel is closed is on its way out; one that is still there then is killed.
LEAVE_SECONDS = 1.0

# A worker that has not responded to a cancellation for so long is killed.
CANCEL_SECONDS = 10.0

# A worker that is killed and does not die for so long is given up.
DIE_SECONDS = 10.0

# Signals that a job scheduler or a terminal may send to all processes of a job: only the program
# handles them.
JOB_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program of our own, which begins with the job's signals blocked.

    So no such signal kills it before it has said what it makes of them. It leads a session unless
    the options of `subprocess.Popen` say otherwise.

    Raises:
        OSError: The system could not start it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        return subprocess.Popen(argv, **{"start_new_session": True, **options})  # noqa: S603 - our own modules
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_message(action: StartAttempt) -> wire.Message:
    """The message to a worker to process a file or a part of one, or to join a file's parts."""
    path, file = os.fsencode(action.file.path), action.file
    if action.joins:
        return wire.START, action.attempt, path, None, 1.0, action.joins
    stretch = (file.start, file.stop) if isinstance(file, FilePart) else None
    if stretch is not None or action.share < 1.0:
        return wire.START, action.attempt, path, stretch, action.share
    return wire.START, action.attempt, path


_EVENTS: Mapping[int, Callable[..., WorkerEvent]] = {
    wire.STARTED: AttemptStarted,
    wire.PROGRESS: Progress,
    wire.FAILED: AttemptFailed,
    wire.MEMORY_SHORT: MemoryShort,
}


class Child:
    """One worker process.

    Args:
        worker_id: The worker's id.
        process: Its process.
        channel: Our end of its channel.

    Attributes:
        death: A descriptor that becomes readable when the process ends.
        outgoing: Packets that it has not taken yet.
        moved: Attempts whose outputs it has reported moved since this was last read.
        ready: Its processor is set up.
        cancellable: Its processor can stop a file by itself.
        held: Attempts that it was handed and has not reported the end of.
        cancels: When each of those was cancelled that were (pool's clock, s).
        closed_at: When its end of the channel was closed (pool's clock, s), or None.
        killed_at: When it was killed (pool's clock, s), or None.
        is_unkillable: It lived on for long after it was killed.
        is_missed: The worker was lost for that, and joins again when the process has died.
        is_expelled: It was killed because it lived on without a channel.
        heard_at: When it last sent a message, or was given a file (monotonic clock, s).
        setup_error: Why its processor could not be set up, or None.
    """

    def __init__(
        self, worker_id: WorkerId, process: subprocess.Popen[bytes], channel: socket.socket
    ) -> None:
        self.worker_id = worker_id
        self.process = process
        self.channel = channel
        self.death = os.pidfd_open(process.pid)
        self.outgoing: deque[bytes] = deque()
        self._outputs: dict[int, list[bytes]] = {}  # of attempts whose end is not yet received
        self.moved: list[AttemptNumber] = []
        self.ready = False
        self.cancellable = False
        self.held: set[int] = set()
        self.cancels: dict[int, float] = {}
        self.closed_at: float | None = None
        self.killed_at: float | None = None
        self.is_unkillable = False
        self.is_missed = False
        self.is_expelled = False
        self.heard_at = time.monotonic()
        self.setup_error: str | None = None

    def deadline(self) -> float:
        """When it must have done what was requested (pool's clock, s)."""
        if self.killed_at is not None:
            return NEVER if self.is_unkillable else self.killed_at + DIE_SECONDS
        if self.closed_at is not None:
            return NEVER if self.is_expelled else self.closed_at + LEAVE_SECONDS
        return min(self.cancels.values(), default=NEVER) + CANCEL_SECONDS

    def excuse(self, seconds: float) -> None:
        """Extend its deadlines by this time."""
        if self.killed_at is not None:
            self.killed_at += seconds
        if self.closed_at is not None:
            self.closed_at += seconds
        self.cancels = {attempt: at + seconds for attempt, at in self.cancels.items()}

    def hear(self, message: wire.Message) -> WorkerEvent | None:
        """The event of a worker's message; None for a message that the pool handles itself."""
        tag, *values = message
        if tag in (wire.COMPLETED, wire.FAILED):
            self.held.discard(values[0])
            self.cancels.pop(values[0], None)
        if tag == wire.COMPLETED:
            attempt, sequences, residues, duration, found = values
            found = (*self._outputs.pop(attempt, ()), *found)
            outputs = tuple(map(os.fsdecode, found)) if found else ()
            return AttemptCompleted(self.worker_id, attempt, sequences, residues, duration, outputs)
        if tag == wire.SHRUNK:
            attempt, cut, is_final = values
            where = None if cut is None else Cut(*cut)
            return AttemptShrunk(self.worker_id, attempt, where, is_final)
        if tag in _EVENTS:
            return _EVENTS[tag](self.worker_id, *values)
        if tag == wire.READY:
            self.ready = True
            self.cancellable, can_split, cuts_first = values
            return WorkerReady(self.worker_id, can_split, cuts_first)
        self._keep(tag, values)
        return None

    def _keep(self, tag: int, values: Sequence[Any]) -> None:
        """Store what no event reports."""
        if tag == wire.OUTPUTS:
            attempt, found = values
            self._outputs.setdefault(attempt, []).extend(found)
        elif tag == wire.MOVED:
            self.moved += values[0]
        else:
            (self.setup_error,) = values

    @property
    def was_killed_loading(self) -> bool:
        """A signal ended it before its processor was set up, and it had not reported why."""
        return not self.ready and self.setup_error is None and self.process.returncode < 0

    def loss(self, running: AttemptNumber | None) -> WorkerLost:
        """How it ended, once it was reaped; `running` is the attempt that it processed.

        One whose processor cannot be set up is not worth a restart.
        """
        reason = self.how_it_ended()
        if self.ready:
            return WorkerLost(self.worker_id, reason, LossCause.DIED_PROCESSING, running)
        if self.setup_error is not None:
            why, cause = self.setup_error, LossCause.SETUP_FAILED
        else:
            why, cause = f"the worker {reason}", LossCause.DIED_LOADING
        return WorkerLost(self.worker_id, f"processor setup failed: {why}", cause, running)

    def how_it_ended(self) -> str:
        """How it ended, in one line without a subject, once it was reaped."""
        if self.is_expelled:
            return "closed its channel to the run and was killed"
        return describe_end(self.process.returncode)


def describe_end(status: int) -> str:
    """How a process ended, from its return code (negative: killed by that signal)."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # real-time signals have no names
        name = f"signal {-status}"
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
