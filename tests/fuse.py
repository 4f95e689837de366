"""A file system whose file never answers to a read: a process that reads it cannot be killed.

It stands in for a hung driver or a dead file server. Spoken here is the kernel's own protocol on
`/dev/fuse`, as far as one file needs it; the process of the file system is the test's.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from pathlib import Path

import pytest

LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, OPENDIR, INTERRUPT = 1, 2, 3, 14, 15, 26, 27, 36
NO_ENTRY, NOT_THERE = 2, 38
NAME, FILE_NODE = b"hangs.fa", 2
DETACH = 2


def _attributes(node: int) -> bytes:
    is_file = node == FILE_NODE
    mode, size = (0o100644, 1 << 20) if is_file else (0o040755, 0)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 8, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)


class HangingFile:
    """Mounts it.

    Args:
        folder: Where; an empty folder.

    Attributes:
        path: The file.
        is_read: Set when a process reads it.
    """

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            pytest.skip(f"there is no FUSE here: {error}")
        options = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if libc.mount(b"hanging", os.fsencode(folder), b"fuse", 0, options.encode()):
            os.close(self._device)
            pytest.skip(f"FUSE cannot be mounted: {os.strerror(ctypes.get_errno())}")
        self._libc = libc
        self._folder = folder
        self.path = folder / NAME.decode()
        self.is_read = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unmount it; every read that waits fails, and those processes die."""
        if self._thread.is_alive():
            self._libc.umount2(os.fsencode(self._folder), 1 | DETACH)
            self._thread.join()
            os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 17)
            except OSError:  # it was unmounted
                return
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation == READ:
                self.is_read.set()
            elif operation not in (FORGET, INTERRUPT):
                error, body = self._answer(operation, node, request[40:])
                os.write(self._device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        if operation == INIT:
            return 0, struct.pack("<IIIIHHI", 7, 19, 0, 0, 1, 1, 4096)
        if operation == LOOKUP:
            if body.rstrip(b"\0") != NAME:
                return NO_ENTRY, b""
            return 0, struct.pack("<QQQQII", FILE_NODE, 0, 60, 60, 0, 0) + _attributes(FILE_NODE)
        if operation == GETATTR:
            return 0, struct.pack("<QII", 60, 0, 0) + _attributes(node)
        if operation in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 0, 0, 0)
        return NOT_THERE, b""


def is_hanging(pid: int) -> bool:
    """Whether a process has a thread in state D, which waits in the kernel and cannot be killed."""
    states = [
        Path(f"/proc/{pid}/task/{task.name}/stat").read_bytes().rpartition(b")")[2].split()[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return b"D" in states
