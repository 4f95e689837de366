"""Many files looked at together: on a shared file system each question takes a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Threads wait for the file system most of the time, so there may be many more than processors.
THREADS = 32
# Files that a thread takes at once; fewer would cost more than they take where files are near.
TOGETHER = 64


def look_at(files: Sequence[T], ask: Callable[[T], R]) -> list[R]:
    """What `ask` says of each file, in their order; called in many threads.

    Args:
        files: What is asked about.
        ask: Asks the file system about one file, and changes nothing.
    """
    parts = [files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
    if len(parts) <= 1:
        return [ask(file) for file in files]
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        answers = pool.map(lambda part: [ask(file) for file in part], parts)
        return [answer for part in answers for answer in part]
