"""Processes whose parent has ended: which process adopts them, and which one reaps them.

A worker adopts what its programs leave behind, so that it dies with the attempt. The program adopts
what dead workers leave behind; as the first process of a container it does so anyway.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Collection

from virnucpro_exporter.workers import sentinel

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def adopt() -> None:
    """Become the parent of all orphans that descend from this process; Linux only."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopts() -> bool:
    """Whether `adopt` was called in this process."""
    answer = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def clear(own: Collection[int]) -> None:
    """Kill the orphans that this process has adopted, and reap those that are dead.

    Children that this process has started share its session, or are named; those are left alone.

    Args:
        own: Children that lead a session of their own.
    """
    session = os.getsid(0)
    for process in sentinel.children(os.getpid()):
        if process.pid in own or process.session == session:
            continue
        if not process.is_dead:
            for pid in sentinel.descendants(process.pid):
                sentinel.send(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # another thread reaped it
            os.waitpid(process.pid, os.WNOHANG)


def clear_all() -> None:
    """Kill all that descends from this process, and reap what is dead.

    Only for a process that has adopted and waits for no child: a worker between two commands.
    """
    sentinel.kill_descendants()
    for process in sentinel.children(os.getpid()):
        if process.is_dead:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
