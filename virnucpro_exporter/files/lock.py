"""One run at a time in an output folder.

The lock belongs to an open file, so that the kernel releases it with the process, however that
ends: what a dead run left behind never blocks the next one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from virnucpro_exporter.errors import OutputError

# A process that reads the status of a run holds the lock, shared, for a few microseconds.
TRIES = 5
PAUSE_SECONDS = 0.05

# The errors of a file system without locks, such as Lustre mounted without them.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of the lock.

    Attributes:
        process: Its number, or `unknown`.
        host: The name of its machine, or empty.
    """

    process: str
    host: str

    @property
    def is_elsewhere(self) -> bool:
        """It is on another machine that shares the file system."""
        return self.host not in ("", _host())

    def __str__(self) -> str:
        """The process, and its machine if that is another one."""
        return f"process {self.process}{f' on {self.host}' if self.is_elsewhere else ''}"


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
        raise OutputError(
            f"{str(path.parent.parent)!r} is in use by another run ({_read(self._fd)}); "
            "wait for it to end, or choose another --output"
        )

    def _try_acquire(self, path: Path) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()} {_host()}".encode(), 0)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise OutputError(
                    f"{str(path.parent.parent)!r} is on a file system without file locks; mount it"
                    " with locks (Lustre: -o flock), or choose another --output"
                ) from error
            raise OutputError(f"{str(path)!r}: {error.strerror}") from error
        return True

    def close(self) -> None:
        """Let the next run begin."""
        os.close(self._fd)


def holder(path: Path) -> Holder | None:
    """The present holder of the lock, or None; writes nothing.

    Args:
        path: The lock file.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)
    finally:
        os.close(fd)
    return None


def _read(fd: int) -> Holder:
    process, _, host = os.pread(fd, 100, 0).decode(errors="replace").partition(" ")
    return Holder(process or "unknown", host)


def _host() -> str:
    return os.uname().nodename
