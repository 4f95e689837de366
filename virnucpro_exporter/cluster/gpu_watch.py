"""Who is asked about the GPUs of each node; all of it belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from distributed.comm import get_address_host

from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.snapshot import GpuSnapshot

# GPUs are asked about every second, as long as that makes no more questions a second than this; at
# most so many seconds lie between two, because what is older than 5 s is not shown.
_WATCH_SECONDS = 1.0
_MOST_QUESTIONS = 300
_LONGEST_WATCH_SECONDS = 3.0

# Whoever has not answered after so many seconds is not relied on while another sees the same GPUs.
_ANSWER_SECONDS = 2.0


class Gpus(Protocol):
    """Takes which nodes there are, and what they say of their GPUs."""

    def join(self, node: str, host: str) -> None:
        """A node has its first worker, at this address in the network."""

    def take(self, node: str, worker: str, now_there: float, snapshot: GpuSnapshot) -> None:
        """A worker of a node tells what it sees; both times are on the node's clock."""

    def leave(self, worker: str) -> None:
        """A worker has gone."""


class GpuWatch:
    """Asks Dask workers about the GPUs that they see.

    Args:
        gpus: Takes the answers.
        start: Starts work in the event loop.
    """

    def __init__(
        self, gpus: Gpus, start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        self._gpus = gpus
        self._start = start
        self._links: dict[str, list[Link]] = {}  # by node, in the order in which they have joined
        self._asking: dict[Link, asyncio.Task[None]] = {}
        self._silent: set[Link] = set()

    def join(self, link: Link) -> None:
        """A worker is there."""
        self._links.setdefault(link.node, []).append(link)
        self._choose(link.node)

    def leave(self, link: Link) -> None:
        """A worker has gone."""
        self._links[link.node].remove(link)
        self._silent.discard(link)
        if link in self._asking:
            self._asking.pop(link).cancel()
            self._gpus.leave(link.worker_id)
        self._choose(link.node)

    def _choose(self, node: str) -> None:
        """See to it that somebody is asked about each GPU of a node."""
        links = self._links[node]
        if links:
            self._gpus.join(node, get_address_host(links[0].address))
        for link in observers(link for link in links if link not in self._silent):
            if link not in self._asking:
                self._asking[link] = self._start(self._ask(link))

    async def _ask(self, link: Link) -> None:
        """Ask a worker again and again, until cancelled."""
        while True:
            question = asyncio.ensure_future(link.gpus())
            try:
                await asyncio.wait([question], timeout=_ANSWER_SECONDS)
                if not question.done():
                    self._silent.add(link)
                    self._choose(link.node)
                    await asyncio.wait([question])
            finally:
                question.cancel()
            if question.exception() is None:  # its link notices what is wrong with it
                self._gpus.take(link.node, link.worker_id, *question.result())
                self._silent.discard(link)
            await asyncio.sleep(pause(len(self._asking)))


def pause(observers: int) -> float:
    """Seconds between two questions to each of so many workers."""
    wanted = max(_WATCH_SECONDS, observers / _MOST_QUESTIONS)
    return min(wanted, _LONGEST_WATCH_SECONDS)


def observers(links: Iterable[Link]) -> list[Link]:
    """Those that have to be asked to hear of every GPU of their node.

    Most often each sees all GPUs, and the first is enough. Where each sees its own, it is all of
    them. The first is always asked: that a node has no GPU is worth knowing.

    Args:
        links: Of one node, in the order in which they have joined.
    """
    chosen: list[Link] = []
    seen: set[str] = set()
    for link in links:
        if not chosen or not seen.issuperset(link.sees):
            chosen.append(link)
            seen.update(link.sees)
    return chosen
