"""FASTA and FASTQ, read without losing a record.

Files are opened by the operating system's own call, so any path works, and are told apart by their
first bytes, never by their suffix. Names and sequences stay bytes: what went in comes out.

Faults of the content raise `SequenceFileError` (no other attempt could do better). Faults of the
machine, such as a vanished file or a failing disk, stay `OSError` (another attempt might work).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from isal import igzip_lib, isal_zlib

from virnucpro_exporter.errors import SequenceFileError

SUFFIXES = (".fa", ".fasta", ".fna", ".faa", ".ffn", ".fq", ".fastq")

BLOCK_BYTES = 1 << 16  # what is made of a block stays in the cache; larger ones are slower
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW_BITS = 31  # a gzip header and trailer, the checksum verified
BLANKS = b" \t\r\v\f"


class Record(NamedTuple):
    """One sequence.

    Attributes:
        name: The first word of the header, as it stands in the file.
        sequence: All its letters, case kept, without line ends and blanks.
    """

    name: bytes
    sequence: bytes


class Readable(Protocol):
    """What blocks are read from."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; empty at the end."""


def is_sequence_name(name: str) -> bool:
    """Whether a file name ends in a known suffix, with or without `.gz`, in any case."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def stem(name: str) -> str:
    """A file name without `.gz` and without its sequence suffix: `a.b.fa.gz` gives `a.b`."""
    for suffix in (".gz", *SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            if suffix != ".gz":
                break
    return name


def read_sequences(path: Path) -> Iterator[Record]:
    """Yield the records of a file, holding no more than the longest of them in memory.

    Args:
        path: FASTA or FASTQ, plain or gzip (of one or many members, as bgzip writes).

    Yields:
        Each record in order; FASTQ may span several lines.

    Raises:
        SequenceFileError: The file is empty, binary, damaged or cut short, or has text before the
            first record.
        OSError: The file cannot be opened or read.
    """
    with path.open("rb", buffering=0) as file:
        marker, blocks = detect_format(read_blocks(file))
        lines = split_lines(blocks)
        yield from parse_fasta(lines) if marker == b">" else parse_fastq(lines)


def read_blocks(file: Readable) -> Iterator[bytes]:
    """Yield the text of an open file, decompressed where it is gzip: one block per read.

    Raises:
        SequenceFileError: The text holds a NUL byte, or the gzip data is damaged or cut short.
    """
    first = file.read(BLOCK_BYTES)
    raw = itertools.chain([first or b""], iter(lambda: file.read(BLOCK_BYTES) or b"", b""))
    for block in _inflate(raw) if first and first.startswith(GZIP_MAGIC) else raw:
        if b"\0" in block:
            raise SequenceFileError("it holds binary data, not sequences")
        yield block


def _inflate(raw: Iterable[bytes]) -> Iterator[bytes]:
    member = None
    for piece in raw:
        texts, data = [], piece
        while data:
            if member is None:
                data = data.lstrip(b"\0")  # tape and block devices pad a gzip file with zeros
                if not data:
                    break
                member = isal_zlib.decompressobj(GZIP_WINDOW_BITS)
            try:
                texts.append(member.decompress(data))
            except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub lacks type[...]
                raise SequenceFileError(f"its gzip data is damaged ({error})") from error
            data = member.unused_data
            if member.eof:
                member = None
        yield b"".join(texts)
    if member is not None:
        raise SequenceFileError("its gzip data ends too early: the file was cut short")


def detect_format(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Tell FASTA from FASTQ.

    Returns:
        The first byte that is not blank, `>` or `@`, and the text from there on.

    Raises:
        SequenceFileError: The text is empty or starts with something else.
    """
    for block in blocks:
        text = block.lstrip()
        if text.startswith((b">", b"@")):
            return text[:1], itertools.chain([text], blocks)
        if text:
            shown = text.splitlines()[0][:40].decode("utf-8", "replace")
            raise SequenceFileError(f"it has text before the first '>' or '@': {shown!r}")
    raise SequenceFileError("it is empty")


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their newline, in time linear in the text however long a line is."""
    pieces: list[bytes] = []
    for block in blocks:
        head, newline, rest = block.partition(b"\n")
        pieces.append(head)
        if newline:
            yield b"".join(pieces)
            *lines, last = rest.split(b"\n")
            yield from lines
            pieces = [last]
    yield b"".join(pieces)


def first_word(header: bytes) -> bytes:
    """The name in a header line, which starts with `>` or `@`."""
    return next(iter(header[1:].split(None, 1)), b"")


def parse_fasta(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the records of FASTA lines, of which the first is a header."""
    lines = iter(lines)
    name = first_word(next(lines))
    parts: list[bytes] = []
    for line in lines:
        if line.startswith(b">"):
            yield Record(name, b"".join(parts).translate(None, BLANKS))
            name = first_word(line)
            parts.clear()
        else:
            parts.append(line)
    yield Record(name, b"".join(parts).translate(None, BLANKS))


def parse_fastq(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the records of FASTQ lines; a sequence and its qualities may span several lines.

    Raises:
        SequenceFileError: A record is malformed or cut short.
    """
    stripped = (line.rstrip() for line in lines)
    for header in stripped:
        if not header:
            continue
        name = first_word(header)
        if not header.startswith(b"@"):
            raise SequenceFileError(f"a FASTQ record starts with {_shown(header)}, not with '@'")
        parts = []
        for line in stripped:
            if line.startswith(b"+"):
                break
            parts.append(line)
        else:
            raise SequenceFileError(f"it ends within the FASTQ record {_shown(name)}")
        sequence = b"".join(parts).translate(None, BLANKS)
        _skip_qualities(stripped, name, len(sequence))
        yield Record(name, sequence)


def _skip_qualities(lines: Iterator[bytes], name: bytes, length: int) -> None:
    """Consume the qualities of a record; one may start with `@`, so their number ends them."""
    missing = length
    while missing > 0:
        line = next(lines, None)
        if line is None:
            raise SequenceFileError(f"it ends within the FASTQ record {_shown(name)}")
        missing -= len(line)
    if missing < 0:
        raise SequenceFileError(
            f"the FASTQ record {_shown(name)} has {length} bases but {length - missing} qualities"
        )


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))
