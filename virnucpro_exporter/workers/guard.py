"""The program's end of the sentinel: it is told of every worker, and replaced when it dies."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from virnucpro_exporter.workers import sentinel
from virnucpro_exporter.workers.process import launch

# A sentinel that was told to go has so long to do it, in seconds.
_LEAVE_SECONDS = 2.0


class Guard:
    """Sees to it that a killed program leaves no worker behind.

    Where the system cannot start a sentinel, the workers still leave when their channel ends, and
    the next worker that starts tries again.
    """

    def __init__(self) -> None:
        self._workers: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._ensure()

    @property
    def pid(self) -> int | None:
        """The sentinel's process."""
        return None if self._process is None else self._process.pid

    def add(self, pid: int) -> None:
        """A worker has been started."""
        self._workers.add(pid)
        if not self._ensure():
            self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """A worker has been reaped."""
        self._workers.discard(pid)
        if not self._ensure():
            self._tell(f"-{pid}\n")

    def look(self) -> None:
        """Replace the sentinel if it has died."""
        self._ensure()

    def close(self) -> None:
        """Let the sentinel go; it kills the workers that it was told of and that are left."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:  # it was stopped
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE_SECONDS)

    def _ensure(self) -> bool:
        """Start a sentinel that knows all workers if there is none; whether one was started."""
        if self._process is not None and self._process.poll() is None:
            return False
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        with contextlib.suppress(OSError):
            self._process = launch(
                [sys.executable, "-I", "-S", sentinel.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            if self._process.stdin is not None:
                os.set_blocking(self._process.stdin.fileno(), False)
            self._tell("".join(f"+{pid}\n" for pid in self._workers))
        return True

    def _tell(self, text: str) -> None:
        """Write to the sentinel; one that does not read is of no use, and is replaced."""
        process = self._process
        if process is None or process.stdin is None or not text:
            return
        try:
            written = process.stdin.write(text.encode())
        except BrokenPipeError:  # it was killed a moment ago; `look` replaces it
            return
        if written != len(text):
            process.kill()
