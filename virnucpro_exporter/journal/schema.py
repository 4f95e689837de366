"""The tables of the journal, and what each change writes into them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from virnucpro_exporter.journal.attempts import AttemptWasted
from virnucpro_exporter.scheduling.events import (
    FileCompleted,
    FileFailed,
    FileRetried,
    FileStolen,
    StallEnded,
    StallStarted,
    StartAttempt,
)
from virnucpro_exporter.snapshot import RunSnapshot

# 3: where the paths of files lead, and which input each result is of.
# 2: attempts without a result, stalls, and workers.
SCHEMA_VERSION = 3
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
    error TEXT);
CREATE TABLE IF NOT EXISTS stalls (gpu TEXT, started REAL, ended REAL);
CREATE TABLE IF NOT EXISTS workers (
    run_id TEXT, gpu TEXT, name TEXT, updated REAL, starved REAL, restarts INTEGER,
    PRIMARY KEY (run_id, gpu)) WITHOUT ROWID;
"""
# Columns that tables of older versions lack.
ADDED = {"files": {"real": "BLOB"}}
HISTORY = ("files", "steals", "attempts", "stalls", "workers")  # tables that `fresh` empties


@dataclass(frozen=True, slots=True)
class Committing:
    """The file's result is known, and its outputs are about to be moved to their place."""

    result: FileCompleted
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """All outputs of the file are in their place."""

    path: str


Change = (
    StartAttempt
    | FileRetried
    | FileFailed
    | FileStolen
    | StallStarted
    | StallEnded
    | AttemptWasted
    | Committing
    | Committed
)


# By its name, the input whose result it is, as long as that is remembered.
NOTE_RESULT = """INSERT OR REPLACE INTO results (name, real)
    SELECT ?, coalesce(real, path) FROM files WHERE path = ?"""


def result_rows(changes: Iterable[Change]) -> list[tuple[bytes, bytes]]:
    """(name, path) of all outputs that are about to be moved to their place."""
    return [
        (os.fsencode(name), os.fsencode(change.result.file.path))
        for change in changes
        if isinstance(change, Committing)
        for name in change.names
    ]


NOTE_WORKER = """INSERT OR REPLACE INTO workers (run_id, gpu, name, updated, starved, restarts)
    VALUES (?, ?, ?, ?, ?, ?)"""


def worker_rows(run_id: str, run: RunSnapshot, now: float) -> list[tuple[Any, ...]]:
    """What the journal cannot tell from files, attempts and stalls; `now` is Unix time, in s."""
    return [
        (run_id, worker.gpu, worker.name, now, worker.starved_seconds, worker.restarts)
        for worker in run.workers
    ]


def _text(text: str) -> str:
    """The text with what UTF-8 cannot hold (bytes of file names) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _started(change: StartAttempt, now: float) -> tuple[Any, ...]:
    return change.attempt, change.gpu, now, os.fsencode(change.file.path)


def _retried(change: FileRetried, _now: float) -> tuple[Any, ...]:
    return change.attempts, _text(change.error), os.fsencode(change.file.path)


def _failed(change: FileFailed, _now: float) -> tuple[Any, ...]:
    return change.attempts, change.gpu, _text(change.error), os.fsencode(change.file.path)


def _stolen(change: FileStolen, now: float) -> tuple[Any, ...]:
    return now, change.victim, change.thief, os.fsencode(change.file.path)


def _stall_started(change: StallStarted, now: float) -> tuple[Any, ...]:
    return change.gpu, now


def _stall_ended(change: StallEnded, now: float) -> tuple[Any, ...]:
    return now, change.gpu


def _wasted(change: AttemptWasted, now: float) -> tuple[Any, ...]:
    return (
        change.attempt,
        change.gpu,
        os.fsencode(change.path),
        change.started,
        now,
        change.outcome,
        _text(change.error),
    )


def _committing(change: Committing, now: float) -> tuple[Any, ...]:
    result = change.result
    return (
        result.attempt,
        result.attempts,
        result.gpu,
        # Another attempt may have been the last to start.
        now - result.duration,
        result.duration,
        result.sequences,
        result.residues,
        json.dumps(change.names),
        os.fsencode(result.file.path),
    )


def _committed(change: Committed, _now: float) -> tuple[Any, ...]:
    return (os.fsencode(change.path),)


# By kind of change: the statement, and what makes a row of its parameters.
STATEMENTS: Mapping[type, tuple[str, Callable[[Any, float], tuple[Any, ...]]]] = {
    StartAttempt: (
        "UPDATE files SET state = 'processing', attempt = ?, gpu = ?, started = ? WHERE path = ?",
        _started,
    ),
    FileRetried: (
        "UPDATE files SET state = 'queued', attempts = ?, error = ? WHERE path = ?",
        _retried,
    ),
    FileFailed: (
        "UPDATE files SET state = 'failed', attempts = ?, gpu = ?, error = ? WHERE path = ?",
        _failed,
    ),
    FileStolen: ("INSERT INTO steals VALUES (?, ?, ?, ?)", _stolen),
    StallStarted: ("INSERT INTO stalls VALUES (?, ?, NULL)", _stall_started),
    StallEnded: (
        """UPDATE stalls SET ended = ? WHERE rowid = (SELECT max(rowid) FROM stalls WHERE gpu = ?)
        AND ended IS NULL""",
        _stall_ended,
    ),
    AttemptWasted: ("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)", _wasted),
    Committing: (
        """UPDATE files SET state = 'committing', attempt = ?, attempts = ?, gpu = ?, started = ?,
        duration = ?, sequences = coalesce(?, sequences), residues = coalesce(?, residues),
        outputs = ?, error = NULL WHERE path = ?""",
        _committing,
    ),
    Committed: ("UPDATE files SET state = 'completed' WHERE path = ?", _committed),
}
