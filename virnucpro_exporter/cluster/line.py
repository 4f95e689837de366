"""One connection to a node: to one of its Dask workers, and through it to the others."""

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

# A Dask worker that does not take a connection within so many seconds is not there: Dask itself
# tries again until then.
_CONNECT_SECONDS = 5.0


class Line:
    """Carries the letters of some links over one connection.

    Args:
        links: Of one node; the first one is connected, the others are reached through it.
        token: Of the run.
        beat: What can wait is told every so many seconds.
        quiet: Nothing at all is told after so many.
        arguments: How Dask connects, for TLS.
        news: Is called with the links that were heard.
        broken: Is called when the connection is gone.
        is_private: It is for one Dask worker alone, for which there is no other way.

    Attributes:
        is_private: As given.
        head: The address that is connected.
        links: By the address of their Dask worker.
        quiet: For how many seconds nothing has come.
        is_connected: Whether letters can be sent.
        was_heard: Whether anything ever came.
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
        self._gone: list[str] = []  # addresses that the node is to forget
        self._has_outgoing = asyncio.Event()
        for link in links:
            self.add(link)
        self.head = next(iter(self.links))
        self._task = asyncio.create_task(self._talk())

    def add(self, link: Link) -> None:
        """Carry the letters of one more."""
        link.reconnected()
        self.links[link.address] = link
        self.send(link)

    def remove(self, link: Link) -> None:
        """Carry them no more."""
        if self.links.pop(link.address, None) is not None:
            self._gone.append(link.address)
            self._has_outgoing.set()

    def send(self, link: Link) -> None:
        """A link has something to send."""
        self._fresh.add(link.address)
        self._has_outgoing.set()

    def part(self) -> None:
        """Carry no more letters, and break the connection soon."""
        self._gone += self.links
        self.links = {}
        self._has_outgoing.set()
        asyncio.get_running_loop().call_later(PARTING_SECONDS, self.close)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        return self._task.done()

    def close(self) -> asyncio.Task[None]:
        """Break the connection; the task ends when that is done."""
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
        except (
            OSError
        ):  # Dask reports a connection that is gone in several ways, all of which are one
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
        """Send what has gathered, one message at a time, and a sign of life now and then."""
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
