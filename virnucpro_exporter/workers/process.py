"""The pool's end of one worker process: what it said, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import deque

from virnucpro_exporter.scheduling.events import (
    AttemptCompleted,
    AttemptFailed,
    AttemptStarted,
    Event,
    Progress,
    WorkerLost,
    WorkerReady,
)
from virnucpro_exporter.workers import wire


class Child:
    """One worker process.

    Args:
        gpu: The worker's id.
        process: Its process.
        channel: Our end of its channel.

    Attributes:
        death: A descriptor that becomes readable when the process ends.
        outgoing: Packets that it has not taken yet.
        ready: Its processor is set up.
        cancellable: Its processor can stop a file by itself.
        closed_at: When its end of the channel was closed (monotonic clock, s), or None.
        is_expelled: It was killed because it lived on without a channel.
        heard_at: When it said something last, or was given a file (monotonic clock, s).
        setup_error: Why its processor could not be set up, or None.
    """

    def __init__(self, gpu: str, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.gpu = gpu
        self.process = process
        self.channel = channel
        self.death = os.pidfd_open(process.pid)
        self.outgoing: deque[bytes] = deque()
        self.ready = False
        self.cancellable = False
        self.closed_at: float | None = None
        self.is_expelled = False
        self.heard_at = time.monotonic()
        self.setup_error: str | None = None

    def hear(self, message: wire.Message) -> Event | None:
        """What a message of the worker means; None for one that the pool keeps to itself."""
        tag, *values = message
        if tag == wire.COMPLETED:
            attempt, sequences, residues, duration, found = values
            outputs = tuple(map(os.fsdecode, found)) if found else ()
            return AttemptCompleted(self.gpu, attempt, sequences, residues, duration, outputs)
        if tag == wire.STARTED:
            return AttemptStarted(self.gpu, *values)
        if tag == wire.PROGRESS:
            return Progress(self.gpu, *values)
        if tag == wire.FAILED:
            return AttemptFailed(self.gpu, *values)
        if tag == wire.READY:
            self.ready = True
            (self.cancellable,) = values
            return WorkerReady(self.gpu)
        (self.setup_error,) = values
        return None

    def loss(self, running: int | None) -> WorkerLost:
        """How it ended, once it was reaped; `running` is the attempt that it processed.

        One that dies before it is ready would do so for ever, and is not worth a restart.
        """
        reason = self._how_it_ended()
        if not self.ready:
            reason = f"processor setup failed: {self.setup_error or f'the worker {reason}'}"
        return WorkerLost(self.gpu, reason, restart=self.ready, blame=self.ready, running=running)

    def _how_it_ended(self) -> str:
        if self.is_expelled:
            return "closed its channel to the program, and was killed"
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
