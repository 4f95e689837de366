"""Outlives the program by a moment, so that its death leaves no process behind.

Run as a script of its own, it reads `+<pid>` when a worker starts and `-<pid>` when one has gone.
When the program dies, whatever the cause, the pipe ends, and every process of the sessions that are
left is killed: stopped workers and grandchildren of commands too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


def session_members(session: int) -> Iterator[int]:
    """The live processes of a session."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names alone are wanted, and fast
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # it ended in the meantime
                state, _, _, member_of, *_ = (
                    Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                )
                if int(member_of) == session and state not in b"ZX":
                    yield int(entry)


def kill_session(session: int) -> None:
    """Kill every process of a session, those that are born meanwhile too."""
    killed: set[int] = set()
    while members := set(session_members(session)) - killed:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or not ours
                os.kill(pid, signal.SIGKILL)
        killed |= members


def main() -> None:
    """Follow the sessions on standard input until it ends, then kill those left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sessions: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            sessions.add(int(line[1:]))
        else:
            sessions.discard(int(line[1:]))
    for session in sessions:
        kill_session(session)


if __name__ == "__main__":
    main()
