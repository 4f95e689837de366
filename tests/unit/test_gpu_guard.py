"""A source is opened only while nobody is inside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from virnucpro_exporter.gpu.guard import Guard
from virnucpro_exporter.gpu.sources import Found, Reading, SourceError


class Door:
    """A source whose reads last until they are let go."""

    backend = "door"

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.opened = self.closed = 0
        self.broken = False

    def open(self) -> tuple[Found, ...]:
        self.opened += 1
        if self.broken:
            raise SourceError("broken")
        return (Found("0", "a"),)

    def lists_more(self) -> bool:
        return False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        self.entered.set()
        self.leave.wait(60)
        return Reading(dict.fromkeys(queries, uuid))

    def xids(self, uuid: str) -> tuple[int, ...]:
        self.read(uuid, ())
        return ()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.leave.set()


def test_nobody_reads_before_it_is_open(door: Door) -> None:
    """Nor after opening has failed."""
    guard = Guard(door)
    assert guard.read("a", ()) is None
    door.broken = True
    with pytest.raises(SourceError):
        guard.open(0.0)
    assert guard.read("a", ()) is None
    assert not door.entered.is_set()


def test_it_stays_as_it_is_while_somebody_is_stuck_inside(door: Door) -> None:
    """It is neither opened nor closed then, and others may go on reading."""
    guard = Guard(door)
    assert guard.open(0.0)
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(guard.read, "a", ("q",))
        assert door.entered.wait(60)
        assert guard.open(0.0) is None
        guard.close()
        assert (door.opened, door.closed) == (1, 0)
        door.leave.set()
        assert guard.read("b", ("q",)) == Reading({"q": "b"})
        assert stuck.result(60) == Reading({"q": "a"})
    guard.close()
    assert door.closed == 1
    assert guard.read("a", ()) is None


def test_it_waits_for_those_inside_and_lets_no_more_in(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening comes after the last of them has left."""
    guard = Guard(door)
    guard.open(0.0)
    waiting, wait_for = threading.Event(), guard._changed.wait_for

    def wait_noted(condition: Callable[[], bool], seconds: float) -> bool:
        waiting.set()
        return wait_for(condition, seconds)

    monkeypatch.setattr(guard._changed, "wait_for", wait_noted)
    with ThreadPoolExecutor() as pool:
        inside = pool.submit(guard.read, "a", ())
        assert door.entered.wait(60)
        opening = pool.submit(guard.open, 60.0)
        assert waiting.wait(60)
        assert guard.read("b", ()) is None
        assert door.opened == 1
        door.leave.set()
        assert inside.result(60) is not None
        assert opening.result(60)
    assert door.opened == 2
