"""How a command reports progress: it writes numbers into a file, and the worker reads its end.

A file, not a pipe: writing never blocks or kills a command, whatever the worker does, and the path
works from another process, user namespace or container that sees the folder.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

# Hidden, and of a name that no result has.
NAME = ".virnucpro_progress"

# The end of the file that is looked at; a command that writes more between two looks wrote newer
# numbers there.
TAIL_BYTES = 65536

# No file holds more sequences than bytes when unpacked, and deflate packs a thousandfold at most.
MOST_PER_BYTE = 1000

_NUMBER = re.compile(rb"\s*(\d{1,15})\s*")


class ProgressFile:
    """The progress file of one attempt, which the command creates.

    A line that is a whole number counts as the number of sequences done; any other line is ignored.
    The highest number counts, so writers that share the file cannot turn it back.

    Args:
        folder: The attempt's own folder.
        input_bytes: The size of the input; a number that it cannot hold is ignored, too.

    Attributes:
        path: Where the command writes.
        done: The sequences done, as last read.
    """

    def __init__(self, folder: Path, input_bytes: int) -> None:
        self.path = folder / NAME
        self.done = 0
        self._most = input_bytes * MOST_PER_BYTE

    def read(self, *, at_end: bool = False) -> bool:
        """Look at the file; never waits, whatever lies at the path.

        Args:
            at_end: The command has ended, so a last line without a line break is whole.

        Returns:
            Whether the number of sequences done has grown.
        """
        try:
            lines = self._tail().split(b"\n")
        except OSError:  # not written yet, or just being replaced
            return False
        if not at_end:
            lines.pop()
        numbers = [int(match[1]) for line in lines if (match := _NUMBER.fullmatch(line))]
        done = max((number for number in numbers if number <= self._most), default=0)
        has_grown = done > self.done
        self.done = max(done, self.done)
        return has_grown

    def _tail(self) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return b""
            start = max(0, status.st_size - TAIL_BYTES)
            tail = os.pread(descriptor, TAIL_BYTES, start)
        finally:
            os.close(descriptor)
        # Without its beginning, the first line would be another number.
        return tail.partition(b"\n")[2] if start else tail
