"""Tasks that are to end."""

from __future__ import annotations

import asyncio
import contextlib

from virnucpro_exporter.cluster.endings import ended


def test_a_task_that_loses_a_cancellation_ends_all_the_same() -> None:
    """`asyncio.wait_for` of Python 3.11 loses one that comes when its own work is done."""
    lost: list[int] = []

    async def loses_the_first() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        lost.append(1)
        await asyncio.sleep(60.0)

    async def main() -> None:
        tasks = [asyncio.create_task(loses_the_first()), asyncio.create_task(asyncio.sleep(60.0))]
        await asyncio.sleep(0)
        await ended(tasks, again=0.0)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(asyncio.wait_for(main(), 30.0))
    assert lost == [1]
