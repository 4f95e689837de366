"""The state in which earlier runs in the same folder left the files of a run."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from virnucpro_exporter.journal.finished import names_in
from virnucpro_exporter.journal.schema import CODING


class InputFile(NamedTuple):
    """An input file as it is on the disk now: the same file whatever way its path is spelled."""

    path: str
    size: int
    mtime_ns: int
    real: str = ""  # where the path leads; the path itself when empty


# The journal's data on a file: path, size, time, state, sequences, residues and outputs.
Row = tuple[str, int | None, int | None, str | None, int | None, int | None, str]
UNKNOWN: Row = ("", None, None, None, None, None, "[]")


@dataclass(frozen=True, slots=True)
class Resumed:
    """What earlier runs recorded of the files of this one.

    Attributes:
        done: Files that are finished: unchanged since, and their outputs are in place.
        interrupted: Files that were in process when the last run ended.
        counts: Exact (sequences, residues) of unchanged files; None where unknown.
    """

    done: frozenset[str]
    interrupted: frozenset[str]
    counts: Mapping[str, tuple[int | None, int]]


class Earlier:
    """What earlier runs have left of the files of this one; may be read from any thread.

    Args:
        rows: The journal's data on all files, by where their paths lead.
        present: The names in the output folder.
    """

    def __init__(self, rows: Mapping[str, Row], present: set[str]) -> None:
        self._rows = rows
        self._present = present

    def knows(self, real: str) -> bool:
        """Whether the file at this place has been in an earlier run."""
        return real in self._rows

    def state_of(self, real: str) -> tuple[str | None, str]:
        """The state of the file at this place, None for an unknown one; its outputs."""
        row = self._rows.get(real, UNKNOWN)
        return row[3], row[6]

    def is_unchanged(self, file: InputFile) -> bool:
        """Whether a file is as recorded in the journal."""
        _, size, mtime_ns, *_ = self._rows.get(file.real or file.path, UNKNOWN)
        return size == file.size and mtime_ns == file.mtime_ns

    def standing(self, file: InputFile) -> tuple[bool, tuple[int | None, int] | None]:
        """Whether a file is done: unchanged since, its outputs in place; its counts, where known.

        Args:
            file: As it is now.
        """
        if not self._rows:
            return False, None
        return self.noted(file.real or file.path) if self.is_unchanged(file) else (False, None)

    def noted(self, real: str) -> tuple[bool, tuple[int | None, int] | None]:
        """As `standing`, of the file as an earlier run found it, which is not looked at again.

        Args:
            real: Where its path leads.
        """
        _, _, _, state, sequences, residues, outputs = self._rows.get(real, UNKNOWN)
        is_done = state == "completed" and (
            outputs == "[]" or self._present.issuperset(names_in(outputs))
        )
        return is_done, None if residues is None else (sequences, residues)


def known_rows(database: sqlite3.Connection) -> dict[str, Row]:
    """The rows of all files, by where their paths lead."""
    rows = database.execute(
        "SELECT path, size, mtime_ns, state, sequences, residues, outputs,"
        " coalesce(real, path) FROM files"
    )
    known: dict[str, Row] = {}
    for path, size, mtime_ns, state, sequences, residues, outputs, real in rows:
        shown = str(path, *CODING)
        place = shown if real == path else str(real, *CODING)
        known[place] = shown, size, mtime_ns, state, sequences, residues, outputs
    return known
