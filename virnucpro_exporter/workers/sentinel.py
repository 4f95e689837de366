"""Outlives the program by a moment, so that its death leaves no process behind.

Run as a script of its own, with the mark of the program's workers, it reads `+<pid>` when a worker
starts and `-<pid>` when one has gone. When the program dies, whatever the cause, the pipe ends, and
the family of every worker that is left is killed: stopped ones and grandchildren of commands too.

A worker's family is its session and all that descends from it. Each worker is a reaper of orphans
(`PR_SET_CHILD_SUBREAPER`), so a program that leaves the session (`setsid`) goes on descending from
it, even when the program between them has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process as the kernel lists it.

    Attributes:
        pid: Its number.
        parent: The number of its parent.
        session: The number of its session.
        is_dead: It only waits for its parent to reap it.
    """

    pid: int
    parent: int
    session: int
    is_dead: bool


def look_up(pid: int | str) -> Process | None:
    """A process, or None when it has gone.

    Only `stat` is read: other files in that folder may hang where the process hangs.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # it ended in the meantime
        return None
    state, parent, _, session, *_ = text.rpartition(b")")[2].split()
    return Process(int(pid), int(parent), int(session), state in b"ZX")


def processes() -> Iterator[Process]:
    """All processes of the machine."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names alone are wanted, and fast
        if entry.isdecimal() and (process := look_up(entry)):
            yield process


def children(parent: int) -> list[Process]:
    """The children of a process, dead ones too."""
    try:
        tasks = os.listdir(f"/proc/{parent}/task")  # noqa: PTH208 - names alone are wanted
    except OSError:  # it ended in the meantime
        return []
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():  # a choice of the kernel's
        return [process for process in processes() if process.parent == parent]
    pids: list[bytes] = []
    for task in tasks:
        with contextlib.suppress(OSError):  # the thread has ended
            pids += Path(f"/proc/{parent}/task/{task}/children").read_bytes().split()
    return [process for process in (look_up(int(pid)) for pid in pids) if process]


def family(worker: int) -> set[int]:
    """The live processes of a worker: its session, and all that descends from it or from those."""
    table = list(processes())
    by_parent: dict[int, list[Process]] = {}
    for process in table:
        by_parent.setdefault(process.parent, []).append(process)
    found: set[int] = set()
    pending = [process for process in table if process.session == worker]
    while pending:
        process = pending.pop()
        if not process.is_dead and process.pid not in found:
            found.add(process.pid)
            pending += by_parent.get(process.pid, ())
    return found


def kill_family(worker: int) -> None:
    """Kill a worker and all that belongs to it, those that start meanwhile too.

    The worker must not have been reaped, or its number may have a new owner.
    """
    leader = look_up(worker)
    is_alive = leader is not None and leader.session == worker and not leader.is_dead
    if is_alive:  # stopped, it starts no more, and its orphans come to no other reaper
        send(worker, signal.SIGSTOP)
    killed = {worker}
    while members := family(worker) - killed:
        for pid in members:
            send(pid, signal.SIGKILL)
        killed |= members
    if is_alive:
        send(worker, signal.SIGKILL)


def kill_descendants() -> None:
    """Kill all that descends from this process; for a worker that has ended a file or leaves."""
    killed: set[int] = set()
    while members := {p.pid for p in children(os.getpid()) if not p.is_dead} - killed:
        for pid in members:
            # What leads a family of its own dies with it, before its orphans come here.
            for descendant in descendants(pid) - killed:
                send(descendant, signal.SIGKILL)
        killed |= members


def descendants(pid: int) -> set[int]:
    """A live process and all live ones that descend from it."""
    found = {pid}
    for process in children(pid):
        if not process.is_dead:
            found |= descendants(process.pid)
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have gone, or may not be ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _marked(mark: bytes) -> Iterator[int]:
    """The live processes whose command line holds a text."""
    for process in processes():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                yield process.pid


def main() -> None:
    """Follow the workers on standard input until it ends, then kill those left.

    Last of all those are looked for that have only just been started. That may hang where one of
    the machine's processes hangs in the kernel, and stops no run.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    workers: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            workers.add(int(line[1:]))
        else:
            workers.discard(int(line[1:]))
    for worker in workers:
        kill_family(worker)
    for pid in _marked(sys.argv[1].encode()):
        if pid != os.getpid():
            kill_family(pid)


if __name__ == "__main__":
    main()
