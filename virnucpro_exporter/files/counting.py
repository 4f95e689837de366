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
from virnucpro_exporter.sequences import read_sequences
from virnucpro_exporter.sequences.records import (
    BLANKS,
    are_four_line_records,
    detect_format,
    has_blanks,
    parse_fastq,
    refuse_binary,
)
from virnucpro_exporter.sequences.texts import (
    BLOCK_BYTES,
    Readable,
    Text,
    compression_of,
    read_texts,
)
from virnucpro_exporter.stores.access import StoredFile
from virnucpro_exporter.stores.paths import StoredPath
from virnucpro_exporter.stores.urls import is_url

HEADER = re.compile(rb"\n>[^\n]*")
HEAD_BYTES = 4 << 20
STORED_HEAD_BYTES = 1 << 18  # of a file in a store: one request
SAMPLES = 64

# From a sample with so many records, the number of records in the file is estimated.
_TELLING_RECORDS = 200

# Where so many headers are in the first bytes of a block, there are many in all of it.
_LOOK_BYTES, _DENSE = 4096, 4

# Progress is reported after so many bytes of a file.
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
        marker, texts = detect_format(_texts(blocks))
        blocks = (text.text for text in texts)
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
            pieces = _between_headers(text, at_start=at_start)
            at_start = text.endswith(b"\n")
            in_header = len(pieces) > 1 and not pieces[-1]
            self.sequences += len(pieces) - 1
            # One joined text is faster than many sums, and this twice as fast as counting newlines.
            letters = b"".join(pieces).replace(b"\n", b"")
            if b">" in letters:
                raise SequenceFileError("a header is not at the start of its line")
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
        if not are_four_line_records(lines):
            return False
        self.sequences += len(lines) // 4
        self.residues += sum(map(len, lines[1::4]))
        return True

    def _add_any_records(self, blocks: Iterable[bytes]) -> None:
        for record in parse_fastq(_texts(blocks)):
            self.sequences += 1
            self.residues += len(record.sequence)


def _between_headers(text: bytes, *, at_start: bool) -> list[bytes]:
    """What lies before, between and behind the headers; the last is empty where a header is cut.

    Args:
        text: FASTA, which begins within a sequence or with the start of a line.
        at_start: It begins with the start of a line.
    """
    if text.count(b">", 0, _LOOK_BYTES) > _DENSE:
        return HEADER.split(b"\n" + text if at_start else text)
    # To search for one letter is many times faster than any expression, where there are few.
    pieces, begin, found = [], 0, text.find(b">")
    while found >= 0:
        if text[found - 1 : found] != b"\n" and (found or not at_start):
            found = text.find(b">", found + 1)  # it is no header
            continue
        pieces.append(text[begin:found])
        begin = text.find(b"\n", found)
        if begin < 0:
            return [*pieces, b""]
        found = text.find(b">", begin)
    return [*pieces, text[begin:]]


def _texts(blocks: Iterable[bytes]) -> Iterator[Text]:
    """The blocks for a parser whose places are not used."""
    return (Text(0, block) for block in blocks)


def read_blocks(file: Readable) -> Iterator[bytes]:
    """Yield the text of an open file, decompressed where it has to be, all lines ended by LF.

    Raises:
        SequenceFileError: The text holds a NUL byte, or compressed data is damaged or cut short.
    """
    ends_with_return = False
    for _, text in refuse_binary(read_texts(file)):
        block = text.removeprefix(b"\n") if ends_with_return else text
        ends_with_return = text.endswith(b"\r")
        yield with_newlines(block)


def with_newlines(text: bytes) -> bytes:
    """The text with LF after each line, whatever was there."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _without_blanks(text: bytes) -> bytes:
    return text.translate(None, BLANKS) if has_blanks(text) else text


def count(path: Path, report: Callable[[int], None] = lambda _: None) -> SequenceFile:
    """Count the sequences and residues of a file exactly.

    Args:
        path: What to count.
        report: Called now and then with the number of bytes read since the last call.

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


def estimate(path: str | os.PathLike[str]) -> SequenceFile:
    """Estimate the residues of a file from 4 MiB of it at most.

    A file that cannot be read costs 1: it fails later, on its own, in its own attempt.

    Returns:
        The file; `sequences` is None unless the whole file was read, and `likely_sequences` where
        it was, or a sample does not tell.
    """
    name = os.fspath(path)
    return _estimate_stored(name) if is_url(name) else look_into(name)[0]


def look_into(path: str) -> tuple[SequenceFile, os.stat_result | None]:
    """Estimate a file of this machine as `estimate` does, and read its status: opened only once.

    Returns:
        The file, and its status; None where it cannot be opened.
    """
    status: os.stat_result | None = None
    try:
        # Without a file object, which costs more than reading a small file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            tally, share = _count_small(descriptor, status.st_size), None
            if tally is None:
                os.lseek(descriptor, 0, os.SEEK_SET)
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    tally, share = _count_some(file)
        finally:
            os.close(descriptor)
    except (OSError, SequenceFileError):
        return SequenceFile(path), status
    if share is None:
        return SequenceFile(path, tally.sequences, max(1, tally.residues)), status
    is_telling = tally.sequences >= _TELLING_RECORDS
    likely = round(share * tally.sequences) if is_telling else None
    return SequenceFile(path, None, max(1, round(share * tally.residues)), likely), status


