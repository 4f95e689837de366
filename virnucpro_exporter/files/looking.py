"""Many files looked at together: on a shared file system each question takes a millisecond."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Threads wait for the file system most of the time, so there may be many more than processors.
THREADS = 32
# Files that a thread takes at once; fewer would cost more than they take where files are near.
TOGETHER = 64

# The first files show whether answers are waited for: for so many seconds, most of the times. Where
# they are not, threads would only take the interpreter from each other, and from the run that goes
# on meanwhile.
_TRIED = 8
_FAR_SECONDS = 0.0002


def look_at(
    files: Sequence[T],
    ask: Callable[[T], R],
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.thread_time,
) -> list[R]:
    """The result of `ask` for each file, in their order; called in many threads where that helps.

    Args:
        files: The files.
        ask: Queries the file system about one file, and changes nothing.
        clock: Monotonic seconds.
        cpu_clock: Seconds of processor time of this thread.
    """
    return [a for answers in answers_about(files, ask, clock, cpu_clock) for a in answers]


def answers_about(
    files: Sequence[T],
    ask: Callable[[T], R],
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.thread_time,
) -> Iterator[list[R]]:
    """As `look_at`, but in parts, each as soon as it and those before it are known."""
    first, waits = [], []
    for file in files[:_TRIED]:
        began, worked = clock(), cpu_clock()
        first.append(ask(file))
        waits.append(clock() - began - (cpu_clock() - worked))
    yield first
    parts = [files[start : start + TOGETHER] for start in range(_TRIED, len(files), TOGETHER)]
    if len(parts) <= 1 or sorted(waits)[_TRIED // 2] < _FAR_SECONDS:
        for part in parts:
            yield [ask(file) for file in part]
        return
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        left = iter(parts)
        under_way: deque[Future[list[R]]] = deque()
        try:
            for part in left:
                under_way.append(pool.submit(lambda part: [ask(file) for file in part], part))
                if len(under_way) >= 2 * THREADS:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:  # the caller may stop early
            for future in under_way:
                future.cancel()
