"""What the run and an agent on a Dask worker tell each other, whichever connection carries it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.comm import Comm, listen

from tests import events as said
from tests.facts import start, worker
from virnucpro_exporter.cluster.commands import Command, Kill, Spawn, Start
from virnucpro_exporter.cluster.letters import About, Down, Place, Up, opened, sealed
from virnucpro_exporter.cluster.line import Line
from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.cluster.post import Post, joined
from virnucpro_exporter.scheduling.events import WorkerEvent
from virnucpro_exporter.scheduling.files import SequenceFile


class Dask:
    """Stands in for a Dask worker, of which a post needs nothing."""


class Told:
    """An agent that notes what it is to do."""

    def __init__(self) -> None:
        self.orders: list[Any] = []

    def gpus(self) -> Any:
        raise AssertionError("nobody watches the GPUs here")

    def obey(self, command: Command) -> None:
        self.orders.append(command.order)

    def end(self) -> None:
        raise AssertionError("nobody ends it")


class Ends:
    """Both ends of a conversation, and a connection that can be replaced."""

    def __init__(self) -> None:
        self.agent = Told()
        self.post = Post(Dask())
        self.post.agent = self.agent
        self.link = Link("tcp://here:1", "here")
        self.link.begin(worker("here/0"))
        self.hub: Any = SimpleNamespace(news=asyncio.Event())

    @property
    def heard(self) -> list[WorkerEvent]:
        """What the run was told."""
        return [event for event, _ in self.link.news]

    def down(self, *, is_due: bool = False) -> Down | None:
        """What the run would send now."""
        return self.link.letter(is_due=is_due)

    def deliver(self, letter: Down | None) -> None:
        """A letter of the run arrives."""
        if letter is not None:
            self.post.attach(self.hub, letter.heard)
            self.post.take(letter)

    def up(self, *, is_due: bool = False) -> Up | None:
        """What the agent's side would send now."""
        return self.post.letter(self.hub, is_due=is_due)

    def reconnect(self) -> None:
        """Another connection takes over."""
        self.hub = SimpleNamespace(news=asyncio.Event())
        self.link.reconnected()
        self.deliver(self.down())


def test_what_a_broken_connection_took_along_is_told_again_and_done_once() -> None:
    """Orders and events are numbered: none is lost, none is carried out or heard twice."""
    ends = Ends()
    ends.deliver(ends.down())
    ends.link.send(Spawn(), 1)
    ends.deliver(ends.down())  # it arrives, and the answer does not
    ends.post.put([(1, said.ready("here/0"))])
    assert ends.up() is not None
    ends.link.send(Start((start(worker("here/0"), 1, SequenceFile("/a")),)), 1)
    assert ends.down() is not None  # lost
    ends.post.put([(1, said.started("here/0", 1))])
    ends.reconnect()
    assert [type(order) for order in ends.agent.orders] == [Spawn, Start]
    again = ends.up()
    assert again is not None
    ends.link.take(again)
    ends.link.take(again)
    assert ends.heard == [said.ready("here/0"), said.started("here/0", 1)]
    ends.deliver(ends.down(is_due=True))  # both know now what has come
    ends.reconnect()
    assert len(ends.agent.orders) == 2
    about = ends.up()
    assert about is not None
    assert not about.events


def test_of_two_letters_in_one_batch_only_the_last_progress_is_kept() -> None:
    """The Dask worker that forwards them drops no other event, and keeps their order."""
    ends = Ends()
    ends.deliver(ends.down())
    ends.post.put([(1, said.started("here/0", 1)), (1, said.progress("here/0", 1, 1, 10))])
    letter = joined(None, said_up(ends))
    ends.post.put([(1, said.progress("here/0", 1, 2, 20))])
    letter = joined(letter, said_up(ends))
    ends.post.put([(1, said.completed("here/0", 1, 2, 40, 0.5))])
    ends.link.take(joined(letter, said_up(ends)))
    assert ends.heard == [
        said.started("here/0", 1),
        said.progress("here/0", 1, 2, 20),
        said.completed("here/0", 1, 2, 40, 0.5),
    ]


def said_up(ends: Ends) -> Up:
    """What the agent's side sends now."""
    letter = ends.up(is_due=True)
    assert letter is not None
    return letter


def test_how_far_a_file_has_got_waits_for_something_else_to_tell() -> None:
    """Only the last word of it is told, and all that happened before comes with an end."""
    ends = Ends()
    ends.deliver(ends.down())
    ends.up()
    for residues in (10, 20):
        ends.post.put([(1, said.progress("here/0", 1, 1, residues))])
        assert not ends.hub.news.is_set()
    ends.post.put([(1, said.completed("here/0", 1, 1, 40, 0.5))])
    assert ends.hub.news.is_set()
    letter = ends.up()
    assert letter is not None
    ends.link.take(letter)
    assert ends.heard == [
        said.progress("here/0", 1, 1, 20),
        said.completed("here/0", 1, 1, 40, 0.5),
    ]
    assert ends.up(is_due=True) is None


def test_nothing_is_sent_that_is_not_news() -> None:
    """An agent at work on a long file, and a run with nothing to say, cost no letter."""
    ends = Ends()
    ends.link.send(Kill(), 1)
    ends.deliver(ends.down())
    first = ends.up()
    assert first is not None
    ends.link.take(first)
    assert ends.down() is None
    assert ends.down(is_due=True) is None
    assert ends.up(is_due=True) is None
    assert sealed({}) == {}


def test_what_an_agent_is_and_that_it_goes_is_told_at_once() -> None:
    """Over each new connection again, because the one before may have lost it."""
    ends = Ends()
    ends.deliver(ends.down())
    ends.post.introduce(About("here", Place("0", "A100", "GPU-aa")))
    assert ends.up() is not None  # lost
    ends.post.leave()
    ends.reconnect()
    letter = ends.up()
    assert letter is not None
    ends.link.take(opened(sealed({"x": letter}))["x"])
    assert ends.link.introduced.is_set()
    assert ends.link.about == About("here", Place("0", "A100", "GPU-aa"))
    assert ends.link.is_leaving


def test_silence_on_a_node_is_no_word_of_the_worker() -> None:
    """Its node tells for how long; only the worker itself ends that."""
    link = Link("tcp://here:1", "here")
    link.take(Up(silence=20.0))
    link.notice_node()
    assert link.quiet == 20.0
    link.take(Up())
    assert link.quiet == 0.0
    link.quiet = 3.0
    link.notice_node()
    assert link.quiet == 0.0


class Faulty(Link):
    """One with a defect."""

    def letter(self, *, is_due: bool) -> Down | None:
        raise ValueError(f"a defect ({is_due=})")


def test_a_defect_breaks_the_connection_that_another_can_take_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and no run waits for a node that nothing is sent to."""

    async def hear(comm: Comm) -> None:
        with contextlib.suppress(OSError):
            while True:
                await comm.read()

    async def talk() -> None:
        is_broken = asyncio.Event()
        async with listen("tcp://127.0.0.1:0", hear) as listener:
            link = Faulty(listener.contact_address, "here")
            line = Line([link], "token", 5.0, 5.0, {}, lambda _: None, lambda _: is_broken.set())
            await asyncio.wait_for(is_broken.wait(), 30)
            await asyncio.gather(line.close(), return_exceptions=True)

    with caplog.at_level(logging.ERROR):
        asyncio.run(talk())
    assert "a defect" in caplog.text
