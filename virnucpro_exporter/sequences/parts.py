"""Parts of a file: which records belong to one, where the reader stands, and how one is cut.

A record belongs to the part in which its first byte lies, so any place is a valid cut and parts
that cover a file hold each record once. A reader finds the first record of its part by itself. In
FASTA each line that begins with `>` is one. In FASTQ a line of qualities may look like a header, so
the reader looks at the text before the part: where that is regular, it is sure; where it is not,
the reader goes through the file from its start, and throws away what is not its own.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from virnucpro_exporter.errors import EmptyFileError
from virnucpro_exporter.sequences.opening import can_be_entered, read_at, size_of
from virnucpro_exporter.sequences.reading_on import read_on
from virnucpro_exporter.sequences.records import (
    EVERYTHING,
    Bounds,
    Record,
    detect_format,
    find_four_line_record,
    parse_fasta,
    parse_fastq,
    refuse_binary,
)
from virnucpro_exporter.sequences.texts import (
    MAGIC_BYTES,
    Text,
    enter,
    last_place,
    must_begin,
    read_texts,
)

# So much text before a part has to be regular FASTQ; the second for records that are long.
REGULAR_BYTES = (1 << 16, 1 << 22)
REGULAR_RECORDS = 4  # the fewest in it


@dataclass(frozen=True, slots=True)
class Part:
    """Those records of a file whose first byte lies in a range of it.

    So any place is a valid cut, and parts that cover a file hold each of its records once.

    Attributes:
        path: The file.
        start: The place where the range begins; see `sequences.texts` for what a place is.
        stop: The place where it ends, or None at the end of the file.
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
        can_shrink: Whether the end may be moved: not where entering the rest would cost too much.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.path = part.path
        self.name = part.path.name
        self.can_shrink = True
        self._lock = threading.Lock()
        self._position = part.start
        self._stop = part.stop
        self._end: int | None = None  # of the file, once that was looked at
        self._byte = 1  # so many places are one byte of the file

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

    def claim(self, place: int) -> bool:
        """Whether the record that begins at a place is still in the part; if so, it stays in it."""
        with self._lock:
            if self._stop is not None and place >= self._stop:
                return False
            self._position = place
            return True

    def finish(self) -> bool:
        """Give nothing away any more; whether the part has reached to the end of the file."""
        return self.claim(sys.maxsize)

    def is_past(self, place: int) -> bool:
        """Whether a place is beyond the end."""
        return self._stop is not None and place >= self._stop

    def shrink(
        self, share: float, is_worth: Callable[[Shrunk], bool] = lambda _: True
    ) -> Shrunk | None:
        """Give the end of what is not read yet away; the reader stops before it.

        Args:
            share: Above 0, up to 1: all but the record that was read last.
            is_worth: Whether a cut is to be made.

        Returns:
            The cut, or None where there is none.
        """
        try:
            self._look_at_end()
        except OSError:  # the reader says what is wrong
            return None
        with self._lock:
            end = self._end if self._stop is None else self._stop
            if not self.can_shrink or end is None:
                return None
            at = max(self._position + 1, end - int(share * (end - self._position)))
            cut = Shrunk(at, self._position, end)
            if at >= end or not is_worth(cut):
                return None
            self._stop = at
            return cut

    def keep(self, share: float, most_bytes: int | None) -> Shrunk | None:
        """Give the end away before anything is read.

        Args:
            share: What is kept at most, above 0 and up to 1.
            most_bytes: So many bytes of the file, as it lies on the disk, are kept at most; what
                is kept and what is given away can then be divided into parts of one size.

        Returns:
            The cut, or None where there is none.
        """
        try:
            self._look_at_end()
        except OSError:  # the reader says what is wrong
            return None
        end = self._end if self._stop is None else self._stop
        if end is None:
            return None
        length = end - self.part.start
        if most_bytes is not None:
            pieces = -(-length // (most_bytes * self._byte))
            share = min(share, 1 / max(pieces, 1))
        return self.shrink(1.0 - share) if share < 1.0 else None

    def _look_at_end(self) -> None:
        if self._end is None and self.can_shrink:
            self._end = extent(self.path)
            self.can_shrink = self._end is not None
            if self._end is not None:
                self._byte = max(1, self._end // self.path.stat().st_size)


def extent(path: Path) -> int | None:
    """The place after the last of a file; None where it cannot be split.

    Only its first bytes are looked at.

    Raises:
        OSError: It cannot be opened or read.
    """
    if not path.is_file():
        path.stat()
        return None  # a pipe can be read once, and opening it may wait for its writer
    with path.open("rb", buffering=0) as file:
        return last_place(file.read(MAGIC_BYTES), size_of(file)) or None


def read_sequences(source: Path | Part | OpenPart) -> Iterator[Record]:
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
    opened = source if isinstance(source, OpenPart) else OpenPart(_as_part(source))
    part = opened.part
    is_all = opened is not source and part == Part(part.path)  # and nothing can be given away
    with part.path.open("rb", buffering=0) as file:
        yield from parse(enter_part(file, part), EVERYTHING if is_all else opened, part.start)


class Entered(NamedTuple):
    """The text from which the records of a part can be read.

    Attributes:
        marker: The first letter of a header, which depends on the format.
        texts: The text, from somewhere before the first record of the part, or from it on.
        begins_line: Whether it begins a line.
    """

    marker: bytes
    texts: Iterator[Text]
    begins_line: bool = True


def parse(entered: Entered, bounds: Bounds, start: int) -> Iterator[Record]:
    """The records that begin at a place or later, as far as they are wanted.

    Raises:
        SequenceFileError: The content is at fault.
    """
    marker, texts, begins_line = entered
    if marker == b">":
        return parse_fasta(texts, bounds, start, begins_line=begins_line)
    return parse_fastq(texts, bounds, start)


def enter_part(file: BinaryIO, part: Part) -> Entered:
    """Find where the records of a part can be read from.

    Args:
        file: The file, just opened.
        part: The part; of one that begins where the file does, it need not be one that can seek.

    Raises:
        SequenceFileError: The content is at fault.
    """
    if part.start <= 0:
        return Entered(*detect_format(refuse_binary(_read_first(file))))
    try:
        marker, _ = detect_format(refuse_binary(read_texts(file)))
    except EmptyFileError:  # the first part reports it
        return Entered(b">", iter(()))
    if marker != b">":
        return Entered(marker, _sure_fastq(file, part.start))
    texts = refuse_binary(_enter(file, part.start, 1))
    first = next(texts, Text(0, b""))
    if first.text:
        texts = itertools.chain([first], texts)
    return Entered(marker, texts, begins_line=not first.place)


def _enter(file: BinaryIO, place: int, before: int) -> Iterator[Text]:
    """The text from somewhere before a place on, from where it costs least."""
    file.seek(0)
    if must_begin(file.read(MAGIC_BYTES)):
        return read_on(file, place, before, read_texts)
    return enter(file, place, before)


def _read_first(file: BinaryIO) -> Iterator[Text]:
    """The text of a file from its start, which the next part may be read on from."""
    if not can_be_entered(file):
        return read_texts(file)
    is_to_begin = must_begin(read_at(file, MAGIC_BYTES, 0))
    return read_on(file, 0, 0, read_texts) if is_to_begin else read_texts(file)


def _as_part(source: Path | Part) -> Part:
    return source if isinstance(source, Part) else Part(source)


def _sure_fastq(file: BinaryIO, start: int) -> Iterator[Text]:
    """The text from the header of a record on, which lies before a place, or at it."""
    for length in REGULAR_BYTES:
        texts = refuse_binary(_enter(file, start, length))
        window, texts = _window(texts, start, length)
        if not window or not window[0].place:
            break
        index = find_four_line_record(b"".join(text.text for text in window), REGULAR_RECORDS)
        if index is not None:
            return itertools.chain(_from(window, index), texts)
    file.seek(0)
    return detect_format(refuse_binary(read_texts(file)))[1]


def _window(texts: Iterator[Text], start: int, length: int) -> tuple[deque[Text], Iterator[Text]]:
    """The texts that begin before a place, the last that make up a length; and the rest."""
    window: deque[Text] = deque()
    held = 0
    for text in texts:
        if text.place >= start:
            return window, itertools.chain([text], texts)
        window.append(text)
        held += len(text.text)
        while held - len(window[0].text) >= length:
            held -= len(window.popleft().text)
    return window, texts


def _from(window: deque[Text], index: int) -> Iterator[Text]:
    """The texts from this index in them on."""
    for place, text in window:
        if index < len(text):
            yield Text(place + max(index, 0), text[max(index, 0) :])
        index -= len(text)
