"""What an agent on a Dask worker answers, and when."""

from __future__ import annotations

import asyncio
import contextlib

from virnucpro_exporter.scheduling.events import Progress, WorkerEvent

# How many processes the worker had had by then, and what happened.
Told = tuple[int, WorkerEvent]


class Mailbox:
    """What a worker has told and the coordinator has not heard; belongs to an event loop.

    Args:
        progress_seconds: How far a file has got waits so long for something else to tell.
        answer_seconds: Nothing at all is an answer after so long.
    """

    def __init__(self, progress_seconds: float, answer_seconds: float) -> None:
        self._progress_seconds = progress_seconds
        self._answer_seconds = answer_seconds
        self._told: list[Told] = []
        self._has_news = asyncio.Event()

    def put(self, told: list[Told]) -> None:
        """Add events, in the order in which they happened."""
        for generation, event in told:
            if not isinstance(event, Progress):
                self._has_news.set()
            elif self._told and isinstance(self._told[-1][1], Progress):
                self._told.pop()  # of the same attempt: no other has begun since
            self._told.append((generation, event))

    async def take(self) -> list[Told]:
        """What has been told; waits for something, but not for long."""
        await self._wait(self._progress_seconds)
        if not self._told:
            await self._wait(self._answer_seconds - self._progress_seconds)
        self._has_news.clear()
        told, self._told = self._told, []
        return told

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._has_news.wait(), seconds)
