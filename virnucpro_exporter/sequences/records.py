"""The records in a text: FASTA and FASTQ, parsed without losing one.

Names and sequences stay bytes: what went in comes out. A line ends with LF, CR LF or CR alone, also
within one file.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from virnucpro_exporter.errors import EmptyFileError, SequenceFileError
from virnucpro_exporter.sequences.texts import Text

BLANKS = b" \t\v\f"
# These letters stand for amino acids, and for no nucleotide or mixture of nucleotides.
ONLY_PROTEIN = b"EFILPQefilpq"

_BLANKS_AND_NEWLINES = BLANKS + b"\n"
_ENDS_LINE = operator.methodcaller("endswith", b"\n")
_ODD_RETURN = re.compile(rb"\r(?![\n]|\Z)")
_SHORT_BYTES = 500  # a sequence below this is put together faster than searched for blanks
LONG_RECORD_BYTES = 4 << 20  # one this long is rather joined from lines


class Record(NamedTuple):
    """One sequence.

    Attributes:
        name: The first word of the header, as it stands in the file.
        sequence: All its letters, case kept, without line ends and blanks.
    """

    name: bytes
    sequence: bytes


class Bounds(Protocol):
    """Which records are wanted."""

    def claim(self, place: int) -> bool:
        """Whether the record that begins here is still wanted; the next thing is to yield it."""

    def is_past(self, place: int) -> bool:
        """Whether what begins here or later is not wanted."""


class Everything:
    """All records are wanted."""

    def claim(self, _place: int) -> bool:
        """They are."""
        return True

    def is_past(self, _place: int) -> bool:
        """They are not."""
        return False


EVERYTHING = Everything()


def refuse_binary(texts: Iterable[Text]) -> Iterator[Text]:
    """The same texts.

    Raises:
        SequenceFileError: One holds a NUL byte.
    """
    for text in texts:
        if b"\0" in text.text:
            raise SequenceFileError("it holds binary data, not sequences")
        yield text


def _end_all_lines(texts: Iterable[Text]) -> Iterator[Text]:
    """The same with LF in place of each CR, so that every byte keeps its place.

    The empty line that comes of CR LF changes no record of FASTA.
    """
    for text in texts:
        if b"\r" in text.text:
            yield Text(text.place, text.text.replace(b"\r", b"\n"))
        else:
            yield text


def _end_odd_lines(texts: Iterable[Text]) -> Iterator[Text]:
    """The same with LF in place of each CR that no LF follows; every byte keeps its place."""
    held: Text | None = None  # a CR at the end of a text: the next text decides what it is
    for text in texts:
        if held is not None:
            yield held if text.text.startswith(b"\n") else Text(held.place, b"\n")
            held = None
        if b"\r" not in text.text:
            yield text
            continue
        found = _ODD_RETURN.sub(b"\n", text.text)
        if found.endswith(b"\r"):
            found = found[:-1]
            held = Text(text.place + len(found), b"\r")
        yield Text(text.place, found)
    if held is not None:
        yield Text(held.place, b"\n")


def detect_format(texts: Iterator[Text]) -> tuple[bytes, Iterator[Text]]:
    """Distinguish FASTA from FASTQ.

    Args:
        texts: From the start of the file.

    Returns:
        The first byte that is not blank, `>` or `@`, and the text from there on.

    Raises:
        EmptyFileError: The text is empty.
        SequenceFileError: It starts with something else than a header.
    """
    before = b"\n"
    for place, block in texts:
        text = block.lstrip()
        skipped = len(block) - len(text)
        before = (before + block[:skipped])[-1:]
        if not text:
            continue
        if not text.startswith((b">", b"@")):
            shown = _shown(text.splitlines()[0])
            raise SequenceFileError(f"it has text before the first '>' or '@': {shown}")
        if before not in (b"\n", b"\r"):
            shown = _shown(text.splitlines()[0])
            raise SequenceFileError(f"the first header, {shown}, is not at the start of its line")
        return text[:1], itertools.chain([Text(place + skipped, text)], texts)
    raise EmptyFileError


def parse_fasta(
    texts: Iterable[Text], bounds: Bounds = EVERYTHING, start: int = 0, *, begins_line: bool = True
) -> Iterator[Record]:
    """Yield the records of FASTA that begin at a place or later.

    Args:
        texts: What stands before the first header is thrown away.
        bounds: Which of them are wanted.
        start: The place.
        begins_line: Whether the text begins a line.

    Raises:
        SequenceFileError: A header does not begin its line.
    """
    for at, pieces in _fasta_texts(texts, bounds, start, begins_line=begins_line):
        if bounds is EVERYTHING and start <= 0:
            yield from map(_fasta_record, pieces)
            continue
        for piece in pieces:
            if at >= start:
                if not bounds.claim(at):
                    return
                yield _fasta_record(piece)
            at += len(piece) + 1  # noqa: PLW2901 - the place of the next one


def _fasta_texts(
    texts: Iterable[Text], bounds: Bounds, start: int, *, begins_line: bool
) -> Iterator[tuple[int, list[bytes]]]:
    """The texts of records without their `>`, in runs without a gap, and where each run begins.

    Those of a place or later are all among them; others may be, too.
    """
    pieces: list[bytes] = []  # of the record that is being read
    at = -1
    for place, text in _end_all_lines(texts):
        head, *rest = _split_at_headers(text, begins_line=begins_line)
        begins_line = text.endswith(b"\n")
        if at >= start:
            pieces.append(head)
        if not rest:
            if bounds.is_past(at):
                return
            continue
        if at >= start:
            yield at, [b"".join(pieces)]
        at = place + len(head)
        pieces = [rest.pop()]
        if rest:
            yield at, rest
            at += sum(map(len, rest)) + len(rest)
    if at >= start:
        yield at, [b"".join(pieces)]


def _split_at_headers(text: bytes, *, begins_line: bool) -> list[bytes]:
    """The text before the first header, and from each to the next without its `>`."""
    # To search for one letter is many times faster than for two.
    pieces = text.split(b">")
    is_at_start = begins_line and not pieces[0]
    if all(map(_ENDS_LINE, pieces[is_at_start:-1])):
        return pieces
    before = b"\n" if begins_line else b""
    *whole, last = (before + text).split(b"\n>")
    pieces = [*(piece + b"\n" for piece in whole), last]
    pieces[0] = pieces[0].removeprefix(before)
    return pieces


def _fasta_record(text: bytes) -> Record:
    """The record of a text without its `>`."""
    header, _, body = text.partition(b"\n")
    if len(body) < _SHORT_BYTES:
        sequence = b"".join(body.split())  # at all blanks and line ends
    else:
        sequence = body.replace(b"\n", b"")
        if has_blanks(sequence):
            sequence = sequence.translate(None, BLANKS)
    if b">" in sequence:
        line = next(line for line in body.split(b"\n") if b">" in line)
        raise _header_in_line(_first_word(header), line)
    return Record(_first_word(header), sequence)


def _header_in_line(name: bytes, line: bytes) -> SequenceFileError:
    """A header in the middle of a line would be lost in the sequence."""
    return SequenceFileError(
        f"record {_shown(name)} contains {_shown(line)}: a header must start its line"
    )


def _first_word(header: bytes) -> bytes:
    """The name in a header without its `>` or `@`."""
    words = header.split(None, 1)
    return words[0] if words else b""


def parse_fastq(
    texts: Iterable[Text], bounds: Bounds = EVERYTHING, start: int = 0
) -> Iterator[Record]:
    """Yield the records of FASTQ that begin at a place or later.

    Args:
        texts: From the header of a record on.
        bounds: Which of them are wanted.
        start: The place.

    Yields:
        Each record; a sequence and its qualities may span several lines.

    Raises:
        SequenceFileError: A record is malformed or cut short.
    """
    tail = Text(0, b"")  # the record that is being read
    texts = _end_odd_lines(texts)
    for place, block in texts:
        text = tail.text + block
        lines = text.split(b"\n")
        lines = lines[: (len(lines) - 1) // 4 * 4]
        if not ((b"\r" not in text or _end_alike(lines)) and are_four_line_records(lines)):
            texts = itertools.chain([tail, Text(place, block)], texts)
            tail = Text(0, b"")
            break
        at = tail.place if tail.text else place
        end = place - len(tail.text)
        if bounds is EVERYTHING and start <= 0:
            for header, sequence in zip(lines[::4], lines[1::4], strict=True):
                yield Record(_first_word(header[1:]), sequence.rstrip(b"\r"))
            at = end = end + sum(map(len, lines)) + len(lines)
            lines = []
        for header, sequence, separator in zip(lines[::4], lines[1::4], lines[2::4], strict=True):
            if at >= start:
                if not bounds.claim(at):
                    return
                yield Record(_first_word(header[1:]), sequence.rstrip(b"\r"))
            end += len(header) + 2 * len(sequence) + len(separator) + 4
            at = end
        tail = Text(at, text[end - place + len(tail.text) :])
        if tail.text and bounds.is_past(tail.place):
            return
        if len(tail.text) > LONG_RECORD_BYTES:
            break
    yield from _parse_any_fastq(_located_lines(itertools.chain([tail], texts)), bounds, start)


def _end_alike(lines: Sequence[bytes]) -> bool:
    """Whether a CR stands at the end of all lines or of none: else lengths cannot be compared."""
    returns = b"".join(lines).count(b"\r")
    return returns in (0, len(lines))


def are_four_line_records(lines: Sequence[bytes]) -> bool:
    """Whether lines are whole records of four lines each, without any blanks but in headers."""
    headers, sequences = b"\n" + b"\n".join(lines[::4]), b"\n" + b"\n".join(lines[1::4])
    separators, qualities = b"\n" + b"\n".join(lines[2::4]), b"\n".join(lines[3::4])
    number = len(lines) // 4
    return (
        list(map(len, lines[1::4])) == list(map(len, lines[3::4]))
        and headers.count(b"\n@") == number
        and separators.count(b"\n+") == number
        and not (b"+" in sequences and b"\n+" in sequences)  # one letter is found far sooner
        and b"@" not in sequences
        and not has_blanks(sequences)
        and not has_blanks(qualities)
    )


def has_blanks(text: bytes) -> bool:
    """Whether there are blanks in a text, line ends aside."""
    return b" " in text or b"\t" in text or b"\v" in text or b"\f" in text


def find_four_line_record(text: bytes, least: int) -> int | None:
    """Where a record begins in a text that was cut out of FASTQ; None where that is not sure.

    All of the text has to be records of four lines with nothing but letters in their sequences. A
    line of qualities may begin with `@` or `+`; but qualities that look like that many whole
    records, line by line, are no qualities.

    Args:
        text: From anywhere in the file.
        least: How many records it has to hold.
    """
    lines = text.split(b"\n")
    offset = len(lines[0]) + 1
    for first in range(1, 5):
        records = lines[first : first + (len(lines) - 1 - first) // 4 * 4]
        is_sure = (
            len(records) >= 4 * least and b"".join(records[1::4]).replace(b"\r", b"").isalpha()
        )
        if is_sure and are_four_line_records(records):
            return offset
        offset += len(lines[first]) + 1 if first < len(lines) else 0
    return None


def _located_lines(texts: Iterable[Text]) -> Iterator[tuple[int, bytes]]:
    """Lines without their newline, with their places, in time linear in the text."""
    pieces: list[bytes] = []
    at = 0
    for place, block in texts:
        if not block:
            continue
        if not pieces:
            at = place
        head, newline, rest = block.partition(b"\n")
        pieces.append(head)
        if newline:
            yield at, b"".join(pieces)
            at = place + len(head) + 1
            *lines, last = rest.split(b"\n")
            for line in lines:
                yield at, line
                at += len(line) + 1
            pieces = [last] if last else []
    yield at, b"".join(pieces)


def _parse_any_fastq(
    lines: Iterator[tuple[int, bytes]], bounds: Bounds, start: int
) -> Iterator[Record]:
    for at, line in lines:
        header = line.rstrip()
        if not header:
            continue
        if bounds.is_past(at):
            return
        name = _first_word(header[1:])
        if not header.startswith(b"@"):
            raise SequenceFileError(f"a FASTQ record starts with {_shown(header)}, not with '@'")
        parts = []
        for _, part in lines:
            if part.startswith(b"+"):
                break
            parts.append(part.rstrip())
        else:
            raise SequenceFileError(f"it ends within the FASTQ record {_shown(name)}")
        sequence = b"".join(parts).translate(None, _BLANKS_AND_NEWLINES)
        if b"@" in sequence:
            odd = next(part for part in parts if b"@" in part)
            raise _header_in_line(name, odd)
        _skip_qualities(lines, name, len(sequence))
        if at >= start:
            if not bounds.claim(at):
                return
            yield Record(name, sequence)


def _skip_qualities(lines: Iterator[tuple[int, bytes]], name: bytes, length: int) -> None:
    """Consume the qualities of a record; one may start with `@`, so their number ends them."""
    missing = length
    while missing > 0:
        found = next(lines, None)
        if found is None:
            raise SequenceFileError(f"it ends within the FASTQ record {_shown(name)}")
        missing -= len(found[1].rstrip())
    if missing < 0:
        raise SequenceFileError(
            f"the FASTQ record {_shown(name)} has {length} bases but {length - missing} qualities"
        )


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))
