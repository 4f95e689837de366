"""The parts of a file as ranges, as recorded in the journal: for `status` and `explain`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from virnucpro_exporter.journal.reader import rows
from virnucpro_exporter.text import format_range

_COLUMNS = (
    "real, start, stop, residues, state, gpu, started, duration, given, giver, taker, given_stop"
)


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a file.

    Attributes:
        start, stop: Where it begins and ends in the file's own coordinates; None at its end.
        begin, end: The same as shares of the file's residues, 0 to 1.
        state: `queued`, `processing` or `completed`.
        gpu: The worker that has it or had it last, or empty.
        started: When that began (Unix seconds), or None.
        duration: Seconds that it took, of one that is done.
        given: When a worker gave it away, or None where none did.
        giver: Which one, or empty.
        taker: For which worker; empty where the run ended and left it.
        given_stop: Where it ended then, in the form of `stop`.
    """

    start: int
    stop: int | None
    begin: float
    end: float
    state: str
    gpu: str
    started: float | None
    duration: float | None
    given: float | None
    giver: str
    taker: str
    given_stop: int | None

    @property
    def words(self) -> str:
        """Its name: `51-100%`."""
        return format_range(self.begin, self.end)


def ranges_of(database: sqlite3.Connection, real: bytes) -> tuple[Range, ...]:
    """The parts of a file in order; none where it is or was done whole.

    Args:
        database: The journal, of any version.
        real: Where the path of the file leads.
    """
    found = rows(database, "parts", _COLUMNS, "WHERE real = ? ORDER BY start", (real,))
    return tuple(_ranges(list(found)))


def all_ranges(database: sqlite3.Connection) -> Iterator[tuple[bytes, tuple[Range, ...]]]:
    """The parts of every file that is or was done in parts, by where its path leads."""
    found = rows(database, "parts", _COLUMNS, "ORDER BY real, start")
    for real, parts in groupby(found, key=lambda row: row[0]):
        yield real, tuple(_ranges(list(parts)))


def _ranges(found: Sequence[Any]) -> Iterator[Range]:
    total = sum(row[3] or 0 for row in found)
    before = 0
    for row in found:
        _, start, stop, residues, state, gpu, started, duration, given, giver, taker, end = row
        after = before + (residues or 0)
        yield Range(
            start,
            stop,
            before / total if total else 0.0,
            after / total if total else 1.0,
            state,
            gpu or "",
            started,
            duration,
            given,
            giver or "",
            taker or "",
            end,
        )
        before = after


def words_of(ranges: Sequence[Range], start: int | None, stop: int | None) -> str:
    """The name of a range that was a part once; empty where that is no longer known.

    Args:
        ranges: The parts as they are now.
        start: Where it began, or None where it was no part.
        stop: Where it ended, or None at the end of the file.
    """
    begins = {part.start: part.begin for part in ranges}
    ends = {part.stop: part.end for part in ranges}
    if start not in begins or stop not in ends or not begins[start] < ends[stop]:
        return ""
    return format_range(begins[start], ends[stop])
