"""Parts as files of their own, for programs that read whole files.

A copy holds the records of its part as they stand in the file, and is compressed in the same way:
as gzip, bgzip or zstd, at the fastest level.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

from virnucpro_exporter.sequences.opening import size_of
from virnucpro_exporter.sequences.parts import (
    OpenPart,
    Part,
    enter_part,
    parse,
    read_sequences,
)
from virnucpro_exporter.sequences.texts import (
    BGZIP_FIELD,
    BGZIP_START,
    MAGIC_BYTES,
    Text,
    compression_of,
    is_bgzip,
)
from virnucpro_exporter.stores.access import StoredFile

_COPIED_AT_ONCE = 1 << 26
_LEVEL, _RAW_BITS = 1, -15  # for zlib: a copy lives for minutes; deflate without a header
_BGZIP_TEXT = 0xFF00  # in one block, as bgzip itself writes them
_BGZIP_HEAD = BGZIP_START + b"\0\0\0\0\0\xff" + BGZIP_FIELD  # the length of the block follows


def copy_part(part: Part, target: Path) -> bool:
    """Write the records of a part into a file of their own.

    Args:
        part: The part.
        target: The file.

    Returns:
        Whether there are any.

    Raises:
        SequenceFileError: The content is at fault.
        OSError: A file cannot be opened, read or written.
    """
    with part.path.open("rb", buffering=0) as source, target.open("wb") as copy:
        head = source.read(MAGIC_BYTES)
        source.seek(0)
        compression = compression_of(head)
        if compression is None:
            return _copy_plain(part, source, copy)
        packer = _Bgzip() if is_bgzip(head) else compression.pack()
        records = _Records(part, lambda text: copy.write(packer.compress(text)))
        has_some = records.copy(source)
        copy.write(packer.flush())
        return has_some


def _copy_plain(part: Part, source: BinaryIO, copy: BinaryIO) -> bool:
    """Copy the range from the first record of the part up to that of the next one."""
    begin = _first_record(part)
    if begin is None:
        return False
    end = None if part.stop is None else _first_record(Part(part.path, part.stop))
    left = (size_of(source) if end is None else end) - begin
    source.seek(begin)
    while left > 0:
        asked = min(left, _COPIED_AT_ONCE)
        done = _copy_some(source, copy, asked)
        if not done:
            raise OSError("the input became shorter")
        left -= done
    return True


def _copy_some(source: BinaryIO, copy: BinaryIO, asked: int) -> int:
    """Copy at most so many bytes, past this process where both are files; how many were copied."""
    if isinstance(source, StoredFile):
        return copy.write(source.read(asked))
    try:
        return os.copy_file_range(source.fileno(), copy.fileno(), asked)
    except OSError:  # between two file systems, or one that cannot
        return os.sendfile(copy.fileno(), source.fileno(), None, asked)


def _first_record(part: Part) -> int | None:
    """Where the first record of a part begins; None where it has none."""
    reader = OpenPart(part)
    # The position is that of the record as soon as there is one.
    return reader.position if next(read_sequences(reader), None) is not None else None


class _Records:
    """Passes the text of the records of a part on, while they are read.

    Args:
        part: The part.
        write: Takes the text.
    """

    def __init__(self, part: Part, write: Callable[[bytes], object]) -> None:
        self._part = part
        self._write = write
        self._held: deque[Text] = deque()  # read, and neither passed on nor thrown away
        self._has_begun = False
        self._has_ended = False

    def copy(self, source: BinaryIO) -> bool:
        """Pass all on; whether there was any.

        Raises:
            SequenceFileError: The content is at fault.
        """
        entered = enter_part(source, self._part)
        entered = entered._replace(texts=self._watch(entered.texts))
        for _ in parse(entered, self, self._part.start):
            pass
        if self._has_begun and not self._has_ended:
            for text in self._held:
                self._write(text.text)
        return self._has_begun

    def claim(self, place: int) -> bool:
        """Whether the record that begins here is in the part; the one before it has ended."""
        if self.is_past(place):
            return False
        for text in self._take(place):
            if self._has_begun:
                self._write(text)
        self._has_begun = True
        return True

    def is_past(self, place: int) -> bool:
        """Whether the record that begins here is beyond the part."""
        stop = self._part.stop
        if stop is None or place < stop:
            return False
        if self._has_begun and not self._has_ended:
            for text in self._take(place):
                self._write(text)
        self._has_ended = True
        return True

    def _watch(self, texts: Iterator[Text]) -> Iterator[Text]:
        for text in texts:
            self._held.append(text)
            if not self._has_begun:
                for _ in self._take(self._part.start):
                    pass
            yield text

    def _take(self, place: int) -> Iterator[bytes]:
        """What is held of the text before a place, and held no more."""
        held = self._held
        while held and held[0].place < place:
            begin, text = held.popleft()
            yield text[: place - begin]
            if len(text) > place - begin:
                held.appendleft(Text(place, text[place - begin :]))


class _Bgzip:
    """Packs a text into blocks, as bgzip does."""

    def __init__(self) -> None:
        self._text = b""

    def compress(self, text: bytes, /) -> bytes:
        """The blocks that are full by now."""
        text = self._text + text
        full = len(text) // _BGZIP_TEXT * _BGZIP_TEXT
        self._text = text[full:]
        return b"".join(_block(text[at : at + _BGZIP_TEXT]) for at in range(0, full, _BGZIP_TEXT))

    def flush(self) -> bytes:
        """The last block, and the empty one that ends a file."""
        return (_block(self._text) if self._text else b"") + _block(b"")


def _block(text: bytes) -> bytes:
    data = isal_zlib.compress(text, _LEVEL, _RAW_BITS)
    length = len(_BGZIP_HEAD) + 2 + len(data) + 8
    return b"".join(
        (
            _BGZIP_HEAD,
            struct.pack("<H", length - 1),
            data,
            struct.pack("<II", zlib.crc32(text), len(text)),
        )
    )
