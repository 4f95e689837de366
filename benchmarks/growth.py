"""Whether a long run on a Dask cluster grows, and which messages it sends, minute by minute.

Eight processes are nodes with eight Dask workers each, as in `benchmarks.cluster`; every worker has
a process of its own, which sleeps through files. The run has its journal, table, log and a scrape a
second. Printed are, at the end of each minute: the memory, open files and threads of the process of
the run and of the processes of the nodes, and what went over the lines in that minute.

Run: python -m benchmarks.growth [--minutes 10] [--seconds 20]
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psutil

from benchmarks.cluster import (
    GPUS_PER_NODE,
    MANY_NODES,
    Cluster,
    cluster,
    dask_pool,
    even_files,
    ours,
)
from virnucpro_exporter.cluster import line
from virnucpro_exporter.cluster.letters import Down, Up, opened, sealed

MIB = 1024 * 1024
SETTLE_SECONDS = 30.0

COUNTED: Counter[str] = Counter()


def count_up(batch: Mapping[str, Up]) -> None:
    """Note what a node has sent."""
    COUNTED["batches up"] += 1
    COUNTED["empty up"] += not batch
    for up in batch.values():
        COUNTED["letters up"] += 1
        COUNTED["looks at GPUs"] += up.gpus is not None
        for told in up.events:
            COUNTED[type(told.event).__name__] += 1


def count_down(batch: Mapping[str, Down | Up | None], *, is_beat: bool) -> None:
    """Note what a node is sent."""
    COUNTED["batches down"] += 1
    COUNTED["of them beats"] += is_beat
    for down in batch.values():
        COUNTED["letters down"] += 1
        if isinstance(down, Down):
            for _, command in down.commands:
                COUNTED[type(command.order).__name__] += 1


@contextmanager
def counted() -> Iterator[None]:
    """Count the messages of the lines of this process."""

    def open_(message: Mapping[str, Any]) -> dict[str, Any]:
        batch = opened(message)
        count_up(batch)
        return batch

    def seal(batch: Mapping[str, Down | Up | None], *, is_beat: bool = False) -> dict[str, Any]:
        count_down(batch, is_beat=is_beat)
        return sealed(batch, is_beat=is_beat)

    with (
        mock.patch.object(line, "opened", open_),
        mock.patch.object(line, "sealed", seal),
    ):
        yield


def sizes(processes: list[psutil.Process]) -> str:
    """Memory in MiB, open files and threads of some processes together."""
    memory = sum(process.memory_info().rss for process in processes) / MIB
    files = sum(process.num_fds() for process in processes)
    threads = sum(process.num_threads() for process in processes)
    return f"{memory:8.1f} MiB {files:5} files {threads:5} threads"


def watch(on: Cluster, minutes: int) -> None:
    """Print the figures at the end of each minute."""
    time.sleep(SETTLE_SECONDS)
    COUNTED.clear()
    here = psutil.Process()
    nodes = [psutil.Process(node.pid) for node in on.nodes]
    for minute in range(minutes + 1):
        workers = [child for node in nodes for child in node.children(recursive=True)]
        counts = (f"{what} {count}" for what, count in sorted(COUNTED.items()))
        figures = (
            f"\nminute {minute}, processor time {time.process_time():.1f} s",
            f"  the run   {sizes([here])}",
            f"  8 nodes   {sizes(nodes)}",
            f"  {len(workers):2} workers {sizes(workers)}",
            f"  {', '.join(counts)}",
        )
        # The live table has taken the place of the usual output.
        print(*figures, sep="\n", file=sys.__stdout__, flush=True)
        COUNTED.clear()
        if minute < minutes:
            time.sleep(60.0)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a file (default: 20)")
    options = parser.parse_args()
    gpus = MANY_NODES * GPUS_PER_NODE
    needed = SETTLE_SECONDS + 60.0 * options.minutes + options.seconds
    files = even_files(int(gpus * (needed / options.seconds + 1)), options.seconds)
    with cluster(MANY_NODES, GPUS_PER_NODE) as on, counted():
        watcher = threading.Thread(target=watch, args=(on, options.minutes), daemon=True)
        ours(dask_pool(on), files, is_whole=True, beside=watcher.start)
        watcher.join()
    print(f"\nall {len(files)} files are done")


if __name__ == "__main__":
    main()
