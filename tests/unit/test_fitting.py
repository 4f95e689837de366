"""Where files have a fixed cost, the small ones go to slow workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.fitting import fitted_plan
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.rebalancing import Move, look_ahead
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker


def waiting(fixed: float, queues: dict[float, list[int]]) -> State:
    """Idle workers, by speed, each with files of so many residues."""
    state = State(SchedulerSettings(), 1)
    for index, (speed, sizes) in enumerate(queues.items()):
        worker = state.add_worker(WorkerId(str(index)), "", speed, 0.0)
        state.come_up(worker, 0.0)
        files = [SequenceFile(f"/{index}/{i}", 1, size) for i, size in enumerate(sizes)]
        state.submit(worker, sorted(files, key=lambda file: -file.residues), 0.0)
    state.fixed.seconds = fixed
    return state


def plan(state: State) -> list[Move]:
    outlook = look_ahead(state.fleet, 0.0)
    assert outlook is not None
    return fitted_plan(outlook, 0.0)


def follow(state: State, moves: list[Move]) -> None:
    state.change_plan((move.record, move.source, move.target) for move in moves)
    for move in moves:
        state.move(move.record, move.source, move.target, 0.0)


def sizes(worker: Worker) -> list[int]:
    return [record.file.residues for record in worker.queue]


def latest(state: State) -> float:
    return max(worker.finish_at(0.0) for worker in state.fleet)


def test_large_files_go_to_the_fast_worker_and_small_ones_to_the_slow_one() -> None:
    """Each way every file is done, and the fast worker loses fewer seconds to the fixed cost."""
    state = waiting(20.0, {1.0: [100, 30, 20], 4.0: [120, 80, 40, 10, 10, 10]})
    before = latest(state)
    follow(state, plan(state))
    slow, fast = map(sizes, state.fleet)
    assert max(slow) < min(fast)
    assert latest(state) < before / 1.03
    assert not plan(state)


@pytest.mark.parametrize("fixed", [0.0, 0.01])
def test_without_a_fixed_cost_worth_mentioning_all_files_stay(fixed: float) -> None:
    """Stealing does as well then, and moves files only when a worker would wait."""
    assert not plan(waiting(fixed, {1.0: [100, 30, 20], 4.0: [10, 10, 10]}))


def test_among_about_equal_workers_all_files_stay() -> None:
    """The fixed cost loses each of them the same seconds."""
    assert not plan(waiting(20.0, {1.0: [100, 30, 20], 1.2: []}))


def test_a_file_does_not_go_to_a_worker_on_which_it_failed() -> None:
    """The fast worker gets the others."""
    state = waiting(20.0, {1.0: [100, 90, 80, 70], 4.0: []})
    bad = state.fleet[0].queue[0]
    bad.avoid = frozenset({state.fleet[1].id})
    moved = [move.record for move in plan(state)]
    assert moved
    assert bad not in moved


def test_more_files_than_make_a_difference_stay() -> None:
    """Which end of a long queue a worker takes first can be settled later."""
    assert plan(waiting(20.0, {1.0: [100] * 64, 4.0: []}))
    assert not plan(waiting(20.0, {1.0: [100] * 65, 4.0: []}))


@given(
    fixed=st.floats(1.0, 50.0),
    queues=st.dictionaries(
        st.sampled_from([0.5, 1.0, 1.5, 2.5, 7.0]),
        st.lists(st.integers(1, 500), max_size=12),
        min_size=1,
    ),
)
def test_a_followed_plan_loses_no_file_and_ends_sooner(
    fixed: float, queues: dict[float, list[int]]
) -> None:
    """Whatever waits where: the files are the same, and the last worker ends 3 % sooner."""
    state = waiting(fixed, queues)
    before = latest(state)
    moves = plan(state)
    follow(state, moves)
    left = sorted(size for worker in state.fleet for size in sizes(worker))
    assert left == sorted(size for files in queues.values() for size in files)
    if moves:
        assert latest(state) <= before / 1.03 * (1.0 + 1e-9)
