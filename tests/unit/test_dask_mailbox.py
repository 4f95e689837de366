"""What the agent on a Dask worker answers, and when."""

from __future__ import annotations

import asyncio

from tests import events as said
from virnucpro_exporter.cluster.mailbox import Mailbox, Told

LONG = 1000.0  # the test would not end


def progress(residues: int) -> Told:
    return 1, said.progress("a", 1, 1, residues)


def test_an_end_is_told_at_once() -> None:
    """With all that happened before it, and only the last of what said how far a file had got."""

    async def take() -> list[Told]:
        mailbox = Mailbox(LONG, 2 * LONG)
        taking = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        mailbox.put([(1, said.started("a", 1)), progress(10), progress(20)])
        mailbox.put([progress(30), (1, said.completed("a", 1, 1, 40, 0.5))])
        return await taking

    started, *rest = asyncio.run(take())
    assert started == (1, said.started("a", 1))
    assert rest == [progress(30), (1, said.completed("a", 1, 1, 40, 0.5))]


def test_progress_waits_for_more_to_tell() -> None:
    """Alone it is told after a while, and nothing later."""

    async def take() -> tuple[list[Told], list[Told]]:
        mailbox = Mailbox(0.05, LONG)
        mailbox.put([progress(10)])
        taking = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        assert not taking.done()
        mailbox.put([progress(20)])
        first = await taking
        return first, await Mailbox(0.01, 0.02).take()

    assert asyncio.run(take()) == ([progress(20)], [])