def _estimate_stored(url: str) -> SequenceFile:
    """Estimate the residues of an object from its first bytes: each request to a store takes long.

    One that cannot be read costs 1, as any file.
    """
    tally = Tally()
    try:
        with StoredPath(url).open_raw() as file:
            size = file.size
            head = _Head(file, STORED_HEAD_BYTES)
            try:
                tally.add(iter(head))
            except SequenceFileError:
                if not head.cut:
                    raise
    except (OSError, SequenceFileError):
        return SequenceFile(url)
    if not head.cut:
        return SequenceFile(url, tally.sequences, max(1, tally.residues))
    share = max(1.0, size / head.raw_bytes)
    is_telling = tally.sequences >= _TELLING_RECORDS
    likely = round(share * tally.sequences) if is_telling else None
    return SequenceFile(url, None, max(1, round(share * tally.residues)), likely)


def _count_small(descriptor: int, size: int) -> Tally | None:
    """Count a file that is small and plain, as most of very many are; None for any other.

    Raises:
        SequenceFileError: The content is at fault.
    """
    if size >= BLOCK_BYTES:
        return None
    text = os.read(descriptor, size + 1)  # one more shows that there is no more
    is_plain = text.startswith((b">", b"@")) and b"\r" not in text and b"\0" not in text
    if not is_plain or len(text) != size:
        return None
    if text.startswith(b">") and text.count(b">") == 1:
        _, _, letters = text.partition(b"\n")
        return Tally(1, len(_without_blanks(letters.replace(b"\n", b""))))
    tally = Tally()
    if text.startswith(b">"):
        tally.add_fasta((text,))
    else:
        tally.add_fastq((text,))
    return tally


def _count_some(file: BinaryIO) -> tuple[Tally, float | None]:
    """Count some of a file, and how many times as large it is; None where all of it was counted."""
    size = os.fstat(file.fileno()).st_size
    is_plain = compression_of(file.read(BLOCK_BYTES)) is None
    tally = Tally()
    file.seek(0)
    if is_plain and size > HEAD_BYTES:
        marker, _ = detect_format(refuse_binary(read_texts(file)))
        seen = _sample(file, size, marker, tally)
        if seen:
            return tally, size / seen
    file.seek(0)
    head = _Head(file)
    try:
        tally.add(iter(head))
    except SequenceFileError:
        if not head.cut:  # else the record was cut by the limit of the sample
            raise
    return tally, size / head.raw_bytes if head.cut else None


class _Head:
    """The first blocks of a file, up to so many bytes of text and a little more.

    Args:
        file: The file.
        most: So many.

    Attributes:
        cut: There was more.
        raw_bytes: How much of the file the text was, once it is cut.
    """

    def __init__(self, file: BinaryIO | StoredFile, most: int = HEAD_BYTES) -> None:
        self._file = file
        self._most = most
        self.cut = False
        self.raw_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        for block in read_blocks(self._file):
            # All text of what was read so far is counted: bytes and residues belong together.
            if length >= self._most and self._file.tell() != self.raw_bytes:
                self.cut = True
                return
            yield block
            length += len(block)
            self.raw_bytes = self._file.tell()


def _sample(file: BinaryIO, size: int, marker: bytes, tally: Tally) -> int:
    """Count blocks spread evenly over the file, and return how many bytes of it were counted."""
    sample = _sample_fasta if marker == b">" else _sample_fastq
    seen = 0
    for number in range(SAMPLES):
        file.seek((size - BLOCK_BYTES) * number // (SAMPLES - 1))
        seen += sample(file.read(BLOCK_BYTES), tally)
    return seen


def _sample_fasta(block: bytes, tally: Tally) -> int:
    """Count what begins in the block; one without any newline lies within a long sequence."""
    text = with_newlines(block)
    text = text[text.find(b"\n") + 1 :]
    tally.add_fasta([text])
    return _raw_length(text, block)


def _sample_fastq(block: bytes, tally: Tally) -> int:
    """Count the whole records of four lines in the block."""
    lines = with_newlines(block).split(b"\n")[1:-1]
    for phase in range(4):
        whole = lines[phase : phase + (len(lines) - phase) // 4 * 4]
        if whole and tally.add_four_line_records(whole):
            return _raw_length(b"\n".join([*whole, b""]), block)
    return 0


def _raw_length(text: bytes, block: bytes) -> int:
    """How long a text of the block is in the file, where a line may end with two characters."""
    if b"\r\n" not in block:
        return len(text)
    pairs, lines = block.count(b"\r\n"), with_newlines(block).count(b"\n")
    return len(text) + text.count(b"\n") * pairs // lines


class _Metered:
    """A file that reports how much of it has been read."""

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
