"""What it costs to begin to read in the middle of a file of each kind, and what indexes would cost.

FASTA of reads, compressed at level 6. For each way to read, in a process of its own: the processor
time until the file can be entered anywhere (an index, where there is one), the most memory, and the
time from there to the first record after each of eight places in random order. Then the same places
in the order of the file, as a worker comes to them that does one part after the other.

The peers read gzip with an index: indexed_gzip (a point for each MiB of text) and rapidgzip (with
one thread).

Run: python -m benchmarks.range_reading [--megabytes 200]
"""

from __future__ import annotations

import argparse
import gzip
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.one_file import peak, reads
from tests.compressed import bgzip
from virnucpro_exporter.sequences import Part, extent, read_sequences

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLACES = 8


class Cost(NamedTuple):
    """What one way to read costs.

    Attributes:
        ready: Seconds of processor time until the file can be entered.
        memory: The most bytes that the process has had.
        seeks: Seconds to the first record after each place.
    """

    ready: float
    memory: int
    seeks: list[float]


def enter_ours(path: Path, shares: Sequence[float]) -> Cost:
    """With this program's reader, which has no index."""
    end = extent(path)
    if end is None:
        raise ValueError(path)
    seeks = []
    for share in shares:
        began = time.process_time()
        next(read_sequences(Part(path, int(share * end))))
        seeks.append(time.process_time() - began)
    return Cost(0.0, most_memory(), seeks)


def enter_indexed_gzip(path: Path, shares: Sequence[float]) -> Cost:
    """With the index of indexed_gzip."""
    import indexed_gzip  # noqa: PLC0415 - each peer in its own process

    return _enter(
        shares, lambda: indexed_gzip.IndexedGzipFile(path, spacing=1 << 20), build_by_seek
    )


def enter_rapidgzip(path: Path, shares: Sequence[float]) -> Cost:
    """With the index of rapidgzip."""
    import rapidgzip  # noqa: PLC0415 - each peer in its own process

    return _enter(
        shares,
        lambda: rapidgzip.open(str(path), parallelization=1),
        lambda file: int(file.seek(0, 2)),
    )


def build_by_seek(file: Any) -> int:
    """Build the index, and return how long the text is."""
    file.build_full_index()
    return int(file.seek(0, 2))


def _enter(
    shares: Sequence[float], start: Callable[[], Any], size_of: Callable[[Any], int]
) -> Cost:
    began = time.process_time()
    with start() as file:
        size = size_of(file)
        index = time.process_time() - began
        seeks = []
        for share in shares:
            began = time.process_time()
            file.seek(int(share * size))
            text = file.read(1 << 16)
            text.index(b"\n>")
            seeks.append(time.process_time() - began)
    return Cost(index, most_memory(), seeks)


def most_memory() -> int:
    """The most memory that this process has had, in bytes."""
    return peak(psutil.Process())


WAYS: tuple[tuple[str, str, Callable[[Path, Sequence[float]], Cost]], ...] = (
    ("plain", "reads.fa", enter_ours),
    ("bgzip, virtual offsets", "bgzip.fa.gz", enter_ours),
    ("gzip, text thrown away", "gzip.fa.gz", enter_ours),
    ("gzip, indexed_gzip", "gzip.fa.gz", enter_indexed_gzip),
    ("gzip, rapidgzip", "gzip.fa.gz", enter_rapidgzip),
    ("zstd, text thrown away", "zstd.fa.zst", enter_ours),
)


def measure(
    way: Callable[[Path, Sequence[float]], Cost], path: Path, shares: Sequence[float]
) -> Cost:
    """The cost of one way, in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(way, path, shares).result()


def files(folder: Path, megabytes: int) -> Iterator[Path]:
    """Write the file of each kind."""
    fasta = b"".join(b">read_%d\n%s\n" % pair for pair in reads(megabytes))
    packed: dict[str, Callable[[], bytes]] = {
        "reads.fa": lambda: fasta,
        "bgzip.fa.gz": lambda: bgzip(fasta),
        "gzip.fa.gz": lambda: gzip.compress(fasta, 6),
        "zstd.fa.zst": lambda: zstd.compress(fasta, level=6),
    }
    for name, make in packed.items():
        path = folder / name
        path.write_bytes(make())
        yield path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=200, help="of bases")
    megabytes = parser.parse_args().megabytes
    in_order = [(n + 0.5) / PLACES for n in range(PLACES)]
    mixed = random.Random(1).sample(in_order, PLACES)
    with tempfile.TemporaryDirectory(prefix="range_reading_") as name:
        folder = Path(name)
        sizes = {path.name: path.stat().st_size for path in files(folder, megabytes)}
        print(f"{sizes['reads.fa'] / 1e6:,.0f} MB of text; processor time in ms, memory in MB")
        heads = "".join(f"{head:>9}" for head in ("size", "index", "memory", "a place", "slowest"))
        print(f"{'':<24}{heads}{'all in order':>14}")
        for title, file, way in WAYS:
            cost = measure(way, folder / file, mixed)
            ordered = measure(way, folder / file, in_order)
            print(
                f"{title:<24}{sizes[file] / 1e6:>9.0f}{cost.ready * 1e3:>9.0f}"
                f"{cost.memory / 1e6:>9.0f}{statistics.median(cost.seeks) * 1e3:>9.1f}"
                f"{max(cost.seeks) * 1e3:>9.1f}{sum(ordered.seeks) * 1e3:>14.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
