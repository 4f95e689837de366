"""Removes a file when the program that started it is gone, whatever the cause.

Run as a script of its own, with the path of the file: standard input ends with the program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Wait for the end of standard input, then remove the file."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    with contextlib.suppress(OSError):  # it has gone already
        os.unlink(sys.argv[1])  # noqa: PTH108 - nothing more is imported than needed


if __name__ == "__main__":
    main()
