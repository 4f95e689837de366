"""How much work a file is: estimated at once, or counted exactly.

Counting looks at whole blocks with operations that run at memory speed, not at lines: in FASTA,
what is neither header nor blank is residues. In FASTQ of four lines a record, slices of the lines
do. Where a file is not that plain, the reader that processors use counts it, so that both agree.

An estimate reads 4 MiB at most: all of a small file, or 64 blocks spread over a large one, or the
start of a large compressed file, which cannot be entered in the middle.
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
    BLANKS,
    BLOCK_BYTES,
    compression_of,
    detect_format,
    parse_fastq,
    read_blocks,
    read_sequences,
    split_lines,
    with_newlines,
)

HEADER = re.compile(rb"\n>[^\n]*")
HEAD_BYTES = 4 << 20
MAGIC_BYTES = 6  # these tell a compression
SAMPLES = 64
_BLANKS = [BLANKS[i : i + 1] for i in range(len(BLANKS))]

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
        """Count FASTA text that starts at the start of a line.

        Raises:
            SequenceFileError: A header does not begin its line.
        """
        in_header, at_start = False, True
        for block in blocks:
            text = block
            if in_header:
                text = block[block.find(b"\n") :] if b"\n" in block else b""
                in_header = not text
            if not text:
                continue
            pieces = HEADER.split(b"\n" + text if at_start else text)
            at_start = text.endswith(b"\n")
            in_header = len(pieces) > 1 and not pieces[-1]
            self.sequences += len(pieces) - 1
            # One joined text is faster than many sums, and this twice as fast as counting newlines.
            letters = b"".join(pieces).replace(b"\n", b"")
            if b">" in letters:
                raise SequenceFileError("a header does not begin its line")
            self.residues += len(_without_blanks(letters))

    def add_fastq(self, blocks: Iterable[bytes]) -> None:
        """Count FASTQ text that starts with a record.

        Raises:
            SequenceFileError: A record is malformed or cut short.
        """
        blocks = iter(blocks)
        lines: list[bytes] = []
        tail = b""
        for block in blocks:
            *new, tail = (tail + block).split(b"\n")
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
        sequences = b"\n" + b"\n".join(lines[1::4])
        separators = b"\n" + b"\n".join(lines[2::4])
        if (
            lengths != list(map(len, lines[3::4]))
            or headers.count(b"\n@") != len(lengths)
            or separators.count(b"\n+") != len(lengths)
            or b"\n+" in sequences
            or b"@" in sequences
            or _has_blanks(sequences)
            or _has_blanks(b"\n".join(lines[3::4]))
        ):
            return False
        self.sequences += len(lengths)
        self.residues += sum(lengths)
        return True

    def _add_any_records(self, blocks: Iterable[bytes]) -> None:
        for record in parse_fastq(split_lines(blocks)):
            self.sequences += 1
            self.residues += len(record.sequence)


def _has_blanks(text: bytes) -> bool:
    return any(blank in text for blank in _BLANKS)


def _without_blanks(text: bytes) -> bytes:
    return text.translate(None, BLANKS) if _has_blanks(text) else text


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
        except SequenceFileError:
            tally = _tally_records(path)  # the reader has the last word, also about what is wrong
        finally:
            metered.tell()
    return SequenceFile(os.fspath(path), tally.sequences, max(1, tally.residues))


def _tally_records(path: Path) -> Tally:
    tally = Tally()
    for record in read_sequences(path):
        tally.sequences += 1
        tally.residues += len(record.sequence)
    return tally


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
    is_plain = compression_of(file.read(MAGIC_BYTES)) is None
    file.seek(0)
    tally = Tally()
    if is_plain and size > HEAD_BYTES:
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
        return None, round(tally.residues / head.raw_bytes * size)
    return tally.sequences, tally.residues


class _Head:
    """The first blocks of a file, up to `HEAD_BYTES` of text and a little more.

    Attributes:
        cut: There was more.
        raw_bytes: How much of the file the text was, once it is cut.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.cut = False
        self.raw_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        for block in read_blocks(self._file):
            # All text of what was read so far is counted: bytes and residues belong together.
            if length >= HEAD_BYTES and self._file.tell() != self.raw_bytes:
                self.cut = True
                return
            yield block
            length += len(block)
            self.raw_bytes = self._file.tell()


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
    text = with_newlines(block)
    text = text[text.find(b"\n") + 1 :]
    tally = Tally()
    tally.add_fasta([text])
    return tally.residues, _raw_length(text, block)


def _sample_fastq(block: bytes) -> tuple[int, int]:
    """(residues, bytes looked at) of the whole records of four lines in the block."""
    lines = with_newlines(block).split(b"\n")[1:-1]
    for phase in range(4):
        whole = lines[phase : phase + (len(lines) - phase) // 4 * 4]
        tally = Tally()
        if whole and tally.add_four_line_records(whole):
            return tally.residues, _raw_length(b"\n".join([*whole, b""]), block)
    return 0, 0


def _raw_length(text: bytes, block: bytes) -> int:
    """How long a text of the block is in the file, where a line may end with two characters."""
    if b"\r\n" not in block:
        return len(text)
    pairs, lines = block.count(b"\r\n"), with_newlines(block).count(b"\n")
    return len(text) + text.count(b"\n") * pairs // lines


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
