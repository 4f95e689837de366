"""The bounds of the balance benchmark, beside all schedules there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.balance import best_known, least_seconds

SPEEDS = st.lists(st.sampled_from([1.0, 1.5, 2.5]), min_size=1, max_size=3)
WORK = st.lists(st.floats(1.0, 100.0), min_size=1, max_size=5)
OVERHEADS = st.sampled_from([1.0, 20.0])


def shortest(work: Sequence[float], speeds: Sequence[float], overhead: float) -> float:
    """Seconds of the best of all ways to share out whole files."""
    ways = itertools.product(range(len(speeds)), repeat=len(work))
    return min(
        max(
            sum(overhead + size / speed for size, on in zip(work, way, strict=True) if on == gpu)
            for gpu, speed in enumerate(speeds)
        )
        for way in ways
    )


@given(WORK, SPEEDS, OVERHEADS)
def test_no_schedule_is_sooner_than_the_bound(
    work: list[float], speeds: list[float], overhead: float
) -> None:
    """And the planner that knows all is no sooner than the best schedule."""
    best = shortest(work, speeds, overhead)
    assert least_seconds(work, speeds, overhead) <= best * 1.001
    planned = best_known(work, speeds, [float("inf")] * len(speeds), overhead)
    assert planned >= best * 0.999


def test_a_bound_that_can_be_reached_is() -> None:
    """One GPU has to do all, and equal GPUs do equal halves."""
    assert least_seconds([30.0, 10.0], [2.0], 5.0) == pytest.approx(30.0, rel=1e-3)
    assert least_seconds([10.0] * 4, [1.0, 1.0], 5.0) == pytest.approx(30.0, rel=1e-3)
