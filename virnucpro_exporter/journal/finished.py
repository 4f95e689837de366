"""The files that have their results, for the record of a run and its tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from virnucpro_exporter.journal.schema import CODING


class FinishedPart(NamedTuple):
    """A part of a file whose results were joined.

    Attributes:
        start, stop: Its range, in places of the file; no stop is the end.
        sequences, residues: What it holds, or None where that is unknown.
        seconds: How long the attempt took that won.
        gpu, model: Where that was; None where it is unknown.
    """

    start: int
    stop: int | None
    sequences: int | None
    residues: int | None
    seconds: float | None
    gpu: str | None
    model: str | None


class FinishedFile(NamedTuple):
    """A file that has its results.

    Attributes:
        path: As it was spelled last.
        size: In bytes.
        sequences, residues: What it holds, or None where that is unknown.
        seconds: How long the attempt took that won.
        gpu, model: Where that was; None where it is unknown.
        outputs: Names of the results, in the output folder.
        parts: Those whose results were joined, in order; none of a file that was done whole.
    """

    path: str
    size: int
    sequences: int | None
    residues: int | None
    seconds: float | None
    gpu: str | None
    model: str | None
    outputs: tuple[str, ...]
    parts: tuple[FinishedPart, ...]


_FINISHED_PARTS = """SELECT real, start, stop, sequences, residues, duration, gpu
    FROM parts WHERE state = 'completed' ORDER BY real, start"""
_FINISHED_FILES = """SELECT real, path, size, sequences, residues, duration, gpu, outputs
    FROM files WHERE state = 'completed' ORDER BY path"""


def names_in(outputs: str) -> Sequence[str]:
    """The names in a list's text; most need no escapes, and can be read faster."""
    is_plain = outputs != "[]" and "\\" not in outputs
    names: Sequence[str] = outputs[2:-2].split('", "') if is_plain else json.loads(outputs)
    return names


def finished_files(database: sqlite3.Connection) -> Iterator[FinishedFile]:
    """All files that have their results, of all runs."""
    # The model of each GPU, as it was seen last.
    models: dict[str | None, str] = dict(
        database.execute("SELECT gpu, name FROM workers ORDER BY updated")
    )
    parts: dict[bytes, list[FinishedPart]] = {}
    for real, *cells, gpu in database.execute(_FINISHED_PARTS):
        parts.setdefault(real, []).append(FinishedPart._make((*cells, gpu, models.get(gpu))))
    for real, path, *rest, gpu, outputs in database.execute(_FINISHED_FILES):
        joined = tuple(parts[real]) if real in parts else ()
        names = tuple(names_in(outputs))
        row = (str(path, *CODING), *rest, gpu, models.get(gpu), names, joined)
        yield FinishedFile._make(row)
