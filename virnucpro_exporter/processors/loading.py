"""Models are loaded one worker after another where the memory of the host is short.

The workers of all runs of a user on a host agree by locks on a file, which the kernel releases when
a process ends in whatever way. A worker that loads holds one byte of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from virnucpro_exporter.processors.models import WEIGHTS

MOST = 256  # workers that may load at once
PAUSE_SECONDS = 0.5
# What a process needs besides its models: PyTorch, and the driver's own.
BESIDE_BYTES = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


@contextlib.contextmanager
def turn_to_load(
    needed: int,
    available: Callable[[], int | None] | None = None,
    pause: Callable[[], None] = lambda: time.sleep(PAUSE_SECONDS),
) -> Iterator[None]:
    """Wait until there is memory for this worker and for all that load already, or until none does.

    Args:
        needed: Bytes of main memory that loading takes for a while.
        available: Returns the free bytes, None where they are unknown; by default
            `available_bytes`.
        pause: Sleeps between two attempts.
    """
    available = available or available_bytes
    descriptor = _open()
    if descriptor is None:
        yield
        return
    try:
        has_told = False
        while (others := _take_place(descriptor, needed, available)) is not None:
            if not has_told:
                log.warning("waiting to load models: %d other workers are loading", others)
                has_told = True
            pause()
        yield
    finally:
        os.close(descriptor)  # which releases its locks


def bytes_to_load(models: Mapping[str, bool]) -> int:
    """The main memory that loading models takes.

    Args:
        models: By their folders, whether weights in safetensors go straight to a GPU, one tensor at
            a time.
    """
    total = BESIDE_BYTES
    for folder, is_direct in models.items():
        direct, other = (sum(p.stat().st_size for p in Path(folder).glob(w)) for w in WEIGHTS)
        total += (0 if is_direct else direct) if direct else other
    return total


def available_bytes() -> int | None:
    """Memory that this process and others could take now, within the limit of its container."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError, KeyError):  # none is set, or another version
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        about = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(about["inactive_file"]))
    return min(found, default=None)


def _open() -> int | None:
    """The file of the locks, or None: where there is none, no worker waits."""
    path = Path(tempfile.gettempdir(), f"virnucpro-exporter-{os.getuid()}.loading")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    if os.fstat(descriptor).st_uid != os.getuid():
        os.close(descriptor)
        return None
    return descriptor


def _take_place(descriptor: int, needed: int, available: Callable[[], int | None]) -> int | None:
    """Take a place among those that load; None when it is taken, else how many others there are."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 0)  # one at a time counts the others
    except OSError:  # a file system without locks
        return None
    try:
        place, others = None, 0
        for byte in range(1, MOST + 1):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except OSError:
                others += 1
                continue
            if place is None:
                place = byte
            else:
                fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, byte)
        free = available()
        if not others or free is None or free >= (others + 1) * needed:
            return None
        if place is not None:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, place)
        return others
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, 0)
