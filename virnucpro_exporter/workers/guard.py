"""The program's side of the sentinel: it gets every worker's id, and is replaced when it dies."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import subprocess
import sys

from virnucpro_exporter.workers import sentinel
from virnucpro_exporter.workers.process import launch

# A sentinel that was instructed to exit has this long to do so, in seconds.
_LEAVE_SECONDS = 2.0


class Guard:
    """Sees to it that a killed program leaves no worker behind.

    Where the system cannot start a sentinel, the workers still leave when their channel ends, and
    it is tried again.

    Args:
        selector: Watches for the sentinel's death, with this object as its data.

    Attributes:
        mark: A text in the command line of each worker, by which the sentinel finds those of which
            it was not notified in time.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.mark = secrets.token_hex(8)
        self._selector = selector
        self._workers: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._death = -1
        self.look()

    @property
    def pid(self) -> int:
        """The sentinel's process, or 0."""
        return 0 if self._process is None else self._process.pid

    def add(self, pid: int) -> None:
        """A worker has been started."""
        self._workers.add(pid)
        self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """A worker has been reaped."""
        self._workers.discard(pid)
        self._tell(f"-{pid}\n")

    def look(self) -> None:
        """Start a sentinel with the ids of all workers, if none is alive."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._forget()
        with contextlib.suppress(OSError):
            self._start()
            self._tell("".join(f"+{pid}\n" for pid in self._workers))

    def close(self) -> None:
        """Let the sentinel exit; it kills those of its workers that are left."""
        process = self._process
        if process is None:
            return
        self._forget()
        try:
            process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:  # it was stopped
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE_SECONDS)

    def _start(self) -> None:
        process = launch(
            [sys.executable, "-I", "-S", sentinel.__file__, self.mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        try:
            self._death = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        self._process = process
        self._selector.register(self._death, selectors.EVENT_READ, self)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)

    def _forget(self) -> None:
        """Close the pipe of the sentinel, and look at its death no more."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        self._selector.unregister(self._death)
        os.close(self._death)

    def _tell(self, text: str) -> None:
        """Write to the sentinel; one that does not read is of no use, and is replaced."""
        process = self._process
        if process is None or process.stdin is None or not text:
            return
        try:
            written = process.stdin.write(text.encode())
        except BrokenPipeError:  # it was killed a moment ago; the next one gets all ids
            return
        if written != len(text):
            process.kill()
