"""What is put down to workers, and what to the content of their files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.scheduling.attribution import attribute
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.speed import Errors, FixedCost
from virnucpro_exporter.scheduling.workers import Worker

SPEEDS = st.lists(st.floats(10.0, 1000.0), min_size=2, max_size=8)


def workers(speeds: Sequence[float], *, files: float = 1.0) -> list[Worker]:
    """Of equal declared speed, each of which has done so many files; 0 for not measured."""
    errors, made = Errors(), []
    for index, speed in enumerate(speeds):
        worker = Worker(WorkerId(str(index)), "", 2.0, index, 0.0, FixedCost(), errors)
        if speed:
            worker.learned.observe(speed, 1.0, files)
        made.append(worker)
    return made


def parts(speeds: Sequence[float], *, files: float = 1.0) -> list[float]:
    return list(attribute(workers(speeds, files=files), frozenset()).to_files.values())


def test_what_content_can_explain_is_put_down_to_it() -> None:
    """Files differ by a fifth, so that such differences between workers are no surprise."""
    mean = math.log(80.0 * 100.0 * 100.0 * 125.0) / 4.0
    expected = [math.log(speed) - mean for speed in (80.0, 100.0, 100.0, 125.0)]
    assert parts([80.0, 100.0, 100.0, 125.0]) == pytest.approx(expected)


def test_what_content_cannot_explain_is_put_down_to_the_workers() -> None:
    """The more of it, the more files were seen."""
    speeds = [50.0, 52.0, 70.0, 75.0, 140.0, 160.0]
    few, many = parts(speeds), parts(speeds, files=5.0)
    slowest = math.log(50.0 / 83.0)
    assert 0.5 * slowest < few[0] < 0.0
    assert few[0] < many[0] < 0.0
    assert few[-1] > many[-1] > 0.0


def test_nothing_is_put_down_to_files_of_those_who_are_slow_for_certain_or_not_measured() -> None:
    """Nor of a single worker, beside which there is no other."""
    slow, *others = fleet = workers([20.0, 100.0, 110.0, 0.0])
    causes = attribute(fleet, frozenset({slow}))
    found = causes.to_files
    assert slow in causes.slower
    assert found[slow] == 0.0
    assert found[others[-1]] == 0.0
    assert found[others[0]] != 0.0
    assert parts([100.0]) == [0.0]


@given(SPEEDS, st.floats(0.1, 10.0))
def test_only_ratios_count_and_no_part_exceeds_the_whole(
    speeds: list[float], factor: float
) -> None:
    """In other units of speed, all is the same."""
    found = parts(speeds)
    assert parts([factor * speed for speed in speeds]) == pytest.approx(found, abs=1e-6)
    widest = math.log(max(speeds) / min(speeds))
    assert all(abs(part) <= widest + 1e-9 for part in found)
    assert sum(found) == pytest.approx(0.0, abs=1e-6)  # as all have seen as many files
