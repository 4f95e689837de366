"""The tables of the journal, and what each change writes into them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.journal import parts
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import FilePart
from virnucpro_exporter.snapshot import RunSnapshot

# 5: parts of files.
# 4: why attempts ended, whether they count against the limit, and which files moved.
# 3: where the paths of files lead, and which input each result is of.
# 2: attempts without a result, stalls, and workers.
SCHEMA_VERSION = 5
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, started REAL, ended REAL, state TEXT, settings TEXT);
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, state TEXT, attempts INTEGER DEFAULT 0,
    attempt INTEGER, gpu TEXT, started REAL, duration REAL, sequences INTEGER, residues INTEGER,
    error TEXT, outputs TEXT DEFAULT '[]', real BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (name BLOB PRIMARY KEY, real BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steals (time REAL, victim TEXT, thief TEXT, path BLOB);
CREATE TABLE IF NOT EXISTS attempts (
    attempt INTEGER PRIMARY KEY, gpu TEXT, path BLOB, started REAL, ended REAL, outcome TEXT,
    error TEXT, charged INTEGER, start INTEGER, stop INTEGER);
CREATE TABLE IF NOT EXISTS parts (
    real BLOB, start INTEGER, stop INTEGER, state TEXT, attempt INTEGER,
    attempts INTEGER DEFAULT 0, gpu TEXT, started REAL, duration REAL, sequences INTEGER,
    residues INTEGER, error TEXT, outputs TEXT DEFAULT '[]', given REAL, giver TEXT, taker TEXT,
    given_stop INTEGER, PRIMARY KEY (real, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS moves (time REAL, path BLOB, source TEXT, target TEXT);
CREATE TABLE IF NOT EXISTS stalls (gpu TEXT, started REAL, ended REAL);
CREATE TABLE IF NOT EXISTS workers (
    run_id TEXT, gpu TEXT, name TEXT, updated REAL, starved REAL, restarts INTEGER,
    PRIMARY KEY (run_id, gpu)) WITHOUT ROWID;
"""
# Columns that tables of older versions lack.
ADDED = {
    "attempts": {"charged": "INTEGER", "start": "INTEGER", "stop": "INTEGER"},
    "files": {"real": "BLOB"},
    "parts": {"given": "REAL", "giver": "TEXT", "taker": "TEXT", "given_stop": "INTEGER"},
}

# Tables that `fresh` empties.
HISTORY = ("files", "steals", "attempts", "parts", "moves", "stalls", "workers")


@dataclass(frozen=True, slots=True)
class Committed:
    """All outputs of the file are in their place."""

    path: str


Change = fa.Fact | Committed


# The input whose result it is, by its name, as long as that is recorded.
NOTE_RESULT = """INSERT OR REPLACE INTO results (name, real)
    SELECT ?, coalesce(real, path) FROM files WHERE path = ?"""


def result_rows(changes: Iterable[Change]) -> list[tuple[bytes, bytes]]:
    """(name, path) of all outputs that are about to be moved to their place."""
    return [
        (_path(name), _path(change.file.path))
        for change in changes
        if isinstance(change, fa.FileCompleted)
        for name in change.outputs
    ]


NOTE_WORKER = """INSERT OR REPLACE INTO workers (run_id, gpu, name, updated, starved, restarts)
    VALUES (?, ?, ?, ?, ?, ?)"""


def worker_rows(run_id: str, run: RunSnapshot, now: float) -> list[tuple[Any, ...]]:
    """What cannot be derived from files, attempts and stalls; `now` is Unix time, in s."""
    return [
        (run_id, worker.gpu, worker.name, now, worker.starved_seconds, worker.restarts)
        for worker in run.workers
    ]


