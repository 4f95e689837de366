"""Files as `bgzip` writes them."""

from __future__ import annotations

import struct
import zlib


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
