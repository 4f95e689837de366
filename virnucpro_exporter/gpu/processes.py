"""Whose the processes on a GPU are."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import psutil

from virnucpro_exporter.snapshot import GpuProcess

# The kernel gives the first namespace of process ids this number.
_FIRST_NAMESPACE = "pid:[4026531836]"


def parent_of(pid: int) -> int | None:
    """The parent of a process; 0 when it has none, None when there is no such process."""
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None


def described(processes: Iterable[GpuProcess]) -> tuple[GpuProcess, ...]:
    """The processes with the names of their programs and users.

    Both stay empty where the ids are those of another namespace, in which they would be other
    processes, and for a process that has just ended.
    """
    if not sees_all_processes():
        return tuple(processes)
    return tuple(map(_described, processes))


def _described(process: GpuProcess) -> GpuProcess:
    try:
        found = psutil.Process(process.pid)
        return replace(process, name=found.name(), user=found.username())
    except psutil.Error:
        return process


def sees_all_processes() -> bool:
    """Whether the ids that the driver reports are those of this process's own namespace."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False


def count_foreign(
    pids: Iterable[int],
    own: Collection[int] = (),
    parent: Callable[[int], int | None] = parent_of,
    sees_all: Callable[[], bool] = sees_all_processes,
) -> int | None:
    """How many processes are neither some given ones nor descendants of those.

    Args:
        pids: The ids of the processes, as the driver reports them.
        own: The given ones; this process is one of them.
        parent: Looks up the parent of a process.
        sees_all: Returns whether a process that cannot be found is a foreign one.

    Returns:
        The number, or None where the ids are those of another namespace.
    """
    roots = {os.getpid(), *own}
    foreign = 0
    for pid in pids:
        above: int | None = pid
        while above and above not in roots:
            above = parent(above)
        if above is None and not sees_all():
            return None
        foreign += above not in roots
    return foreign
