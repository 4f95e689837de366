"""Who tells of the GPUs of each node; all of it belongs to one event loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from distributed.comm import get_address_host

from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.cluster.looks import Look

# GPUs are told of about every second, as long as that makes no more messages a second than this; at
# most so many seconds lie between two, because what is older than 5 s is not shown.
_WATCH_SECONDS = 1.0
_MOST_MESSAGES = 64
_LONGEST_WATCH_SECONDS = 3.0

# Whoever is so many seconds late is not relied on while another sees the same GPUs.
_LATE_SECONDS = 2.0


class Gpus(Protocol):
    """Takes which nodes there are, and what they say of their GPUs."""

    def join(self, node: str, host: str) -> None:
        """A node has its first worker, at this address in the network."""

    def take(self, node: str, worker: str, look: Look) -> None:
        """A worker of a node tells what it sees."""

    def leave(self, worker: str, *, in_order: bool) -> None:
        """A worker has gone: in order, or because it is lost."""


class GpuWatch:
    """Chooses the Dask workers that tell of the GPUs that they see.

    Args:
        gpus: Takes what they tell.
        ask: Is called when a link is to tell more or less often.
    """

    def __init__(self, gpus: Gpus, ask: Callable[[Link], None]) -> None:
        self._gpus = gpus
        self._ask = ask
        self._links: dict[str, list[Link]] = {}  # by node, in the order in which they have joined
        self._telling: dict[Link, float] = {}  # seconds since each has told
        self._silent: set[Link] = set()

    def join(self, link: Link) -> None:
        """A worker is there."""
        self._links.setdefault(link.node, []).append(link)
        self._choose(link.node)

    def leave(self, link: Link) -> None:
        """A worker has gone."""
        self._links[link.node].remove(link)
        self._silent.discard(link)
        if self._telling.pop(link, None) is not None:
            self._gpus.leave(link.worker_id, in_order=link.was_told_to_leave)
        self._choose(link.node)

    def hear(self, link: Link) -> None:
        """Take what a link has told of its GPUs, if it has."""
        told, link.gpus = link.gpus, None
        if told is not None and link in self._telling:
            self._gpus.take(link.node, link.worker_id, told)
            self._telling[link] = 0.0
            self._silent.discard(link)

    def pass_time(self, seconds: float) -> None:
        """Rely no longer on those that have not told for too long."""
        for link in list(self._telling):
            self._telling[link] += seconds
            if self._telling[link] > link.watch + _LATE_SECONDS and link not in self._silent:
                self._silent.add(link)
                self._choose(link.node)

    def _choose(self, node: str) -> None:
        """See to it that somebody tells of each GPU of a node."""
        links = self._links[node]
        if links:
            self._gpus.join(node, get_address_host(links[0].address))
        for link in observers(link for link in links if link not in self._silent):
            if link not in self._telling:
                self._telling[link] = 0.0
        seconds = pause(len(self._telling))
        for link in self._telling:
            if link.watch != seconds:
                link.watch = seconds
                self._ask(link)


def pause(observers: int) -> float:
    """Seconds between two looks of each of so many workers."""
    wanted = max(_WATCH_SECONDS, float(math.ceil(observers / _MOST_MESSAGES)))
    return min(wanted, _LONGEST_WATCH_SECONDS)


def observers(links: Iterable[Link]) -> list[Link]:
    """Those that have to tell to hear of every GPU of their node.

    Most often each sees all GPUs, and the first is enough. Where each sees its own, it is all of
    them. The first always tells: that a node has no GPU is worth knowing.

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
