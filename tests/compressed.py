"""Text that is compressed in each way in which readers can begin in its middle."""

from __future__ import annotations

import gzip
import struct
import sys
import zlib
from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def bgzip(text: bytes, size: int = 0xFF00) -> bytes:
    """Blocks of bgzip with so many bytes of text each, and the empty one that ends a file."""
    return b"".join(
        bgzip_block(text[i : i + size]) for i in range(0, len(text), size)
    ) + bgzip_block(b"")


def bgzip_block(text: bytes) -> bytes:
    """One block."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = packer.compress(text) + packer.flush()
    head = struct.pack("<BBBBIBBH2sHH", 31, 139, 8, 4, 0, 0, 255, 6, b"BC", 2, len(data) + 25)
    return head + data + struct.pack("<II", zlib.crc32(text), len(text))


def members(text: bytes, size: int) -> bytes:
    """Members of gzip with so many bytes of text each."""
    return b"".join(gzip.compress(text[i : i + size]) for i in range(0, len(text), size))


PACK: dict[str, Callable[[bytes, int], bytes]] = {
    "plain": lambda text, _: text,
    "bgzip": bgzip,
    "gzip": lambda text, _: gzip.compress(text),
    "members": members,
    "bgzip and gzip": lambda text, size: (
        bgzip(text[: len(text) // 2], size) + gzip.compress(text[len(text) // 2 :])
    ),
    "bgzip after an empty block": lambda text, size: bgzip_block(b"") + bgzip(text, size),
    "zstd": lambda text, _: zstd.compress(text),
}
