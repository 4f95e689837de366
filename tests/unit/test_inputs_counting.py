from __future__ import annotations

import functools
import gzip
import io
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.files import counting, counting_many
from virnucpro_exporter.files.counting import Tally, count, estimate
from virnucpro_exporter.files.counting_many import count_files
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.sequences.texts import BLOCK_BYTES

SIZE = 6 << 20


@functools.cache
def reads(marker: str, lengths: tuple[int, int], width: int) -> bytes:
    """About `SIZE` bytes of records with random lengths."""
    rng = random.Random(1)
    genome = "".join(rng.choices("ACGT", k=200_000))
    parts: list[str] = []
    total = number = 0
    while total < SIZE:
        length = rng.randint(*lengths)
        start = rng.randrange(len(genome) - length)
        bases = genome[start : start + length]
        text = "\n".join(bases[i : i + width] for i in range(0, length, width))
        if marker == "@":
            qualities = "".join(rng.choices("@+>FI", k=length))
            text += "\n+\n" + "\n".join(qualities[i : i + width] for i in range(0, length, width))
        number += 1
        parts.append(f"{marker}read_{number} sample=x\n{text}\n")
        total += len(parts[-1])
    return "".join(parts).encode()


def with_crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def with_gzip(text: bytes) -> bytes:
    return gzip.compress(text, compresslevel=1)


@pytest.mark.parametrize("pack", [bytes, with_crlf, with_gzip])
@pytest.mark.parametrize(
    "layout",
    [
        (">", (100, 200), 1000),
        (">", (1_000, 9_000), 60),
        (">", (100_000, 150_000), 1_000_000),
        ("@", (100, 200), 1000),
        ("@", (100, 200), 60),
    ],
    ids=["short reads", "contigs", "one-line genomes", "FASTQ", "FASTQ of many lines"],
)
def test_estimate_is_within_one_percent(
    tmp_path: Path, layout: tuple[str, tuple[int, int], int], pack: Callable[[bytes], bytes]
) -> None:
    """An estimate of a large homogeneous file is within 1 %, and no count of its sequences."""
    path = tmp_path / "x"
    path.write_bytes(pack(reads(*layout)))
    estimated = estimate(path)
    counted = count(path)
    assert counted.sequences is not None
    assert estimated.sequences is None
    assert estimated.residues == pytest.approx(counted.residues, rel=0.01)
    if counted.sequences < 200:  # too few to tell
        assert estimated.likely_sequences is None
    else:
        assert estimated.likely_sequences == pytest.approx(counted.sequences, rel=0.02)


class Metered(io.FileIO):
    """A file that counts the bytes read from it."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and add to the total."""
        text = super().read(size) or b""
        self.total += len(text)
        return text


@given(
    st.lists(st.tuples(st.text("a> ", max_size=5), st.text("AC\n", max_size=12))),
    st.lists(st.integers(0, 60)),
)
def test_fasta_is_counted_alike_however_it_is_cut(
    records: list[tuple[str, str]], cuts: list[int]
) -> None:
    """Blocks may end anywhere: within a header, before its newline, within a sequence."""
    text = "".join(f">{header}\n{sequence}\n" for header, sequence in records).encode()
    ends = [0, *sorted(cuts), len(text)]
    tally = Tally()
    tally.add_fasta(text[begin:end] for begin, end in pairwise(ends))
    assert tally.sequences == len(records)
    assert tally.residues == sum(len(s.replace("\n", "")) for _, s in records)


@pytest.mark.parametrize("pack", [bytes, with_gzip])
def test_estimate_reads_little_of_a_large_file(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """An estimate reads 4 MiB and two blocks, however large the file is."""
    path = tmp_path / "x.fa"
    path.write_bytes(pack(b">a\n" + reads(">", (1_000, 9_000), 60)) * 4)
    with Metered(path) as file:
        counting._count_some(cast("BinaryIO", file))
        assert file.total <= counting.HEAD_BYTES + 2 * BLOCK_BYTES


def test_very_long_reads(tmp_path: Path) -> None:
    """FASTQ reads far longer than a block are counted, not read again and again."""
    path = tmp_path / "x.fq"
    long = b"AC" * 3_000_000
    path.write_bytes((b"@a\n" + long + b"\n+\n" + long + b"\n@b\nA\n+\nI\n") * 2)
    assert count(path) == SequenceFile(str(path), 4, 2 * len(long) + 2)


@pytest.mark.parametrize("parallel_bytes", [0, 1 << 40], ids=["processes", "one process"])
def test_count_files(tmp_path: Path, parallel_bytes: int) -> None:
    """Files are counted in their order; a bad or vanished one costs 1 and stops nothing.

    What has been read grows up to the size of all that can be read.
    """
    contents = [b">a\nACGT\n", b"junk", b">a\nA\n>b\nAC\n"]
    paths = [tmp_path / f"{number}.fa" for number in range(4)]
    for path, content in zip(paths, contents, strict=False):
        path.write_bytes(content)
    seen: list[int] = []
    with patch.object(counting_many, "PARALLEL_BYTES", parallel_bytes):
        found = count_files(paths, 2, seen.append)
    assert [(f.sequences, f.residues) for f in found] == [(1, 4), (None, 1), (2, 3), (None, 1)]
    assert seen == sorted(seen)
    assert seen[-1] == sum(map(len, contents))
