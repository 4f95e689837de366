"""Which worker did what, and when, in all recorded runs of an output folder."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from virnucpro_exporter.history import (
    AttemptSpan,
    Outcome,
    RunHistory,
    RunPeriod,
    StallSpan,
    WorkerTotals,
)
from virnucpro_exporter.journal.reader import read_journal, rows
from virnucpro_exporter.snapshot import StealEvent

# Names of the ends of attempts before schema 3.
_OLD_OUTCOMES = {"lost": Outcome.WORKER_LOST}


def outcome_of(value: str) -> Outcome:
    """How an attempt ended, from its name in the journal."""
    return _OLD_OUTCOMES.get(value) or Outcome(value)


def read_history(folder: str | os.PathLike[str], now: float) -> RunHistory:
    """Read the history that the journal of an output folder keeps.

    Args:
        folder: The output folder.
        now: Unix seconds: the end, for now, of what is still going on.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    return read_journal(
        folder, lambda database, is_active: _history(database, folder, now, is_active=is_active)
    )


def _history(
    database: sqlite3.Connection, folder: str | os.PathLike[str], now: float, *, is_active: bool
) -> RunHistory:
    settings = database.execute("SELECT settings FROM runs ORDER BY rowid DESC LIMIT 1")
    runs = _runs(database, now, is_active=is_active)
    failed = database.execute("SELECT path, error FROM files WHERE state = 'failed' ORDER BY path")
    return RunHistory(
        folder=os.fspath(folder),
        is_active=is_active,
        runs=runs,
        attempts=tuple(_attempts(database, runs, is_active=is_active)),
        steals=tuple(
            StealEvent(time, victim, thief, PurePath(os.fsdecode(path)).name)
            for time, victim, thief, path in database.execute(
                "SELECT time, victim, thief, path FROM steals ORDER BY time"
            )
        ),
        stalls=tuple(
            StallSpan(gpu, started, _end_of(started, runs) if ended is None else ended)
            for gpu, started, ended in rows(database, "stalls", "gpu, started, ended")
        ),
        workers=tuple(
            WorkerTotals(*row)
            for row in rows(database, "workers", "run_id, gpu, name, starved, restarts")
        ),
        counts=dict(database.execute("SELECT state, count(*) FROM files GROUP BY state")),
        failed=tuple((os.fsdecode(path), error or "") for path, error in failed),
        settings=json.loads((settings.fetchone() or ("{}",))[0]),
    )


def _runs(database: sqlite3.Connection, now: float, *, is_active: bool) -> tuple[RunPeriod, ...]:
    """Every run that did anything, and the last in any case.

    In the order of their rows: a clock that was set back between two runs does not change it.
    """
    begun = database.execute(
        "SELECT run_id, state, started, ended FROM runs ORDER BY rowid"
    ).fetchall()
    moments = sorted(_moments(database))
    found = []
    for index, (run_id, state, started, ended) in enumerate(begun):
        is_last = index == len(begun) - 1
        until = math.inf if is_last and is_active else now if is_last else begun[index + 1][2]
        if until < started:  # the clock was set back since then
            until = math.inf if ended is None else ended
        seen = moments[bisect_left(moments, started) : bisect_right(moments, until)]
        if not (seen or is_last):
            continue
        if is_last and is_active:  # another machine's clock may be behind that of the run
            end = max(now, seen[-1] if seen else started)
        elif ended is not None:
            end = ended
        else:
            end = seen[-1] if seen else started
        was_killed = state == "running" and not (is_last and is_active)
        found.append(RunPeriod(run_id, "interrupted" if was_killed else state, started, end))
    return tuple(found)


def _moments(database: sqlite3.Connection) -> Iterator[float]:
    """All times at which a run is known to have been active."""
    for started, duration in database.execute("SELECT started, duration FROM files"):
        if started is not None:
            yield started
            if duration is not None:
                yield started + duration
    for started, duration in rows(database, "parts", "started, duration"):
        yield from () if started is None else (started, started + (duration or 0.0))
    yield from (time for (time,) in database.execute("SELECT time FROM steals"))
    for table, columns in (
        ("attempts", "started, ended"),
        ("stalls", "started, ended"),
        ("workers", "updated"),
    ):
        for row in rows(database, table, columns):
            yield from (moment for moment in row if moment is not None)


def _attempts(
    database: sqlite3.Connection, runs: Sequence[RunPeriod], *, is_active: bool
) -> Iterator[AttemptSpan]:
    noted = set()
    columns = "attempt, gpu, path, started, ended, outcome, error, charged, start"
    for number, gpu, path, started, ended, outcome, error, charged, start in rows(
        database, "attempts", columns
    ):
        noted.add(number)
        begin = float(started)
        yield AttemptSpan(
            gpu,
            os.fsdecode(path),
            begin,
            _end_of(begin, runs) if ended is None else float(ended),
            outcome_of(outcome),
            error=error or "",
            is_charged=None if charged is None else bool(charged),
            is_part=start is not None,
        )
    last = runs[-1].started if runs else 0.0
    split = set()
    for path, number, span in _parts(database, runs, last, is_active=is_active):
        split.add(path)
        if number not in noted:
            noted.add(number)
            yield span
    for number, gpu, path, started, duration, state, sequences, residues in database.execute(
        "SELECT attempt, gpu, path, started, duration, state, sequences, residues FROM files"
        " WHERE state IN ('completed', 'committing', 'processing') AND started IS NOT NULL"
    ):
        is_join = path in split
        if state != "processing":
            yield AttemptSpan(
                gpu,
                os.fsdecode(path),
                started,
                started + (duration or 0.0),
                Outcome.COMPLETED,
                0 if is_join else sequences,
                residues=0 if is_join else residues,
                is_join=is_join,
            )
        elif number not in noted:
            runs_on = is_active and started >= last
            fate = Outcome.RUNNING if runs_on else Outcome.INTERRUPTED
            end = _end_of(started, runs)
            yield AttemptSpan(gpu, os.fsdecode(path), started, end, fate, is_join=is_join)


def _parts(
    database: sqlite3.Connection, runs: Sequence[RunPeriod], last: float, *, is_active: bool
) -> Iterator[tuple[bytes, int, AttemptSpan]]:
    """The attempts at parts of files that were split, with the file and the attempt's number."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'parts'").fetchone():
        return  # an older version wrote it
    found = database.execute(
        "SELECT files.path, parts.attempt, parts.gpu, parts.started, parts.duration, parts.state,"
        " parts.sequences, parts.residues FROM parts"
        " JOIN files ON coalesce(files.real, files.path) = parts.real"
    )
    for path, number, gpu, started, duration, state, sequences, residues in found:
        if started is None or state not in ("completed", "processing"):
            continue
        is_done = state == "completed"
        fate = Outcome.RUNNING if is_active and started >= last else Outcome.INTERRUPTED
        yield (
            path,
            number,
            AttemptSpan(
                gpu,
                os.fsdecode(path),
                started,
                started + (duration or 0.0) if is_done else _end_of(started, runs),
                Outcome.COMPLETED if is_done else fate,
                sequences if is_done else None,
                residues=residues if is_done else None,
                is_part=True,
            ),
        )


def _end_of(moment: float, runs: Sequence[RunPeriod]) -> float:
    """The end of the run to which a moment belongs."""
    begun = (run for run in runs if run.started <= moment)
    latest = max(begun, key=lambda run: run.started, default=None)
    return moment if latest is None else max(moment, latest.ended)
