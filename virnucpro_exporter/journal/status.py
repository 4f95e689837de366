"""Progress of the run in an output folder, as recorded in its journal."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from virnucpro_exporter.journal.ranges import Range, all_ranges
from virnucpro_exporter.journal.reader import read_journal


@dataclass(frozen=True, slots=True)
class GpuTotals:
    """What one worker has completed.

    Attributes:
        gpu: The worker.
        files: Files completed.
        sequences: Sequences in them, or None when not all are known.
        seconds: Time spent on them.
        residues: Residues in them, or None when not all are known.
        parts: Parts of files completed, whose sequences, residues and seconds count, too.
    """

    gpu: str
    files: int
    sequences: int | None
    seconds: float
    residues: int | None = None
    parts: int = 0


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that is done in parts and has no result yet.

    Attributes:
        path: The file.
        parts: Its parts, in order.
    """

    path: str
    parts: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The last run in an output folder, and all files in the journal.

    Attributes:
        is_active: A run is going on now.
        run_id: Which run is the last one.
        state: How it ended, `running`, or `interrupted` when its process is gone.
        started: When it began (Unix time, s).
        ended: When it ended, or None.
        settings: What it was started with.
        counts: How many files stand in each state; a state without files is absent. Files that the
            run has not looked at yet are queued.
        failed: (path, error) of the files given up.
        gpus: Totals by worker; a file that was done in parts counts for the one that joined them.
        steals: How often a file changed queues.
        parts: How many parts of files stand in each state; a state without parts is absent.
        shared: The files that are done in parts and have no result yet.
        was_killed: It is `interrupted` because its process is gone.
    """

    is_active: bool
    run_id: str
    state: str
    started: float | None
    ended: float | None
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    failed: tuple[tuple[str, str], ...]
    gpus: tuple[GpuTotals, ...]
    steals: int
    parts: Mapping[str, int] = field(default_factory=dict)
    shared: tuple[SharedFile, ...] = ()
    was_killed: bool = False


def read_status(folder: str | os.PathLike[str]) -> RunStatus:
    """Read the journal of an output folder.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    return read_journal(folder, status_of)


def status_of(database: sqlite3.Connection, is_active: bool) -> RunStatus:  # noqa: FBT001 - a `Reader`
    """The status, as a journal has it; `is_active` where a run goes on."""
    run_id, state, started, ended, settings = database.execute(
        "SELECT run_id, state, started, ended, settings FROM runs ORDER BY rowid DESC LIMIT 1"
    ).fetchone()
    was_killed = state == "running" and not is_active
    if was_killed:
        state = "interrupted"
    failed = database.execute("SELECT path, error FROM files WHERE state = 'failed' ORDER BY path")
    split = dict(all_ranges(database))
    totals = _TOTALS.format(_UNITS if split else _FILES)
    counts = Counter(dict(database.execute("SELECT state, count(*) FROM files GROUP BY state")))
    awaited = database.execute("SELECT value FROM meta WHERE key = 'awaited' AND value").fetchone()
    if awaited:
        counts["queued"] += awaited[0]
    return RunStatus(
        is_active=is_active,
        run_id=run_id,
        state=state,
        started=started,
        ended=ended,
        settings=json.loads(settings),
        counts=counts,
        failed=tuple((os.fsdecode(path), error) for path, error in failed),
        gpus=tuple(GpuTotals(*row) for row in database.execute(totals)),
        steals=database.execute("SELECT count(*) FROM steals").fetchone()[0],
        parts=Counter(part.state for parts in split.values() for part in parts),
        shared=tuple(_shared(database, split)),
        was_killed=was_killed,
    )


# Of whole files, of joins, whose sequences count with the parts, and of parts.
_UNITS = """(SELECT gpu, 1 AS files, 0 AS parts, sequences, duration, residues
    FROM files WHERE state = 'completed' AND coalesce(real, path) NOT IN (SELECT real FROM parts)
    UNION ALL SELECT gpu, 1, 0, 0, duration, 0 FROM files
    WHERE state = 'completed' AND coalesce(real, path) IN (SELECT real FROM parts)
    UNION ALL SELECT gpu, 0, 1, sequences, duration, residues
    FROM parts WHERE state = 'completed')"""
_FILES = """(SELECT gpu, 1 AS files, 0 AS parts, sequences, duration, residues
    FROM files WHERE state = 'completed')"""  # where an older version may know of no parts
_TOTALS = """SELECT gpu, sum(files),
    CASE WHEN count(*) = count(sequences) THEN sum(sequences) END, sum(duration),
    CASE WHEN count(*) = count(residues) THEN sum(residues) END, sum(parts)
    FROM {} GROUP BY gpu ORDER BY gpu"""


def _shared(
    database: sqlite3.Connection, split: Mapping[bytes, tuple[Range, ...]]
) -> Iterator[SharedFile]:
    for real, parts in split.items():
        path = database.execute(
            "SELECT path FROM files WHERE coalesce(real, path) = ? AND state != 'completed'",
            (real,),
        ).fetchone()
        if path is not None:
            yield SharedFile(os.fsdecode(path[0]), parts)
