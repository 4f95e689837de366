"""FASTA and FASTQ, plain or compressed, read without losing a record.

Files are opened by the operating system's own call, so any path works, and are told apart by their
first bytes, never by their suffix. Names and sequences stay bytes: what went in comes out. A line
ends with LF, CR LF or CR alone, also within one file.

Faults of the content raise `SequenceFileError` (no other attempt could do better). Faults of the
machine, such as a vanished file or a failing disk, stay `OSError` (another attempt might work).
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from isal import igzip_lib

from virnucpro_exporter.errors import EmptyFileError, SequenceFileError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = (".fa", ".fasta", ".fna", ".faa", ".fas", ".fsa", ".ffn", ".frn", ".fq", ".fastq")
COMPRESSED_SUFFIXES = (".gz", ".bgz", ".bz2", ".xz", ".zst")

BLOCK_BYTES = 1 << 16  # what is made of a block stays in the cache; larger ones are slower
TEXT_BYTES = 1 << 18  # decompressed at a time: a small file may hold a very long text
BLANKS = b" \t\v\f"
# These letters stand for amino acids, and for no nucleotide or mixture of nucleotides.
ONLY_PROTEIN = b"EFILPQefilpq"


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


class Decompressor(Protocol):
    """One member of compressed data; the libraries agree on this."""

    @property
    def eof(self) -> bool:
        """The member has ended."""

    @property
    def unused_data(self) -> bytes:
        """What follows the member."""

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        """More text, at most `max_length` bytes of it."""


class Compression(NamedTuple):
    """A format of compressed data.

    Attributes:
        name: For error messages.
        magic: What the data starts with: one of these.
        start: Makes what reads one member; the checksum is verified.
        error: What that raises where the data is damaged.
    """

    name: str
    magic: tuple[bytes, ...]
    start: Callable[[], Decompressor]
    error: type[Exception]


def _start_zstd() -> Decompressor:
    # Files made with `--long=31` say that they need a window of 2 GiB.
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 31})


COMPRESSIONS = (
    Compression(
        "gzip",
        (b"\x1f\x8b",),
        partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP),
        igzip_lib.IsalError,  # type: ignore[arg-type]  # its stub lacks type[...]
    ),
    Compression("bzip2", (b"BZh",), bz2.BZ2Decompressor, OSError),
    Compression(
        "xz", (b"\xfd7zXZ\0",), partial(lzma.LZMADecompressor, lzma.FORMAT_XZ), lzma.LZMAError
    ),
    Compression(
        "zstd",
        # A frame, or one that is to be skipped.
        (b"\x28\xb5\x2f\xfd", *(bytes([first, 0x2A, 0x4D, 0x18]) for first in range(0x50, 0x60))),
        _start_zstd,
        zstd.ZstdError,
    ),
)

_MAGICS = tuple(magic for known in COMPRESSIONS for magic in known.magic)


def is_sequence_name(name: str) -> bool:
    """Whether a file name ends in a known suffix, compressed or not, in any case."""
    return name.endswith(SUFFIXES) or _without_compression(name).lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """A file name without its compression's and its sequence suffix: `a.b.fa.gz` gives `a.b`."""
    plain = _without_compression(name)
    return _without(SUFFIXES, plain)


def _without_compression(name: str) -> str:
    return _without(COMPRESSED_SUFFIXES, name)


def _without(suffixes: tuple[str, ...], name: str) -> str:
    """The name without one of these suffixes, which is not all of it."""
    stem, dot, last = name.rpartition(".")
    return stem if stem and (dot + last).lower() in suffixes else name


def read_sequences(path: Path) -> Iterator[Record]:
    """Yield the records of a file, holding no more than the longest of them in memory.

    Args:
        path: FASTA or FASTQ, plain or compressed (one or many members, as bgzip writes).

    Yields:
        Each record in order; FASTQ may span several lines.

    Raises:
        EmptyFileError: The file holds nothing but blanks.
        SequenceFileError: The file is binary, damaged or cut short, has text before the first
            record, or a header that does not begin its line.
        OSError: The file cannot be opened or read.
    """
    with path.open("rb", buffering=0) as file:
        marker, blocks = detect_format(read_blocks(file))
        lines = split_lines(blocks)
        yield from parse_fasta(lines) if marker == b">" else parse_fastq(lines)


