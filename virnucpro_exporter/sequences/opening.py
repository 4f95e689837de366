"""What readers need of an open file, whether it is on this machine or in a store."""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import BinaryIO

from virnucpro_exporter.stores.access import StoredFile
from virnucpro_exporter.stores.paths import path_of


def size_of(file: BinaryIO) -> int:
    """Bytes of a regular file or object."""
    return file.size if isinstance(file, StoredFile) else os.fstat(file.fileno()).st_size


def can_be_entered(file: BinaryIO) -> bool:
    """Whether it can be read from anywhere: no pipe, and no answer of a server without ranges."""
    if isinstance(file, StoredFile):
        return file.seekable()
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def read_at(file: BinaryIO, length: int, offset: int) -> bytes:
    """Bytes from a place, fewer at the end; the reader of the file stays where it is."""
    if isinstance(file, StoredFile):
        return file.read_at(length, offset)
    return os.pread(file.fileno(), length, offset)


def open_again(file: BinaryIO) -> tuple[BinaryIO, Hashable]:
    """The same file, with a reader of its own, and what distinguishes it from any other content."""
    if isinstance(file, StoredFile):
        return path_of(file.name).open("rb", buffering=0), file.stored
    own = Path(os.fsdecode(file.name)).open("rb", buffering=0)  # noqa: SIM115 - the caller closes it
    status = os.fstat(own.fileno())
    path = os.fsdecode(file.name)
    return own, (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
