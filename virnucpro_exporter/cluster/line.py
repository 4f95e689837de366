"""One connection to a node: to one of its Dask workers, which relays to the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from distributed.comm import Comm, connect

from virnucpro_exporter.cluster.endings import ended
from virnucpro_exporter.cluster.letters import LINE, Down, Up, opened, sealed
from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.cluster.post import PARTING_SECONDS, end_together

log = logging.getLogger(__name__)

# The time limit for a connection, in seconds; Dask retries until then.
_CONNECT_SECONDS = 5.0


class Line:
    """Sends and receives the letters of several links over one connection.

    Args:
        links: The links of one node; the first is connected to and relays for the others.
        token: The token of the run.
        beat: Interval of messages that can wait, in seconds.
        quiet: Longest pause between two messages, in seconds.
        arguments: Dask's arguments of a connection (TLS).
        news: Called with the links whose letters have arrived.
        broken: Called when the connection has broken.
        is_private: It serves a single Dask worker that cannot be reached through another.

    Attributes:
        is_private: As given.
        head: The address of the Dask worker that is connected to.
        links: The links, by the addresses of their Dask workers.
        quiet: Seconds since the last message arrived.
        is_connected: Whether letters can be sent.
        was_heard: Whether a message ever arrived.
    """

    def __init__(
        self,
        links: Iterable[Link],
        token: str,
        beat: float,
        quiet: float,
        arguments: dict[str, Any],
        news: Callable[[list[Link]], None],
        broken: Callable[[Line], None],
        *,
        is_private: bool = False,
    ) -> None:
        self.is_private = is_private
        self.links: dict[str, Link] = {}
        self.quiet = 0.0
        self.was_heard = self.is_connected = False
        self._hello = {"op": LINE, "reply": False, "token": token, "beat": beat, "quiet": quiet}
        self._quiet = quiet
        self._arguments = arguments
        self._news = news
        self._broken = broken
        self._fresh: set[str] = set()  # addresses with something to send
        self._gone: list[str] = []  # addresses that the node has to drop
        self._has_outgoing = asyncio.Event()
        for link in links:
            self.add(link)
        self.head = next(iter(self.links))
        self._task = asyncio.create_task(self._talk())

    def add(self, link: Link) -> None:
        """Add a link; its unacknowledged commands are sent again."""
        link.reconnected()
        self.links[link.address] = link
        self.send(link)

    def remove(self, link: Link) -> None:
        """Remove a link; the node ends its agent."""
        if self.links.pop(link.address, None) is not None:
            self._gone.append(link.address)
            self._has_outgoing.set()

    def send(self, link: Link) -> None:
        """Wake the sender: a link has something to send."""
        self._fresh.add(link.address)
        self._has_outgoing.set()

    def part(self) -> None:
        """Remove all links, and close the connection `PARTING_SECONDS` later."""
        self._gone += self.links
        self.links = {}
        self._has_outgoing.set()
        asyncio.get_running_loop().call_later(PARTING_SECONDS, self.close)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._task.done()

    def close(self) -> asyncio.Task[None]:
        """Close the connection; returns the task, which ends when it is closed."""
        self._task.cancel()
        return self._task

    async def _talk(self) -> None:
        comm: Comm | None = None
        telling: asyncio.Task[None] | None = None
        try:
            comm = await connect(self.head, timeout=_CONNECT_SECONDS, **self._arguments)
            await comm.write(self._hello)
            self.is_connected = True
            telling = asyncio.create_task(self._tell(comm))
            end_together(telling, comm)
            while True:
                self._take(opened(await comm.read()))
        except OSError:  # the base class of all errors that Dask raises for a broken connection
            self._broken(self)
        except Exception:  # a defect must not leave the node without a line
            log.exception("the connection to %s failed", self.head)
            self._broken(self)
        finally:
            if comm is not None:
                comm.abort()  # first: it ends a sender that has missed its cancellation
            if telling is not None:
                await ended([telling])

    def _take(self, batch: dict[str, Up]) -> None:
        self.quiet = 0.0
        self.was_heard = True
        for link in self.links.values():
            link.notice_node()
        heard = []
        for address, up in batch.items():
            if (link_ := self.links.get(address)) is not None:
                link_.take(up)
                heard.append(link_)
        self._news(heard)

    async def _tell(self, comm: Comm) -> None:
        """Send the waiting letters, a batch at a time, and regular signs of life."""
        clock = asyncio.get_running_loop().time
        due = clock() + self._quiet
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._has_outgoing.wait(), max(0.0, due - clock()))
                self._has_outgoing.clear()
                if is_due := clock() >= due:
                    due = clock() + self._quiet
                batch: dict[str, Down | Up | None] = dict.fromkeys(self._gone)
                self._gone = []
                fresh, self._fresh = self._fresh, set()
                for address in list(self.links) if is_due else fresh:
                    link = self.links.get(address)
                    if link is not None and (down := link.letter(is_due=is_due)) is not None:
                        batch[address] = down
                if batch or is_due:
                    await comm.write(sealed(batch, is_beat=is_due))
