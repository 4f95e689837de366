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
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

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
_NO_LETTERS = b"\n" + BLANKS
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


@dataclass(frozen=True, slots=True)
class Part:
    """Those records of a file whose first byte lies in a range of it.

    So any place is a valid cut, and parts that cover a file hold each of its records once.

    Attributes:
        path: The file.
        start: Where the range begins; places are offsets in the file.
        stop: Where it ends, or None at the end of the file.
    """

    path: Path
    start: int = 0
    stop: int | None = None


class Shrunk(NamedTuple):
    """Where a part ends now.

    Attributes:
        at: There, and there the rest begins.
        position: Where the record begins that was read last.
        end: Where the part would have ended.
    """

    at: int
    position: int
    end: int


class OpenPart:
    """A part that one thread reads while another may move its end towards its beginning.

    It is also a path, so that what needs no more than the name of the file can take either.

    Args:
        part: What is read.

    Attributes:
        part: The same.
        path: The file.
        name: The file's name, without its folder.
        can_shrink: Whether the end may be moved; not in a file that has to be read from its start.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.path = part.path
        self.name = part.path.name
        self.can_shrink = True
        self._lock = threading.Lock()
        self._position = part.start
        self._stop = part.stop
        self._size: int | None = None  # of the file, once it is open

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    @property
    def position(self) -> int:
        """Where the record begins that was read last; the part begins there before the first."""
        return self._position

    @property
    def stop(self) -> int | None:
        """Where the part ends now; None at the end of the file."""
        return self._stop

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file, as far as it was not cut since."""
        return not self.part.start and self.part.stop is None

    def begin(self, size: int) -> None:
        """The file is open, and has so many bytes."""
        self._size = size

    def claim(self, place: int) -> bool:
        """Whether the record that begins at a place is still in the part; if so, it stays in it."""
        with self._lock:
            is_own = self._stop is None or place < self._stop
            if is_own:
                self._position = place
            return is_own

    def shrink(
        self, share: float, is_worth: Callable[[Shrunk], bool] = lambda _: True
    ) -> Shrunk | None:
        """Give the end of what is not read yet away; the reader stops before it.

        Args:
            share: Above 0, up to 1: all but the record that was read last.
            is_worth: Says whether a cut is to be made.

        Returns:
            The cut, or None where there is none.
        """
        with self._lock:
            end = self._size if self._stop is None else self._stop
            if not self.can_shrink or self._size is None or end is None:
                return None
            at = max(self._position + 1, end - int(share * (end - self._position)))
            cut = Shrunk(at, self._position, end)
            if at >= end or not is_worth(cut):
                return None
            self._stop = at
            return cut


def read_sequences(source: Path | OpenPart) -> Iterator[Record]:
    """Yield the records of a file or of a part of one; memory is bounded by the longest of them.

    Args:
        source: FASTA or FASTQ, plain or compressed (one or many members, as bgzip writes).

    Yields:
        Each record in order; FASTQ may span several lines.

    Raises:
        EmptyFileError: The file holds nothing but blanks.
        SequenceFileError: The file is binary, damaged or cut short, has text before the first
            record, or a header that does not begin its line.
        OSError: The file cannot be opened or read.
    """
    if isinstance(source, OpenPart):
        return _read_part(source)
    return _read_file(source)


def _read_file(path: Path) -> Iterator[Record]:
    with path.open("rb", buffering=0) as file:
        marker, blocks = detect_format(read_blocks(file))
        lines = split_lines(blocks)
        yield from parse_fasta(lines) if marker == b">" else parse_fastq(lines)


def _read_part(part: OpenPart) -> Iterator[Record]:
    """The records of a part: of plain FASTA from where it begins, of any other file all."""
    with part.path.open("rb", buffering=0) as file:
        first = _first_header(file)
        if first is None:
            part.can_shrink = False
            if not part.is_whole:
                raise SequenceFileError("it was plain FASTA when its parts were made")
            yield from _read_file(part.path)
            return
        part.begin(os.fstat(file.fileno()).st_size)
        for place, text in _texts(file, max(part.part.start, first)):
            if not part.claim(place):
                return
            if b"\r" in text or text.find(b">", text.find(b"\n")) >= 0:
                # A return alone may end a line of it, or there is a fault to be told.
                yield from parse_fasta(with_newlines(b">" + text).split(b"\n"))
                continue
            header, _, body = text.partition(b"\n")
            names = header.split(None, 1)
            yield Record(names[0] if names else b"", body.translate(None, _NO_LETTERS))


def _first_header(file: BinaryIO) -> int | None:
    """Where the first record of plain FASTA begins; None where the file may be something else."""
    head = file.read(BLOCK_BYTES)
    text = head.lstrip()
    place = len(head) - len(text)
    is_alone = not place or head[place - 1 : place] == b"\n"
    has_lines = b"\r" not in head or b"\r\n" in head
    return place if text.startswith(b">") and is_alone and has_lines else None


def _texts(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """The text of each record that begins at a place or later, without its `>`, and its place."""
    place = max(start - 1, 0)
    file.seek(place)
    is_inside = False  # a record whose beginning was seen
    pieces: list[bytes] = []
    last = b"" if start else b"\n"
    begun_at = place
    while block := file.read(BLOCK_BYTES):
        if b"\0" in block:
            raise SequenceFileError("it holds binary data, not sequences")
        here = place
        if last == b"\n" and block.startswith(b">"):
            if is_inside:
                yield begun_at, b"".join(pieces)
            is_inside, pieces, begun_at = True, [], here
            texts = block[1:].split(b"\n>")
            here += 1
        else:
            texts = block.split(b"\n>")
        pieces.append(texts[0])
        here += len(texts[0])
        for text in texts[1:]:
            if is_inside:
                yield begun_at, b"".join(pieces)
            is_inside, pieces, begun_at = True, [text], here + 1
            here += 2 + len(text)
        place += len(block)
        last = block[-1:]
    if is_inside:
        yield begun_at, b"".join(pieces)


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
