"""When processes are started, and started again."""

from __future__ import annotations

from virnucpro_exporter.workers.starts import NEVER, Starts


def test_workers_start_at_once_and_together() -> None:
    """Nothing is waited for while all goes well."""
    starts = Starts()
    for worker in "ab":
        starts.want(worker, 0.0)
    assert starts.due(0.0) == "a"
    starts.started("a")
    assert starts.due(0.0) == "b"
    starts.started("b")
    assert (starts.due(9.0), starts.next_due()) == (None, NEVER)


def test_refusals_of_the_system_cost_growing_pauses_and_in_the_end_the_worker() -> None:
    """Two minutes without any success are enough; a success in between begins them anew."""
    starts = Starts()
    pauses, now = [], 0.0
    while (pause := starts.refused("a", now)) is not None:
        pauses.append(pause)
        assert (starts.due(now), starts.due(now + pause)) == (None, "a")
        assert starts.next_due() == now + pause
        now += pause
    assert pauses[:6] == [0.25, 0.5, 1.0, 2.0, 5.0, 10.0]
    assert 120 <= sum(pauses) < 140
    assert not starts.is_wanted("a")
    starts.refused("b", 0.0)
    starts.started("b")
    starts.loaded("b")
    assert starts.refused("b", 1000.0) == 0.25


def test_workers_that_are_killed_while_they_load_load_one_at_a_time() -> None:
    """Memory for so many models at once may be missing; each is tried three times more."""
    starts = Starts()
    for worker in "abc":
        starts.want(worker, 0.0)
        starts.started(worker)
    assert starts.killed_while_loading("a", 10.0) == 1.0
    assert starts.killed_while_loading("b", 10.0) == 1.0
    assert (starts.due(20.0), starts.next_due()) == (None, NEVER)  # c still loads
    starts.loaded("c")
    assert starts.due(20.0) == "a"
    starts.started("a")
    assert starts.due(20.0) is None
    assert starts.killed_while_loading("a", 20.0) == 5.0
    assert starts.due(21.0) == "b"
    starts.started("b")
    starts.loaded("b")
    assert starts.killed_while_loading("a", 25.0) == 20.0
    assert starts.killed_while_loading("a", 45.0) is None
    assert not starts.is_wanted("a")


def test_worker_that_is_killed_wants_nothing() -> None:
    """Nor does any once the run drains."""
    starts = Starts()
    starts.want("a", 0.0)
    starts.forget("a")
    starts.want("b", 0.0)
    starts.forget_all()
    assert starts.due(1.0) is None
