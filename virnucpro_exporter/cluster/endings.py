"""Reliable cancellation of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

# A task that has not ended after so many seconds is cancelled again.
AGAIN_SECONDS = 1.0


async def ended(tasks: Iterable[asyncio.Task[Any]], again: float = AGAIN_SECONDS) -> None:
    """Cancel tasks until all have ended.

    Up to Python 3.11 `asyncio.wait_for` loses a cancellation that comes at the moment at which its
    own work is done. A loop around it then runs for ever, and waiting for its end never returns.

    Args:
        tasks: The tasks to cancel.
        again: Seconds between two cancellations.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again)
