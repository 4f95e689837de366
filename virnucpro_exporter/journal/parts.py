"""Parts of files in the journal: what each change writes, and from what a later run continues.

A row is a range of a file, known by where the path of the file leads. While the file has no result,
the outputs of the parts that are done stay in the folders of their attempts.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import FilePart
from virnucpro_exporter.scheduling.ids import AttemptNumber
from virnucpro_exporter.scheduling.parts import PartResult

# A part, and its result where it is done.
Standing = tuple[FilePart, PartResult | None]

_OF_FILE = "real = (SELECT coalesce(real, path) FROM files WHERE path = ?) AND start = ?"
# What a worker keeps of a file is in process since the file is.
SPLIT = """INSERT INTO parts
    (real, start, stop, state, attempt, gpu, started, residues, given, giver, taker, given_stop)
    SELECT coalesce(real, path), ?1, ?2, ?3, ?4, ?5, CASE WHEN ?3 = 'processing' THEN started END,
    ?6, ?7, ?8, ?9, ?10 FROM files WHERE path = ?11
    ON CONFLICT (real, start) DO UPDATE SET stop = excluded.stop, residues = excluded.residues"""
START = f"UPDATE parts SET state = 'processing', attempt = ?, gpu = ?, started = ? WHERE {_OF_FILE}"  # noqa: S608 - words of our own
QUEUE = f"UPDATE parts SET state = 'queued', attempts = ?, error = ? WHERE {_OF_FILE}"  # noqa: S608 - likewise
COMPLETE = f"""UPDATE parts SET state = 'completed', attempt = ?, attempts = ?, gpu = ?,
    started = ?, duration = ?, sequences = ?, residues = ?, outputs = ?, error = NULL
    WHERE {_OF_FILE}"""  # noqa: S608 - likewise

# Attempts in whose folders there are results that are wanted: a file that is done needs none.
KEPT = """SELECT attempt FROM parts WHERE state = 'completed' AND NOT EXISTS (
    SELECT 1 FROM files WHERE coalesce(files.real, files.path) = parts.real
    AND files.state = 'completed')"""

# A file of which parts are done is in process, though no worker may have it at the moment.
BEGUN = """UPDATE files SET state = 'processing', attempt = NULL, gpu = NULL, started = NULL
    WHERE coalesce(real, path) = ?"""

# What a killed run had in process, as attempts that were interrupted.
INTERRUPTED = """INSERT OR IGNORE INTO attempts
    (attempt, gpu, path, started, outcome, start, stop) SELECT parts.attempt, parts.gpu, files.path,
    parts.started, 'interrupted', parts.start, parts.stop FROM parts
    JOIN files ON coalesce(files.real, files.path) = parts.real WHERE parts.state = 'processing'"""


def split_rows(change: fa.FileSplit, now: float) -> list[tuple[Any, ...]]:
    """The part that its worker keeps, and the one that it gave away."""
    part, rest, path = change.part, change.rest, os.fsencode(change.part.path)
    taker = None if change.is_left else change.target
    held = (part.start, part.stop, "processing", change.attempt, change.worker_id, part.residues)
    given = (rest.start, rest.stop, "queued", None, None, rest.residues)
    why = now, change.worker_id, taker, rest.stop
    return [(*held, None, None, None, None, path), (*given, *why, path)]


def key(part: FilePart) -> tuple[bytes, int]:
    """The key of a part's row."""
    return os.fsencode(part.path), part.start


def completed_row(change: fa.PartCompleted, now: float) -> tuple[Any, ...]:
    """A part that is done."""
    return (
        change.attempt,
        change.attempts,
        change.worker_id,
        now - change.duration,
        change.duration,
        change.sequences,
        change.residues,
        json.dumps(change.outputs),
        *key(change.file),
    )


def done(database: sqlite3.Connection) -> set[int]:
    """The attempts that did parts, in a journal of any version."""
    known = "SELECT 1 FROM sqlite_master WHERE name = 'parts'"
    if not database.execute(known).fetchone():
        return set()
    rows = database.execute("SELECT attempt FROM parts WHERE state = 'completed'")
    return {attempt for (attempt,) in rows}


def kept(database: sqlite3.Connection) -> set[int]:
    """The attempts in whose folders there are results that are wanted."""
    return {attempt for (attempt,) in database.execute(KEPT)}


def read(
    database: sqlite3.Connection, real: bytes, path: str, attempts: Path
) -> tuple[Standing, ...]:
    """What an earlier run has left of a file; parts that are not done and lie side by side are one.

    Args:
        database: The journal.
        real: Where the path of the file leads.
        path: Its path in this run.
        attempts: The folder of the attempts' folders.

    Returns:
        All parts in order; none where nothing of it is done, or its rows do not fit together.
    """
    rows = database.execute(
        "SELECT start, stop, state, attempt, duration, sequences, residues, outputs FROM parts"
        " WHERE real = ? ORDER BY start",
        (real,),
    ).fetchall()
    found: list[Standing] = []
    for start, stop, state, attempt, duration, sequences, residues, outputs in rows:
        before = found[-1][0] if found else None
        if start != (before.stop if before else 0):
            return ()
        names = tuple(json.loads(outputs))
        folder = attempts / str(attempt)
        if state == "completed" and all((folder / name).exists() for name in names):
            number = AttemptNumber(attempt)
            result = PartResult(number, sequences, residues, names, duration)
            found.append((FilePart(path, sequences, residues, None, start, stop), result))
        elif before is not None and found[-1][1] is None:
            joined = FilePart(path, None, before.residues + residues, None, before.start, stop)
            found[-1] = joined, None
        else:
            found.append((FilePart(path, None, residues, None, start, stop), None))
    is_whole = bool(found) and found[-1][0].stop is None
    is_begun = any(result is not None for _, result in found)
    return tuple(found) if is_whole and is_begun else ()


def rewrite(database: sqlite3.Connection, real: bytes, parts: Sequence[Standing]) -> set[int]:
    """Leave no rows of a file but those of the parts that a run goes on with.

    Returns:
        The attempts whose results are not wanted any more.
    """
    before = database.execute("SELECT attempt FROM parts WHERE real = ?", (real,)).fetchall()
    wanted = {result.attempt for _, result in parts if result is not None}
    still = [(real, part.start) for part, result in parts if result is not None]
    starts = {start for _, start in still}
    rows = database.execute("SELECT start FROM parts WHERE real = ?", (real,)).fetchall()
    database.executemany(
        "DELETE FROM parts WHERE real = ? AND start = ?",
        [(real, start) for (start,) in rows if start not in starts],
    )
    database.executemany(
        "INSERT INTO parts (real, start, stop, state, residues) VALUES (?, ?, ?, 'queued', ?)",
        [(real, p.start, p.stop, p.residues) for p, result in parts if result is None],
    )
    if wanted:
        database.execute(BEGUN, (real,))
    return {attempt for (attempt,) in before if attempt is not None} - wanted


def reals(database: sqlite3.Connection) -> set[bytes]:
    """The files that have parts, by where their paths lead."""
    return {real for (real,) in database.execute("SELECT DISTINCT real FROM parts")}
