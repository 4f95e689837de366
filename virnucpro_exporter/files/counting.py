"""How much work a file is: estimated at once, or counted exactly.

Counting looks at whole blocks with operations that run at memory speed, not at lines: in FASTA,
what is neither header nor newline is residues. In FASTQ of four lines a record, slices of the lines
do.

An estimate reads 4 MiB at most: all of a small file, or 64 blocks spread over a large one, or the
start of a large gzip file, which cannot be entered in the middle.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.sequences import (
    BLOCK_BYTES,
    GZIP_MAGIC,
    detect_format,
    parse_fastq,
    read_blocks,
    split_lines,
)

HEADER = re.compile(rb">[^\n]*")
HEAD_BYTES = 4 << 20
SAMPLES = 64

# Progress is told after so many bytes of a file.
REPORT_BYTES = 16 << 20


@dataclass(slots=True)
class Tally:
    """Sequences and residues seen so far, right up to the moment an error interrupts a count."""

    sequences: int = 0
    residues: int = 0

    def add(self, blocks: Iterator[bytes]) -> None:
        """Count FASTA or FASTQ text.

        Raises:
            SequenceFileError: The text is not valid.
        """
        marker, blocks = detect_format(blocks)
        if marker == b">":
            self.add_fasta(blocks)
        else:
            self.add_fastq(blocks)

    def add_fasta(self, blocks: Iterable[bytes]) -> None:
        """Count FASTA text that starts at the start of a line."""
        in_header = False
        for block in blocks:
            text = block.replace(b"\r", b"") if b"\r" in block else block
            if in_header:
                text = text[text.find(b"\n") :] if b"\n" in text else b""
                in_header = not text
            headers = HEADER.findall(text)
            if headers:
                self.sequences += len(headers)
                in_header = text.endswith(headers[-1])
            # Twice as fast as counting the newlines; and one joined text is faster than many sums.
            self.residues += len(text.replace(b"\n", b"")) - len(b"".join(headers))

    def add_fastq(self, blocks: Iterable[bytes]) -> None:
        """Count FASTQ text that starts with a record.

        Raises:
            SequenceFileError: A record is malformed or cut short.
        """
        blocks = iter(blocks)
        lines: list[bytes] = []
        tail = b""
        for block in blocks:
            text = tail + (block.replace(b"\r", b"") if b"\r" in block else block)
            *new, tail = text.split(b"\n")
            lines += new
            whole = lines[: len(lines) // 4 * 4]
            if not self.add_four_line_records(whole):
                break
            del lines[: len(whole)]
            if len(tail) > HEAD_BYTES:  # reads this long are rather joined from pieces
                break
        self._add_any_records(chain([b"\n".join([*lines, tail])], blocks))

    def add_four_line_records(self, lines: list[bytes]) -> bool:
        """Count whole records of four lines each, or nothing when they are not in that shape."""
        lengths = list(map(len, lines[1::4]))
        headers = b"\n" + b"\n".join(lines[::4])
        separators = b"\n" + b"\n".join(lines[2::4])
        if (
            lengths != list(map(len, lines[3::4]))
            or headers.count(b"\n@") != len(lengths)
            or separators.count(b"\n+") != len(lengths)
        ):
            return False
        self.sequences += len(lengths)
        self.residues += sum(lengths)
        return True

    def _add_any_records(self, blocks: Iterable[bytes]) -> None:
        for record in parse_fastq(split_lines(blocks)):
            self.sequences += 1
            self.residues += len(record.sequence)


def count(path: Path, report: Callable[[int], None] = lambda _: None) -> SequenceFile:
    """Count the sequences and residues of a file exactly.

    Args:
        path: What to count.
        report: Told now and then how many bytes more of the file have been read.

    Returns:
        The file; `residues` is at least 1, since a file's cost is never nothing.

    Raises:
        SequenceFileError: The content is at fault.
        OSError: The file cannot be read.
    """
    tally = Tally()
    with path.open("rb", buffering=0) as file:
        metered = _Metered(file, report)
        try:
            tally.add(read_blocks(metered))
        finally:
            metered.tell()
    return SequenceFile(os.fspath(path), tally.sequences, max(1, tally.residues))


def estimate(path: Path) -> SequenceFile:
    """Estimate the residues of a file from 4 MiB of it at most.

    A file that cannot be read costs 1: it fails later, on its own, in its own attempt.

    Returns:
        The file; `sequences` is None unless the whole file was read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            sequences, residues = _estimate_open_file(file)
    except (OSError, SequenceFileError):
        return SequenceFile(os.fspath(path))
    return SequenceFile(os.fspath(path), sequences, max(1, residues))


def _estimate_open_file(file: BinaryIO) -> tuple[int | None, int]:
    size = os.fstat(file.fileno()).st_size
    compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    tally = Tally()
    if not compressed and size > HEAD_BYTES:
        marker, _ = detect_format(read_blocks(file))
        share = _sampled_share(file, size, marker)
        if share is not None:
            return None, round(share * size)
    file.seek(0)
    head = _Head(file)
    try:
        tally.add(iter(head))
    except SequenceFileError:
        if not head.cut:  # else it is we who cut a record short
            raise
    if head.cut:
        return None, round(tally.residues / file.tell() * size)
    return tally.sequences, tally.residues


class _Head:
    """The first blocks of a file, up to `HEAD_BYTES` of text; `cut` if there was more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.cut = False

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        for block in read_blocks(self._file):
            yield block
            length += len(block)
            if length >= HEAD_BYTES:
                self.cut = True
                return


def _sampled_share(file: BinaryIO, size: int, marker: bytes) -> float | None:
    """Residues per byte in blocks spread evenly over the file, or None if no block tells."""
    sample = _sample_fasta if marker == b">" else _sample_fastq
    residues = seen = 0
    for number in range(SAMPLES):
        file.seek((size - BLOCK_BYTES) * number // (SAMPLES - 1))
        counted, length = sample(file.read(BLOCK_BYTES))
        residues += counted
        seen += length
    return residues / seen if seen else None


def _sample_fasta(block: bytes) -> tuple[int, int]:
    """(residues, bytes looked at); a block without any newline lies within a long sequence."""
    text = block[block.find(b"\n") + 1 :]
    tally = Tally()
    tally.add_fasta([text])
    return tally.residues, len(text)


def _sample_fastq(block: bytes) -> tuple[int, int]:
    """(residues, bytes looked at) of the whole records of four lines in the block."""
    lines = block.replace(b"\r", b"").split(b"\n")[1:-1]
    for phase in range(4):
        whole = lines[phase : phase + (len(lines) - phase) // 4 * 4]
        tally = Tally()
        if whole and tally.add_four_line_records(whole):
            returns = block.count(b"\r") * len(whole) // len(lines)
            return tally.residues, sum(map(len, whole)) + len(whole) + returns
    return 0, 0


class _Metered:
    """A file that tells how much of it has been read."""

    def __init__(self, file: BinaryIO, report: Callable[[int], None]) -> None:
        self._file = file
        self._report = report
        self._untold = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        block = self._file.read(size)
        self._untold += len(block)
        if self._untold >= REPORT_BYTES:
            self.tell()
        return block

    def tell(self) -> None:
        """Report what has not been reported yet."""
        self._report(self._untold)
        self._untold = 0