def _text(text: str) -> str:
    """The text with what UTF-8 cannot hold (bytes of file names) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


# A statement, and the parameters of each of its rows.
Writing = tuple[str, Sequence[tuple[Any, ...]]]

_START = "UPDATE files SET state = 'processing', attempt = ?, gpu = ?, started = ? WHERE path = ?"
_END = "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_QUEUE = "UPDATE files SET state = 'queued', attempts = ? WHERE path = ?"
_RETRY = "UPDATE files SET state = 'queued', attempts = ?, error = ? WHERE path = ?"
_COMPLETE = """UPDATE files SET state = ?, attempt = ?, attempts = ?, gpu = ?, started = ?,
    duration = ?, sequences = coalesce(?, sequences), residues = coalesce(?, residues), outputs = ?,
    error = NULL WHERE path = ?"""
_COMMIT = "UPDATE files SET state = 'completed' WHERE path = ?"
_GIVE_UP = "UPDATE files SET state = 'failed', attempts = ?, gpu = ?, error = ? WHERE path = ?"
_STEAL = "INSERT INTO steals VALUES (?, ?, ?, ?)"
_MOVE = "INSERT INTO moves VALUES (?, ?, ?, ?)"
_STALL = "INSERT INTO stalls VALUES (?, ?, NULL)"
_END_STALL = """UPDATE stalls SET ended = ?
    WHERE rowid = (SELECT max(rowid) FROM stalls WHERE gpu = ?) AND ended IS NULL"""


def writing(change: Change, now: float, offset: float) -> Writing | None:  # noqa: C901, PLR0911, PLR0912, RET503 - one line for each kind of change
    """What a change writes, or None.

    Args:
        change: What happened.
        now: Unix seconds.
        offset: Unix seconds minus seconds on the scheduler's clock.
    """
    match change:
        case fa.FileStarted(file, worker_id, attempt):
            if isinstance(file, FilePart):
                return parts.START, [(attempt, worker_id, now, *parts.key(file))]
            return _START, [(attempt, worker_id, now, _path(file.path))]
        case fa.AttemptEnded():
            if change.outcome is fa.Outcome.COMPLETED or change.started_at is None:
                return None  # its time is with the file, or it took none
            return _END, [_ended(change, change.started_at + offset, now)]
        case fa.FileCompleted():
            return _COMPLETE, [_completed(change, now)]
        case Committed(path):
            return _COMMIT, [(_path(path),)]
        case fa.FileSplit():  # what follows happens to few files
            return parts.SPLIT, parts.split_rows(change, now)
        case fa.PartCompleted():
            return parts.COMPLETE, [parts.completed_row(change, now)]
        case fa.FileQueued(file, attempts=attempts, reason=reason):
            if isinstance(file, FilePart):
                return parts.QUEUE, [(attempts, _text(reason), *parts.key(file))]
            if change.is_charged:
                return _RETRY, [(attempts, _text(reason), _path(file.path))]
            return _QUEUE, [(attempts, _path(file.path))]
        case fa.FileFailed(file, worker_id, attempts, error=error):
            return _GIVE_UP, [(attempts, worker_id, _text(error), _path(file.path))]
        case fa.FileStolen(file, victim, thief):
            return _STEAL, [(now, victim, thief, _path(file.path))]
        case fa.PlanChanged(moves):
            return _MOVE, [(now, _path(m.file.path), m.source, m.target) for m in moves]
        case fa.StallStarted(worker_id):
            return _STALL, [(worker_id, now)]
        case fa.StallEnded(worker_id):
            return _END_STALL, [(now, worker_id)]
        case fa.WorkerRestarted() | fa.WorkerRetired() | fa.MemoryRanShort() | fa.RunFinished():
            return None  # the changes of the files imply it
        case _:
            assert_never(change)


# As `os.fsencode` and `os.fsdecode`, which take three times as long: there may be a million rows.
CODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def _path(path: str) -> bytes:
    return path.encode(*CODING)


def _ended(change: fa.AttemptEnded, started: float, now: float) -> tuple[Any, ...]:
    """An attempt without a result cost time, too."""
    file = change.file
    where = (file.start, file.stop) if isinstance(file, FilePart) else (None, None)
    return (
        change.attempt,
        change.worker_id,
        _path(file.path),
        started,
        now,
        change.outcome.value,
        _text(change.reason),
        change.is_charged,
        *where,
    )


def _completed(change: fa.FileCompleted, now: float) -> tuple[Any, ...]:
    """Its outputs are about to be moved to their place; without any it is completed at once."""
    return (
        "committing" if change.outputs else "completed",
        change.attempt,
        change.attempts,
        change.worker_id,
        now - change.duration,  # another attempt may have been the last to start
        change.duration,
        change.sequences,
        change.residues,
        _names(change.outputs),
        _path(change.file.path),
    )


_PLAIN = re.compile(r"[\w.+-]+", re.ASCII).fullmatch


def _names(outputs: tuple[str, ...]) -> str:
    """The names as JSON; one plain name, as most files have it, needs no encoder."""
    name = outputs[0] if len(outputs) == 1 else ""
    if _PLAIN(name):
        return f'["{name}"]'
    return json.dumps(outputs)


def batches(changes: Sequence[Change], now: float, offset: float) -> list[Writing]:
    """What changes write, with as few statements as their order allows.

    Changes of different files and workers may change places; those of one keep their order.

    Args:
        changes: In the order in which they were decided.
        now: Unix seconds.
        offset: Unix seconds minus seconds on the scheduler's clock.
    """
    completed = {
        change.file.path for change in changes if isinstance(change, fa.FileCompleted)
    }  # what this writes covers what their starts would
    made: list[tuple[str, list[tuple[Any, ...]]]] = []
    latest: dict[str, int] = {}  # the last batch of each statement
    touched: dict[object, int] = {}  # the last batch that concerns a file or a worker
    for change in changes:
        if isinstance(change, fa.FileStarted) and change.file.path in completed:
            continue
        written = writing(change, now, offset)
        if written is None:
            continue
        statement, rows = written
        subject = _subject(change)
        index = latest.get(statement, -1)
        if index < touched.get(subject, 0):
            index = latest[statement] = len(made)
            made.append((statement, []))
        made[index][1].extend(rows)
        touched[subject] = index
    return list(made)


def _subject(change: Change) -> object:
    """The file that a change concerns, else its worker."""
    if isinstance(change, Committed):
        return change.path
    file = getattr(change, "file", None)
    return getattr(change, "worker_id", None) if file is None else file.path
