"""A call into the driver that hangs, in real threads."""

from __future__ import annotations

from tests.gpu_sources import ScriptedSource, Watch, until


def test_a_gpu_that_hangs_costs_only_itself(watch: Watch) -> None:
    """The others go on, and it is never in the way of the end."""
    source = ScriptedSource("a", "stuck")
    source.stuck.clear()
    watched = watch(source)
    until(lambda: watched.is_up(0))
    number = len(source.reads)
    until(lambda: len(source.reads) > number + 5)
    assert not watched.is_up(1)
    assert not watched.board.first.is_set()
    watched.sampler.stop()
    assert source.opened == 1  # not closed while somebody is inside
    source.stuck.set()


def test_nothing_is_reopened_while_a_call_hangs(watch: Watch) -> None:
    """A lost GPU waits until nobody is inside; the healthy one is shown all the while."""
    source = ScriptedSource("a", "stuck", "c")
    source.stuck.clear()
    watched = watch(source)
    until(lambda: watched.is_up(0, 2))
    source.wrong["c"] = 15
    until(lambda: watched.why(2) == "GPU_IS_LOST")
    number = len(source.reads)
    until(lambda: len(source.reads) > number + 5)
    assert source.opened == 1
    assert watched.is_up(0)
    source.stuck.set()
    until(lambda: source.opened > 1)
