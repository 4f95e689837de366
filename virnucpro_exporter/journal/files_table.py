"""The state of each input file, as rows for programs."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from virnucpro_exporter.journal.reader import read_journal, rows
from virnucpro_exporter.journal.status import RunStatus, status_of


class FileRow(NamedTuple):
    """An input file; None is a value that is not known, or not yet.

    Attributes:
        path: As the run was given it.
        real: Where it leads, absolute.
        state: `queued`, `processing`, `committing`, `completed`, `failed` or `gone`.
        size: In bytes.
        attempts: Attempts at it, however they ended.
        failures: How many of them failed, took too long or lost their worker.
        gpu: The worker that has it, or had it last.
        started: When its last attempt began (Unix time, s).
        seconds: How long the attempt took that completed it.
        sequences: Sequences in it.
        residues: Residues in it; estimated until it is completed.
        error: Why its last attempt failed.
        outputs: Names of its results, in the output folder.
    """

    path: str
    real: str | None
    state: str
    size: int | None
    attempts: int
    failures: int
    gpu: str | None
    started: float | None
    seconds: float | None
    sequences: int | None
    residues: int | None
    error: str | None
    outputs: tuple[str, ...]


_COLUMNS = (
    "path, real, state, size, attempts, gpu, started, duration, sequences, residues, error, outputs"
)


# "lost" is what versions before schema 3 wrote.
_FAILED = "WHERE outcome IN ('failed', 'timed out', 'worker lost', 'lost')"


def read_files(folder: str | os.PathLike[str]) -> tuple[RunStatus, list[FileRow]]:
    """The last run in an output folder, and its files by their paths, as of one moment.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    return read_journal(folder, _read)


def _read(database: sqlite3.Connection, is_active: bool) -> tuple[RunStatus, list[FileRow]]:  # noqa: FBT001 - a `Reader`
    return status_of(database, is_active), list(_rows(database))


def _rows(database: sqlite3.Connection) -> Iterator[FileRow]:
    row: Any
    failures = Counter(path for (path,) in rows(database, "attempts", "path", _FAILED))
    for row in rows(database, "files", _COLUMNS, "ORDER BY path"):
        path, real, state, size, attempts, *rest, outputs = row
        where = None if real is None else os.path.realpath(os.fsdecode(real))
        known = None if size is None or size < 0 else size
        ended = attempts or 0, failures[path]
        names = tuple(json.loads(outputs or "[]"))
        cells = (os.fsdecode(path), where, state, known, *ended, *rest, names)
        yield FileRow._make(cells)