def read_blocks(file: Readable) -> Iterator[bytes]:
    """Yield the text of an open file, decompressed where it has to be, all lines ended by LF.

    Raises:
        SequenceFileError: The text holds a NUL byte, or compressed data is damaged or cut short.
    """
    first = file.read(BLOCK_BYTES) or b""
    raw = itertools.chain([first], iter(lambda: file.read(BLOCK_BYTES) or b"", b""))
    compression = compression_of(first)
    ends_with_return = False
    for text in raw if compression is None else _decompress(raw, compression):
        if b"\0" in text:
            raise SequenceFileError("it holds binary data, not sequences")
        block = text.removeprefix(b"\n") if ends_with_return else text
        ends_with_return = text.endswith(b"\r")
        yield with_newlines(block)


def with_newlines(text: bytes) -> bytes:
    """The text with LF after each line, whatever was there."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def compression_of(start: bytes) -> Compression | None:
    """How the data is compressed that starts with these bytes; None where it is plain."""
    if not start.startswith(_MAGICS):
        return None
    return next(known for known in COMPRESSIONS if start.startswith(known.magic))


def _decompress(raw: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    member: Decompressor | None = None
    for piece in raw:
        data, has_more = piece, False
        while data or has_more:
            if member is None:
                data = data.lstrip(b"\0")  # tape and block devices pad a file with zeros
                if not data:
                    break
                member = compression.start()
            try:
                text = member.decompress(data, max_length=TEXT_BYTES)
            except compression.error as error:
                raise SequenceFileError(
                    f"its {compression.name} data is damaged ({error})"
                ) from error
            data, has_more = b"", len(text) == TEXT_BYTES
            if member.eof:
                data, has_more, member = member.unused_data, False, None
            if text:
                yield text
    if member is not None:
        raise SequenceFileError(
            f"its {compression.name} data ends too early: the file was cut short"
        )


def detect_format(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Tell FASTA from FASTQ.

    Returns:
        The first byte that is not blank, `>` or `@`, and the text from there on.

    Raises:
        EmptyFileError: The text is empty.
        SequenceFileError: It starts with something else than a header.
    """
    before = b"\n"
    for block in blocks:
        text = block.lstrip()
        before = (before + block[: len(block) - len(text)])[-1:]
        if not text:
            continue
        if not text.startswith((b">", b"@")):
            shown = _shown(text.splitlines()[0])
            raise SequenceFileError(f"it has text before the first '>' or '@': {shown}")
        if before != b"\n":
            shown = _shown(text.splitlines()[0])
            raise SequenceFileError(f"the first header, {shown}, does not begin its line")
        return text[:1], itertools.chain([text], blocks)
    raise EmptyFileError


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
    """Yield the records of FASTA lines, of which the first is a header.

    Raises:
        SequenceFileError: A header does not begin its line.
    """
    lines = iter(lines)
    name = first_word(next(lines))
    parts: list[bytes] = []
    for line in lines:
        if line.startswith(b">"):
            yield _record(name, parts, b">")
            name = first_word(line)
            parts.clear()
        else:
            parts.append(line)
    yield _record(name, parts, b">")


def _record(name: bytes, lines: list[bytes], marker: bytes) -> Record:
    """The record of these lines; a header in the middle of one would be lost in its sequence."""
    sequence = b"".join(lines).translate(None, BLANKS)
    if marker in sequence:
        line = next(line for line in lines if marker in line)
        raise SequenceFileError(
            f"record {_shown(name)} holds {_shown(line)}: a header must begin its line"
        )
    return Record(name, sequence)


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
        record = _record(name, parts, b"@")
        _skip_qualities(stripped, name, len(record.sequence))
        yield record


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
