"""Counts many files exactly, in parallel where that is worth it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.files.counting import count
from virnucpro_exporter.files.looking import look_at
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.stores.paths import StoredPath

# Below this much input, starting processes takes longer than counting in this one.
PARALLEL_BYTES = 256 << 20

# How often progress is looked at, in seconds.
TICK_SECONDS = 0.2


def count_files(
    paths: Sequence[Path], processes: int, on_progress: Callable[[int], None]
) -> list[SequenceFile]:
    """Count many files exactly, in parallel.

    A file that cannot be counted costs 1: it fails later, on its own, in its own attempt.

    Args:
        paths: What to count.
        processes: How many processes may count at the same time.
        on_progress: Called in this thread, several times a second, with how many bytes of all
            files have been read.

    Returns:
        The counted files, in the order of `paths`.
    """
    sizes = dict(zip(paths, look_at(paths, size_of), strict=True))
    # The library of a store has threads of its own, and objects are not read any faster apart.
    is_far = any(isinstance(path, StoredPath) for path in sizes)
    if is_far or processes <= 1 or len(sizes) <= 1 or sum(sizes.values()) < PARALLEL_BYTES:
        counted = _count_here(list(sizes), on_progress)
    else:
        largest_first = sorted(sizes, key=sizes.__getitem__, reverse=True)
        counted = _count_apart(largest_first, min(processes, len(sizes)), on_progress)
    return [counted[path] for path in paths]


def _count_here(
    paths: Sequence[Path], on_progress: Callable[[int], None]
) -> dict[Path, SequenceFile]:
    done = 0

    def report(size: int) -> None:
        nonlocal done
        done += size
        on_progress(done)

    return {path: _count_or_one(path, report) for path in paths}


def _count_apart(
    paths: Sequence[Path], processes: int, on_progress: Callable[[int], None]
) -> dict[Path, SequenceFile]:
    # Spawned, since a fork of a process with threads may deadlock.
    context = multiprocessing.get_context("spawn")
    total = context.Value("q", 0)
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_share, initargs=(total,)
    ) as pool:
        futures = {path: pool.submit(_count_sharing, path) for path in paths}
        left = set(futures.values())
        while left:
            _, left = wait(left, timeout=TICK_SECONDS)
            on_progress(total.value)
        return {path: future.result() for path, future in futures.items()}


_total: Any = None  # in a counting process: the bytes that all of them have read


def _share(total: Any) -> None:
    global _total  # noqa: PLW0603 - an initializer has no other way to hand it on
    _total = total


def _count_sharing(path: Path) -> SequenceFile:
    return _count_or_one(path, _add_to_total)


def _add_to_total(size: int) -> None:
    with _total.get_lock():
        _total.value += size


def size_of(path: Path) -> int:
    """Bytes in a file; 0 where it cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _count_or_one(path: Path, report: Callable[[int], None]) -> SequenceFile:
    try:
        return count(path, report)
    except (OSError, SequenceFileError):
        return SequenceFile(os.fspath(path))
