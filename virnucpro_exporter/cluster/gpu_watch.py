"""Selects the Dask workers that report the GPUs of each node; used in one event loop alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from distributed.comm import get_address_host

from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.cluster.looks import Look

# GPUs are reported about once per second, unless that exceeds the highest rate of messages (per
# second). The longest interval is bounded, because values older than `nodes.MAX_AGE` are not shown.
_WATCH_SECONDS = 1.0
_MOST_MESSAGES = 64
_LONGEST_WATCH_SECONDS = 3.0

# A Dask worker whose report is so many seconds late is replaced by another that sees the same GPUs.
_LATE_SECONDS = 2.0


class Gpus(Protocol):
    """Receives the nodes and the reports of their GPUs."""

    def join(self, node: str, host: str) -> None:
        """A node has a worker; `host` is its network address. May be called again for a node."""

    def take(self, node: str, worker: str, look: Look) -> None:
        """A worker has reported the GPUs that it sees."""

    def leave(self, worker: str, *, in_order: bool) -> None:
        """A reporting worker has left: announced (`in_order`), or because it was lost."""


class GpuWatch:
    """Selects the Dask workers that report the GPUs that they see.

    Args:
        gpus: Receives the reports.
        ask: Called when the interval of a link's reports (`Link.watch`) has changed.
    """

    def __init__(self, gpus: Gpus, ask: Callable[[Link], None]) -> None:
        self._gpus = gpus
        self._ask = ask
        self._links: dict[str, list[Link]] = {}  # by node, in the order in which they have joined
        self._telling: dict[Link, float] = {}  # seconds since the last report of each
        self._silent: set[Link] = set()

    def join(self, link: Link) -> None:
        """Add a worker that has joined."""
        self._links.setdefault(link.node, []).append(link)
        self._choose(link.node)

    def leave(self, link: Link) -> None:
        """Remove a worker that has left."""
        self._links[link.node].remove(link)
        self._silent.discard(link)
        if self._telling.pop(link, None) is not None:
            self._gpus.leave(link.worker_id, in_order=link.was_told_to_leave)
        self._choose(link.node)

    def hear(self, link: Link) -> None:
        """Take the last report of a link, if there is a new one."""
        told, link.gpus = link.gpus, None
        if told is not None and link in self._telling:
            self._gpus.take(link.node, link.worker_id, told)
            self._telling[link] = 0.0
            self._silent.discard(link)

    def pass_time(self, seconds: float) -> None:
        """Replace the workers whose reports are late.

        Args:
            seconds: Time since the last call.
        """
        for link in list(self._telling):
            self._telling[link] += seconds
            if self._telling[link] > link.watch + _LATE_SECONDS and link not in self._silent:
                self._silent.add(link)
                self._choose(link.node)

    def _choose(self, node: str) -> None:
        """Select workers until the report of one covers each GPU of a node."""
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
    """Seconds between two reports of a worker, when this number of workers report."""
    wanted = max(_WATCH_SECONDS, float(math.ceil(observers / _MOST_MESSAGES)))
    return min(wanted, _LONGEST_WATCH_SECONDS)


def observers(links: Iterable[Link]) -> list[Link]:
    """The links whose reports together cover every GPU of a node.

    Where each sees all GPUs, the first is enough. Where each sees its own GPU only, all are needed.
    The first always reports, so that a node without a GPU is shown as such.

    Args:
        links: The links of one node, in the order in which they have joined.
    """
    chosen: list[Link] = []
    seen: set[str] = set()
    for link in links:
        if not chosen or not seen.issuperset(link.sees):
            chosen.append(link)
            seen.update(link.sees)
    return chosen
