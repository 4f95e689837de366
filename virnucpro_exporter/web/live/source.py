"""Keeps the last ten minutes, and makes the page no more often than once a second."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import Callable, Sequence

from isal import igzip

from virnucpro_exporter import __version__
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.overview.trail import Trails
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.web.http import Request, Response
from virnucpro_exporter.web.live.page import SECURITY_POLICY, ShownRun, View, document

_LOOK_EVERY = 2.0  # seconds between two values of the trails
_FRESH_SECONDS = 1.0  # a page is reused for so long, for any number of clients
_LEVEL = 1  # of ISA-L
_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", SECURITY_POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Vary", "Accept-Encoding"),
)


class LivePage:
    """The page, from the newest snapshots.

    Args:
        runs: The runs to show.
        gpus: Whose `latest()` is a `GpuSnapshot`; None where no GPU is watched.
        links: (path, title) of the other pages.
        host: The name of the machine.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        runs: Callable[[], Sequence[ShownRun]],
        gpus: Published[GpuSnapshot] | None,
        links: Sequence[tuple[str, str]] = (),
        *,
        host: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._runs = runs
        self._gpus = gpus
        self._links = tuple(links)
        self._host = host or platform.node()
        self._clock = clock
        self._wall_clock = wall_clock
        self._trails = Trails()
        self._made_at = -_FRESH_SECONDS
        self._plain, self._packed = b"", b""

    async def watch(self) -> None:
        """Note what is to be seen in the small pictures, until cancelled."""
        while True:
            # A source is the user's own code. That it fails is logged where it is scraped, and
            # leaves a gap in the pictures.
            with contextlib.suppress(Exception):
                self.look()
            await asyncio.sleep(_LOOK_EVERY)

    def look(self) -> None:
        """Note the values of this moment."""
        gpus = None if self._gpus is None else self._gpus.latest()
        # By the id: a later run may have the name of one that has ended.
        runs = {shown.run.run_id: shown.run for shown in self._runs()}
        self._trails.add(self._clock(), gpus, runs)

    def answer(self, request: Request) -> Response:
        """The answer to a request for the page."""
        now = self._clock()
        if now - self._made_at >= _FRESH_SECONDS:
            self._plain = self._make().encode("utf-8", "backslashreplace")
            self._packed, self._made_at = igzip.compress(self._plain, _LEVEL), now
        if request.accepts_gzip:
            return Response(200, self._packed, (*_HEADERS, ("Content-Encoding", "gzip")))
        return Response(200, self._plain, _HEADERS)

    def _make(self) -> str:
        return document(
            View(
                host=self._host,
                version=__version__,
                runs=self._runs(),
                gpus=None if self._gpus is None else self._gpus.latest(),
                trails=self._trails,
                now=self._wall_clock(),
                ticks=self._clock(),
                links=self._links,
            )
        )
