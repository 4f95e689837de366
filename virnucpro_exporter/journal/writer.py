"""The journal: what became of every file, so that a killed run goes on where it ended.

Exactly once, by writing ahead: a file becomes `committing`, with the winning attempt and the names
of its outputs, before the first of them is moved to its place, and `completed` after the last. A
resumed run moves what is left of a `committing` file and never runs it again. Everything that one
turn of the coordinator's loop decides is one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.schema import (
    HISTORY,
    NOTE_WORKER,
    SCHEMA,
    SCHEMA_VERSION,
    STATEMENTS,
    Change,
    worker_rows,
)
from virnucpro_exporter.scheduling.events import StartAttempt
from virnucpro_exporter.snapshot import RunSnapshot


class Source(NamedTuple):
    """An input file as it is on the disk now."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """What earlier runs know of the files of this one.

    Attributes:
        done: Files that are finished: unchanged since, and their outputs are in place.
        interrupted: Files that were in process when the last run ended.
        counts: Exact (sequences, residues) of unchanged files; None where unknown.
    """

    done: frozenset[str]
    interrupted: frozenset[str]
    counts: Mapping[str, tuple[int | None, int]]


class Journal:
    """The journal of one output folder; one thread at a time, and only under the folder's lock.

    Args:
        outputs: The folder, prepared.
        fresh: Forget the files of earlier runs; their outputs stay until they are replaced.

    Raises:
        OutputError: What is there is not a journal, or a newer version wrote it.
        JournalError: It cannot be written.
    """

    def __init__(self, outputs: Outputs, *, fresh: bool = False) -> None:
        self._outputs = outputs
        self._run_id = ""
        with self._writing():
            self._database = sqlite3.connect(
                outputs.journal, isolation_level=None, check_same_thread=False
            )
        try:
            self._set_up(fresh=fresh)
        except BaseException:
            self._database.close()
            raise

    def _set_up(self, *, fresh: bool) -> None:
        with self._writing():
            check_schema(self._database, self._outputs)
            self._database.execute("PRAGMA journal_mode = WAL")
            # Flushed at checkpoints: a killed process loses nothing, a power cut the last moments.
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(SCHEMA)
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema', ?), ('last_attempt', 0)",
                (SCHEMA_VERSION,),
            )
            # What older versions lack, the statements above have added.
            database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA_VERSION,))
            if fresh:
                for table in HISTORY:
                    database.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own

    def agree(self, processor: str, *, keep: bool) -> None:
        """Make sure that this run would not take another processor's results for its own.

        Args:
            processor: What is done to a file, with all that its results depend on.
            keep: Results of another processor count as finished all the same.

        Raises:
            OutputError: Files were finished by another processor, and are not to be kept.
        """
        with self._transaction() as database:
            before = database.execute("SELECT value FROM meta WHERE key = 'processor'").fetchone()
            finished = database.execute(
                "SELECT count(*) FROM files WHERE state IN ('completed', 'committing')"
            ).fetchone()[0]
            if before is not None and before[0] != processor and finished and not keep:
                raise OutputError(
                    f"{str(self._outputs.folder)!r} holds results of {finished} files done by "
                    f"{before[0]}, and this run would use {processor}: name another folder, or "
                    "give --fresh to do all files again, or --resume to keep what is finished"
                )
            database.execute("INSERT OR REPLACE INTO meta VALUES ('processor', ?)", (processor,))

    def begin(self, run_id: str, settings: Mapping[str, Any], now: float) -> None:
        """Note that a run starts, at `now` (Unix time, s)."""
        self._run_id = run_id
        with self._transaction() as database:
            database.execute("UPDATE runs SET state = 'interrupted' WHERE state = 'running'")
            database.execute(
                "INSERT INTO runs VALUES (?, ?, NULL, 'running', ?)",
                (run_id, now, json.dumps(settings)),
            )

    def plan(self, files: Sequence[Source]) -> Resumed:
        """Finish what a killed run was committing, and see which files are still to do.

        Raises:
            JournalError: The journal cannot be written.
            OutputError: An output cannot be moved to its place.
        """
        self._finish_commits()
        self._outputs.clean()
        with self._writing():
            rows = {
                row[0]: row[1:]
                for row in self._database.execute(
                    "SELECT path, size, mtime_ns, state, sequences, residues, outputs FROM files"
                )
            }
        present = self._outputs.names()
        done, interrupted, counts, new = set(), set(), {}, []
        for file in files:
            size, mtime_ns, state, sequences, residues, outputs = rows.get(
                os.fsencode(file.path), (None,) * 6
            )
            is_unchanged = (size, mtime_ns) == (file.size, file.mtime_ns)
            if is_unchanged and residues is not None:
                counts[file.path] = (sequences, residues)
            if is_unchanged and state == "completed" and present.issuperset(json.loads(outputs)):
                done.add(file.path)
                for name in json.loads(outputs):
                    self._outputs.claim(name, file.path)
                continue
            if state == "processing":
                interrupted.add(file.path)
            known = counts.get(file.path, (None, None))
            new.append((os.fsencode(file.path), file.size, file.mtime_ns, "queued", *known))
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO attempts"
                " SELECT attempt, gpu, path, started, NULL, 'interrupted', NULL FROM files"
                " WHERE state = 'processing'"
            )
            database.executemany(
                "INSERT OR REPLACE INTO files (path, size, mtime_ns, state, sequences, residues)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                new,
            )
        return Resumed(frozenset(done), frozenset(interrupted), counts)

    def _finish_commits(self) -> None:
        with self._writing():
            rows = self._database.execute(
                "SELECT path, attempt, outputs FROM files WHERE state = 'committing'"
            ).fetchall()
        present = self._outputs.names()
        states = []
        for path, attempt, outputs in rows:
            names = json.loads(outputs)
            folder = self._outputs.attempt_folder(attempt)
            # Somebody has removed outputs since: the file is done again.
            is_whole = all(name in present or (folder / name).exists() for name in names)
            if is_whole:
                self._outputs.commit(attempt, names)
            states.append(("completed" if is_whole else "queued", path))
        with self._transaction() as database:
            database.executemany("UPDATE files SET state = ? WHERE path = ?", states)

    def next_attempt(self) -> int:
        """The first number that no attempt of any run in this folder has had."""
        with self._writing():
            (last,) = self._database.execute(
                "SELECT value FROM meta WHERE key = 'last_attempt'"
            ).fetchone()
            return int(max(last, *self._outputs.left_attempts(), 0)) + 1

    def add_counts(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Keep exact (sequences, residues) by path, so that a resumed run need not count again."""
        rows = [(*count, os.fsencode(path)) for path, count in counts.items()]
        with self._transaction() as database:
            database.executemany(
                "UPDATE files SET sequences = ?, residues = ? WHERE path = ?", rows
            )

    def record(self, changes: Iterable[Change], now: float) -> None:
        """Write, in one transaction, what one turn of the loop decided at `now` (Unix time, s).

        Raises:
            JournalError: Nothing of it was written; no output may be moved.
        """
        changes = list(changes)
        starts = (change.attempt for change in changes if isinstance(change, StartAttempt))
        last_attempt = max(starts, default=0)
        with self._transaction() as database:
            # Runs of one kind, not all of one kind: a file may be retried and started in one turn.
            for kind, run in groupby(changes, key=type):
                statement, to_row = STATEMENTS[kind]
                database.executemany(statement, [to_row(change, now) for change in run])
            database.execute(
                "UPDATE meta SET value = max(value, ?) WHERE key = 'last_attempt'", (last_attempt,)
            )

    def note_workers(self, run: RunSnapshot, now: float) -> None:
        """Keep how long each worker has starved so far; `now` is Unix time, in seconds."""
        with self._transaction() as database:
            database.executemany(NOTE_WORKER, worker_rows(self._run_id, run, now))

    def finish(self, state: str, now: float) -> None:
        """Note how the run ended, at `now` (Unix time, s)."""
        with self._transaction() as database:
            database.execute(
                "UPDATE runs SET ended = ?, state = ? WHERE run_id = ?", (now, state, self._run_id)
            )

    def close(self) -> None:
        """Close the database."""
        with self._writing():
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # a full disk has rolled it back already
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"{str(self._outputs.journal)!r}: {error}; "
                "mend that (is the disk full?), then run the same command again to resume"
            ) from error


def check_schema(database: sqlite3.Connection, outputs: Outputs) -> None:
    """Refuse what is not a journal, or one that a newer version wrote; an empty file will do.

    Raises:
        OutputError: It cannot be used.
        sqlite3.OperationalError: It cannot be read now.
    """
    try:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return
        row = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise OutputError(
            f"{str(outputs.journal)!r}: {error}; delete it to do all files again, "
            "or choose another --output"
        ) from error
    if row and row[0] > SCHEMA_VERSION:
        raise OutputError(
            f"its journal has schema {row[0]}, this version knows {SCHEMA_VERSION}; "
            "upgrade virnucpro-exporter, or choose another --output"
        )
