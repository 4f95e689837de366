"""Whose the processes on a GPU are."""

from __future__ import annotations

import os

import pytest

from virnucpro_exporter.gpu.processes import count_foreign, parent_of

# 100 is the run; 101 a worker and 102 its program; 200 is somebody else's.
PARENTS = {100: 1, 101: 100, 102: 101, 200: 1, 1: 0}


@pytest.mark.parametrize(
    ("pids", "sees_all", "number"),
    [
        ([], False, 0),
        ([100, 101, 102], False, 0),
        ([101, 200], False, 1),
        ([200, 1], True, 2),
        ([101, 999], True, 1),  # ended, or hidden from this user: not ours in either case
        ([101, 999], False, None),  # an id of another namespace: nobody can tell whose
    ],
)
def test_count_foreign(pids: list[int], number: int | None, *, sees_all: bool) -> None:
    """A process is foreign unless it is ours or descends from ours; unknown is not none."""
    assert count_foreign(pids, [100], PARENTS.get, lambda: sees_all) == number


def test_real_processes() -> None:
    """This process is its own, its parent is not, and one that does not exist has no parent."""
    assert count_foreign([os.getpid()]) == 0
    assert count_foreign([os.getppid()]) == 1
    assert parent_of(2**22 + 1) is None


def test_processes_of_other_runs_are_not_foreign() -> None:
    """What descends from any of the runs of the machine is known."""
    assert count_foreign([os.getpid(), os.getppid()], [os.getppid()]) == 0
