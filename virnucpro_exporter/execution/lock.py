"""One run at a time in an output folder.

The lock belongs to an open file, so that the kernel releases it with the process, however that
ends: what a dead run left behind never blocks the next one.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from virnucpro_exporter.errors import OutputError

# Somebody who asks for the status of a run holds the lock, shared, for a few microseconds.
TRIES = 5
PAUSE_SECONDS = 0.05


class RunLock:
    """The right to write into an output folder, held until `close`.

    Args:
        path: The lock file; its folder exists.

    Raises:
        OutputError: Another process holds the lock, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Python opens it close-on-exec: workers that outlive this process do not hold it.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"{str(path)!r}: {error.strerror}") from error
        try:
            self._acquire(path)
        except BaseException:
            os.close(self._fd)
            raise

    def _acquire(self, path: Path) -> None:
        for _ in range(TRIES):
            if self._try_acquire(path):
                return
            time.sleep(PAUSE_SECONDS)
        holder = os.pread(self._fd, 20, 0).decode(errors="replace") or "unknown"
        raise OutputError(
            f"{str(path.parent.parent)!r} is in use by another run (process {holder}); "
            "wait for it to end, or choose another --output"
        )

    def _try_acquire(self, path: Path) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            return False
        except OSError as error:
            raise OutputError(f"{str(path)!r}: {error.strerror}") from error
        return True

    def close(self) -> None:
        """Let the next run begin."""
        os.close(self._fd)


def is_locked(path: Path) -> bool:
    """Tell whether a run holds the lock now, without writing anything."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
