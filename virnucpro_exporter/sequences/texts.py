"""The text of a file, decompressed where it has to be, in pieces with their places.

A place is a whole number that grows along the file. In a plain file it is the offset of the byte.
In a compressed one it is an offset in the file, shifted by 16 bits, plus an offset in the text: of
bgzip, as in its own indexes, the offset of the block and that within its text; of any other, the
offset of the 64 KiB that were decompressed, and that within the text which came out of them. So the
last place is known from the size of the file, and places are about linear in the work.

A plain file can be entered anywhere and bgzip at each block. Any other compressed text is read from
its start, and what is not wanted is thrown away.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO, NamedTuple, Protocol

from isal import igzip_lib, isal_zlib

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.sequences.opening import read_at

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 1 << 16  # what is made of a block stays in the cache; larger ones are slower
TEXT_BYTES = 1 << 18  # decompressed at a time: a small file may hold a very long text
MAGIC_BYTES = 18  # these show the compression, and distinguish bgzip from other gzip
PLACE_BITS = 16  # of a text's offset; more than a block of bgzip holds
BGZIP_START = b"\x1f\x8b\x08\x04"
BGZIP_FIELD = b"\x06\0BC\x02\0"
BGZIP_BLOCK_BYTES = 1 << 16  # the longest
_PACK_LEVEL = 1


class Text(NamedTuple):
    """A piece of the text.

    Attributes:
        place: Of its first byte; each byte after it has the next place.
        text: As it stands in the file, decompressed.
    """

    place: int
    text: bytes


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


class Compressor(Protocol):
    """Makes one member of compressed data; the libraries agree on this, too."""

    def compress(self, text: bytes, /) -> bytes:
        """What can be written of it by now."""

    def flush(self) -> bytes:
        """The rest."""


class Compression(NamedTuple):
    """A format of compressed data.

    Attributes:
        name: For error messages.
        magic: What the data starts with: one of these.
        start: Makes what reads one member; the checksum is verified.
        pack: Makes what writes one, fast rather than small.
        error: What that raises where the data is damaged.
        is_fast: Throwing away the text before a part costs little.
    """

    name: str
    magic: tuple[bytes, ...]
    start: Callable[[], Decompressor]
    pack: Callable[[], Compressor]
    error: type[Exception]
    is_fast: bool


def _start_zstd() -> Decompressor:
    # Files made with `--long=31` need a window of 2 GiB.
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 31})


COMPRESSIONS = (
    Compression(
        "gzip",
        (b"\x1f\x8b",),
        partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP),
        partial(isal_zlib.compressobj, _PACK_LEVEL, wbits=31),  # with a header of gzip
        igzip_lib.IsalError,  # type: ignore[arg-type]  # its stub lacks type[...]
        is_fast=True,
    ),
    Compression(
        "bzip2",
        (b"BZh",),
        bz2.BZ2Decompressor,
        partial(bz2.BZ2Compressor, _PACK_LEVEL),
        OSError,
        is_fast=False,
    ),
    Compression(
        "xz",
        (b"\xfd7zXZ\0",),
        partial(lzma.LZMADecompressor, lzma.FORMAT_XZ),
        partial(lzma.LZMACompressor, preset=_PACK_LEVEL),
        lzma.LZMAError,
        is_fast=False,
    ),
    Compression(
        "zstd",
        # A frame, or one that is to be skipped.
        (b"\x28\xb5\x2f\xfd", *(bytes([first, 0x2A, 0x4D, 0x18]) for first in range(0x50, 0x60))),
        _start_zstd,
        partial(zstd.ZstdCompressor, level=_PACK_LEVEL),
        zstd.ZstdError,
        is_fast=True,
    ),
)


_MAGICS = tuple(magic for known in COMPRESSIONS for magic in known.magic)


def compression_of(start: bytes) -> Compression | None:
    """How the data is compressed that starts with these bytes; None where it is plain."""
    if not start.startswith(_MAGICS):
        return None
    return next(known for known in COMPRESSIONS if start.startswith(known.magic))


def is_bgzip(start: bytes) -> bool:
    """Whether the data that starts with these bytes can be entered at each block."""
    return _bgzip_block(start, 0) is not None


def read_texts(file: Readable) -> Iterator[Text]:
    """Yield the text of an open file from its start; it need not be one that can seek.

    Raises:
        SequenceFileError: Compressed data is damaged or cut short.
    """
    blocks = _whole_blocks(file)
    first = next(blocks, b"")
    blocks = itertools.chain([first], blocks)
    compression = compression_of(first)
    if compression is None:
        return _plain(blocks, 0)
    return _decompress(blocks, compression, 0, has_blocks=is_bgzip(first))


def enter(file: BinaryIO, place: int, before: int) -> Iterator[Text]:
    """Yield the text of an open file from a place that can be entered.

    Where that is the beginning of a compressed file, an empty text at place 0 comes first: the
    first block may hold none, and what begins the file begins a line.

    Args:
        file: A regular file.
        place: What the caller looks for.
        before: How many bytes of text before it are wanted at least, if there are as many.
    """
    file.seek(0)
    head = file.read(MAGIC_BYTES)
    compression = compression_of(head)
    if compression is None:
        entry = max(0, place - before)
        file.seek(entry)
        return _plain(_whole_blocks(file), entry)
    entry = _block_before(file, place >> PLACE_BITS, before) if is_bgzip(head) else 0
    file.seek(entry)
    texts = _decompress(_whole_blocks(file), compression, entry, has_blocks=is_bgzip(head))
    return texts if entry else itertools.chain([Text(0, b"")], texts)


def must_begin(start: bytes) -> bool:
    """Whether the data that starts with these bytes can be entered at its beginning alone."""
    return compression_of(start) is not None and not is_bgzip(start)


def last_place(head: bytes, size: int) -> int | None:
    """The place after the last of a file that starts so; None where entering it costs too much.

    Args:
        head: `MAGIC_BYTES` of it, if it has as many.
        size: Of the file.
    """
    compression = compression_of(head)
    if compression is None:
        return size
    return size << PLACE_BITS if compression.is_fast else None


def _whole_blocks(file: Readable) -> Iterator[bytes]:
    """Blocks that are full up to the last, whatever a read returns: places depend on them."""
    while block := file.read(BLOCK_BYTES):
        while len(block) < BLOCK_BYTES and (more := file.read(BLOCK_BYTES - len(block))):
            block += more
        yield block


def _plain(blocks: Iterable[bytes], place: int) -> Iterator[Text]:
    for block in blocks:
        yield Text(place, block)
        place += len(block)


def _decompress(
    blocks: Iterable[bytes], compression: Compression, offset: int, *, has_blocks: bool
) -> Iterator[Text]:
    """The text of compressed blocks, of which the first stands at this offset in the file."""
    member: Decompressor | None = None
    place = offset << PLACE_BITS
    has_text = False
    for block in blocks:
        if has_text and not has_blocks:  # the first text begins the file, whatever block it needs
            place = offset << PLACE_BITS
        offset += len(block)
        data, has_more = block, False
        while data or has_more:
            if member is None:
                data = data.lstrip(b"\0")  # tape and block devices pad a file with zeros
                if not data:
                    break
                member = compression.start()
                if has_blocks:
                    place = (offset - len(data)) << PLACE_BITS
            text = _more_text(member, data, compression)
            data, has_more = b"", len(text) == TEXT_BYTES
            if member.eof:
                data, has_more, member = member.unused_data, False, None
            if text:
                yield Text(place, text)
                place += len(text)
                has_text = True
    if member is not None:
        raise SequenceFileError(f"its {compression.name} data ends early: the file is truncated")


def _more_text(member: Decompressor, data: bytes, compression: Compression) -> bytes:
    try:
        return member.decompress(data, max_length=TEXT_BYTES)
    except compression.error as error:
        raise SequenceFileError(f"its {compression.name} data is damaged ({error})") from error


def _bgzip_block(data: bytes, index: int) -> int | None:
    """The length of the block of bgzip whose header stands here; None where there is none."""
    header = data[index : index + MAGIC_BYTES]
    # Deflate with an extra field of 6 bytes, which is the one of bgzip and holds 2 bytes.
    is_block = header.startswith(BGZIP_START) and header[10:16] == BGZIP_FIELD
    is_complete = len(header) == MAGIC_BYTES
    return int.from_bytes(header[16:18], "little") + 1 if is_block and is_complete else None


def _block_before(file: BinaryIO, offset: int, before: int) -> int:
    """Where a block of bgzip starts before this offset, such that blocks alone lead up to it.

    It is 0 where there is no such block: what follows may be gzip of another kind.
    """
    begin = offset - 2 * BGZIP_BLOCK_BYTES - before
    if begin <= 0:
        return 0
    data = read_at(file, offset - begin + MAGIC_BYTES, begin)
    index = data.find(BGZIP_START)
    while 0 <= index < offset - begin:
        end: int | None = index
        while end is not None and end < offset - begin:
            length = _bgzip_block(data, end)
            end = None if length is None else end + length
        if end is not None:
            return begin + index
        index = data.find(BGZIP_START, index + 1)
    return 0
