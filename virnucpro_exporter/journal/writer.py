"""The journal: the state of every file, so that a killed run continues where it ended.

Exactly once, by writing ahead: a file becomes `committing`, with the winning attempt and the names
of its outputs, before the first of them is moved to its place, and `completed` after the last. A
resumed run moves what is left of a `committing` file and never runs it again. Everything that one
turn of the coordinator's loop decides is one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal import parts
from virnucpro_exporter.journal.database import connect, keep_private, take_over
from virnucpro_exporter.journal.earlier import UNKNOWN, Earlier, InputFile, Resumed, Row, known_rows
from virnucpro_exporter.journal.finished import FinishedFile, finished_files
from virnucpro_exporter.journal.schema import (
    CODING,
    HISTORY,
    NOTE_RESULT,
    NOTE_WORKER,
    SCHEMA,
    SCHEMA_VERSION,
    Change,
    batches,
    result_rows,
    worker_rows,
)
from virnucpro_exporter.scheduling.facts import FileStarted
from virnucpro_exporter.scheduling.speed import DoneBefore
from virnucpro_exporter.snapshot import RunSnapshot
from virnucpro_exporter.stores.urls import is_url

# So many numbers of attempts are kept at once.
_RESERVED = 1000

# A later run learns from so many files: what files cost varies, and so many suffice to estimate it.
_MOST_RECALLED = 512


class Journal:
    """The journal of one output folder; one thread at a time, and only under the folder's lock.

    Args:
        outputs: The folder, prepared.
        fresh: Forget the files of earlier runs; their outputs stay until they are replaced.
        does_parts: Whether the processor may go on with parts; else their files are done anew.

    Raises:
        OutputError: What is there is not a journal, or a newer version wrote it.
        JournalError: It cannot be written.
    """

    def __init__(self, outputs: Outputs, *, fresh: bool = False, does_parts: bool = True) -> None:
        self._outputs = outputs
        self._does_parts = does_parts
        self._run_id = ""
        self._reserved = 0  # no later run gives an attempt a number up to this
        self._has_results = False  # of other inputs, in earlier runs
        self._is_same_processor = False  # as that of earlier runs
        self._names: Callable[[str], Sequence[str]] | None = None  # where one may be replaced
        self._earlier = Earlier({}, set())
        with self._writing():
            keep_private(outputs.journal)
            self._database = connect(outputs)
        try:
            self._set_up(fresh=fresh)
        except BaseException:
            self._database.close()
            raise

    def _set_up(self, *, fresh: bool) -> None:
        with self._writing():
            self._make_room()
            # Flushed at checkpoints: a killed process loses nothing, a power cut the last moments.
            self._database.execute("PRAGMA synchronous = NORMAL")
        # All in one, so that a run that is killed meanwhile leaves all tables or none.
        with self._transaction() as database:
            for statement in filter(str.strip, SCHEMA.split(";")):
                database.execute(statement)
            database.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema', ?), ('last_attempt', 0)",
                (SCHEMA_VERSION,),
            )
            take_over(database)
            if fresh:
                for table in HISTORY:
                    database.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
                # What is in the folder are results all the same, never inputs.
                database.execute("UPDATE results SET real = NULL")

    def _make_room(self) -> None:
        """Remove what dead runs left before anything is written: the disk may be full of it."""
        if self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
            rows = self._database.execute("SELECT attempt FROM files WHERE state = 'committing'")
            self._outputs.clean(keep={attempt for (attempt,) in rows} | parts.done(self._database))

    def agree(self, processor: str, *, keep: bool) -> None:
        """Make sure that this run would not take another processor's results for its own.

        Args:
            processor: The processor, with all that its results depend on.
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
                    f"{self._outputs.shown!r} holds results of {finished} files by {before[0]}, "
                    f"but this run uses {processor}: choose another folder, or add --fresh to "
                    "process all files again, or --resume to keep the finished results"
                )
            if before is not None and before[0] != processor:
                database.execute("DELETE FROM parts")  # one file, one processor
            database.execute("INSERT OR REPLACE INTO meta VALUES ('processor', ?)", (processor,))
        self._is_same_processor = before is not None and before[0] == processor

    def begin(self, run_id: str, settings: Mapping[str, Any], now: float) -> None:
        """Note that a run starts, at `now` (Unix time, s)."""
        self._run_id = run_id
        with self._transaction() as database:
            database.execute("UPDATE runs SET state = 'interrupted' WHERE state = 'running'")
            database.execute(
                "INSERT INTO runs VALUES (?, ?, NULL, 'running', ?)",
                (run_id, now, json.dumps(settings)),
            )

    def plan(
        self, files: Sequence[InputFile], names: Callable[[str], Sequence[str]] = lambda _: ()
    ) -> Resumed:
        """Finish what a killed run was committing, and see which files are still to do.

        Args:
            files: The files of this run.
            names: Returns the names of a file's results, by its path, where that is known.

        Raises:
            JournalError: The journal cannot be written.
            OutputError: An output cannot be moved to its place, or would replace that of another
                input.
        """
        earlier = self.begin_plan([(file.path, file.real or file.path) for file in files], names)
        standings = [(file, *earlier.standing(file)) for file in files]
        left = [file for file, is_done, _ in standings if not is_done]
        self.plan_more(left)
        self.end_plan()
        return Resumed(
            frozenset(file.path for file, is_done, _ in standings if is_done),
            frozenset(
                f.path for f in left if earlier.state_of(f.real or f.path)[0] == "processing"
            ),
            {file.path: counts for file, _, counts in standings if counts is not None},
        )

    def begin_plan(
        self,
        inputs: Sequence[tuple[str, str]],
        names: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> Earlier:
        """Finish what a killed run was committing, before the files of this run were looked at.

        `plan_more` has to be called with every one of them that is not done, then `end_plan`.

        Args:
            inputs: The path of each file of this run, and where it leads.
            names: As for `plan`.

        Returns:
            What earlier runs have left of these files.

        Raises:
            JournalError: The journal cannot be written.
            OutputError: An output cannot be moved to its place, or would replace that of another
                input.
        """
        self._finish_commits()
        with self._writing():
            for attempt in parts.kept(self._database):
                self._outputs.keep(attempt)
        self._outputs.clean()
        with self._writing():
            known = known_rows(self._database)
        has_inputs = self._protect_inputs()
        with self._writing():
            found = self._database.execute("SELECT 1 FROM results WHERE real IS NOT NULL LIMIT 1")
            self._has_results = found.fetchone() is not None
        self._names = names if self._has_results or has_inputs else None
        self._earlier = Earlier(known, self._outputs.names() if known else set())
        for path, real in inputs if self._names else ():  # a run that is refused changes nothing
            if known.get(real, UNKNOWN)[3] != "completed":
                self._refuse_replacing(path, os.fsencode(real))
        awaited = len(inputs)
        with self._transaction() as database:
            if known:
                awaited -= self._claim_rows(database, known, inputs)
            database.execute("INSERT OR REPLACE INTO meta VALUES ('awaited', ?)", (awaited,))
        return self._earlier

    def _claim_rows(
        self,
        database: sqlite3.Connection,
        known: Mapping[str, Row],
        inputs: Iterable[tuple[str, str]],
    ) -> int:
        """Bring the rows of all files in line with the inputs of this run.

        Returns:
            How many of the inputs have a row.
        """
        database.execute(
            "INSERT OR IGNORE INTO attempts (attempt, gpu, path, started, outcome)"
            " SELECT attempt, gpu, path, started, 'interrupted' FROM files"
            " WHERE state = 'processing' AND attempt IS NOT NULL"
            " AND attempt NOT IN (SELECT attempt FROM parts WHERE attempt IS NOT NULL)"
        )
        database.execute(parts.INTERRUPTED)
        database.execute("UPDATE parts SET state = 'queued' WHERE state = 'processing'")
        database.execute("UPDATE files SET state = 'queued' WHERE state = 'processing'")
        left = dict(known)
        respelled, new, tried_again = [], [], []
        for path, real in inputs:
            row = left.pop(real, None)
            if row is None:
                new.append((os.fsencode(path), os.fsencode(real)))
                continue
            if row[0] != path:
                respelled.append((os.fsencode(path), os.fsencode(real)))
            if row[3] == "failed":
                tried_again.append((os.fsencode(path),))
        _respell(database, respelled, new)
        database.executemany("UPDATE files SET state = 'queued' WHERE path = ?", tried_again)
        database.executemany(
            "UPDATE files SET state = 'gone' WHERE path = ?",
            [
                (os.fsencode(path),)
                for real, (path, _, _, state, *_) in left.items()
                if state in ("queued", "processing", "failed")
                and not (is_url(real) or os.path.lexists(real))
            ],
        )
        return len(known) - len(left)

    def plan_more(self, files: Sequence[InputFile]) -> dict[str, tuple[parts.Standing, ...]]:
        """Note that files of this run are to be done.

        Args:
            files: Files that were named to `begin_plan` and are not done, each of them once.

        Returns:
            The parts of those of which earlier runs have done some, by path.

        Raises:
            JournalError: The journal cannot be written; the same files may be given again.
            OutputError: A result would replace that of another input.
        """
        rows: list[tuple[bytes | int | str | None, ...]] = []
        known = 0
        for file in files:
            path = file.path.encode(*CODING)
            real = file.real or file.path
            bare = path if real == file.path else real.encode(*CODING)
            if not self._earlier.knows(real):
                rows.append((path, file.size, file.mtime_ns, None, None, "[]", bare))
                continue
            known += 1
            state, outputs = self._earlier.state_of(real)
            _, counts = self._earlier.standing(file)
            if state == "completed" and self._names:  # it has changed since
                self._refuse_replacing(file.path, bare)
            rows.append((path, file.size, file.mtime_ns, *(counts or (None, None)), outputs, bare))
        with self._transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO files"
                " (path, size, mtime_ns, state, sequences, residues, outputs, real)"
                " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?)",
                rows,
            )
            database.execute(
                "UPDATE meta SET value = value - ? WHERE key = 'awaited'", (len(files) - known,)
            )
        return self._begun_among(files)

    def _begun_among(self, files: Sequence[InputFile]) -> dict[str, tuple[parts.Standing, ...]]:
        """Those of the files of which parts are done; what is left of any other is forgotten."""
        with self._writing():
            known = parts.reals(self._database)
        if not known:
            return {}
        by_real = {os.fsencode(file.real or file.path): file for file in files}
        split = [real for real in by_real if real in known]
        begun = {}
        for real in split:
            file = by_real[real]
            found: tuple[parts.Standing, ...] = ()
            with self._transaction() as database:
                if self._does_parts and self._earlier.is_unchanged(file):
                    found = parts.read(database, real, file.path, self._outputs.attempts)
                unwanted = parts.rewrite(database, real, found)
            for attempt in unwanted:
                self._outputs.discard(attempt)
            if found:
                begun[file.path] = found
        return begun

    def end_plan(self) -> None:
        """Forget what earlier runs have left, which takes some hundred bytes a file."""
        self._earlier, self._names = Earlier({}, set()), None

    def _protect_inputs(self) -> bool:
        """Keep the inputs of earlier runs that lie in the output folder; whether there are some."""
        begin = os.fsencode(self._outputs.prefix)
        end = begin[:-1] + bytes([begin[-1] + 1])
        with self._writing():
            inside = self._database.execute(
                "SELECT real, path FROM files WHERE real > ? AND real < ?", (begin, end)
            ).fetchall()
        for real, path in inside:
            self._outputs.protect(os.fsdecode(real), os.fsdecode(path))
        return bool(inside)

    def _refuse_replacing(self, path: str, real: bytes) -> None:
        """Refuse results of a file that would replace what is no earlier result of it."""
        for name in self._names(path) if self._names else ():
            owner = self._owner(name, real)
            if owner is not None:
                raise OutputError(
                    f"'{self._outputs.shown}/{name}' is the result of {owner!r}, which the result "
                    f"of {path!r} would replace; choose another --output, or add --fresh to "
                    "discard the earlier results"
                )
            why = self._outputs.refusal(name)
            if why is not None:
                raise OutputError(f"{path!r}: {why}")

    def refusal(self, name: str, path: str) -> str | None:
        """Why a result of a file may not have a name: it would replace one of an earlier run.

        Args:
            name: The result.
            path: The file, of this run.
        """
        if not self._has_results:
            return None
        with self._writing():
            (real,) = self._database.execute(
                "SELECT coalesce(real, path) FROM files WHERE path = ?", (os.fsencode(path),)
            ).fetchone()
        owner = self._owner(name, real)
        return None if owner is None else f"{name!r} is already the result of {owner!r}"

    def _owner(self, name: str, real: bytes) -> str | None:
        """The other input whose result is in the folder under this name, or None."""
        with self._writing():
            row = self._database.execute(
                "SELECT real FROM results WHERE name = ? AND real != ?", (os.fsencode(name), real)
            ).fetchone()
        if row is None:
            return None
        if self._outputs.has(name):
            return os.fsdecode(row[0])
        with self._transaction() as database:
            # The result was removed, so the input is no longer done, whichever file uses its name.
            database.execute("DELETE FROM results WHERE name = ?", (os.fsencode(name),))
            database.execute(
                "UPDATE files SET state = 'queued' WHERE state = 'completed' AND real = ?", row
            )
        return None

    def _finish_commits(self) -> None:
        with self._writing():
            rows = self._database.execute(
                "SELECT path, attempt, outputs FROM files WHERE state = 'committing'"
            ).fetchall()
        if not rows:
            return
        states = []
        for path, attempt, outputs in rows:
            names = json.loads(outputs)
            folder = self._outputs.attempt_folder(attempt)
            # Where it was comes first: a worker that outlives the run for a moment may move it.
            # Outputs were removed since: the file is done again.
            is_whole = all(
                os.path.lexists(folder / name) or self._outputs.has(name) for name in names
            )
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

    def reserve_attempts(self, number: int) -> None:
        """Prevent later runs from giving this number, or a lower one, to an attempt.

        Raises:
            JournalError: It cannot be written.
        """
        if number <= self._reserved:
            return
        with self._transaction() as database:
            reserved = number + _RESERVED
            database.execute(
                "UPDATE meta SET value = max(value, ?) WHERE key = 'last_attempt'", (reserved,)
            )
        self._reserved = reserved

    def done_before(self) -> list[DoneBefore]:
        """Some of the files that earlier runs did with this processor, none where it is another."""
        if not self._is_same_processor:
            return []
        with self._writing():
            return [
                DoneBefore(*row)
                for row in self._database.execute(
                    "SELECT gpu, sequences, residues, duration FROM files WHERE gpu IS NOT NULL"
                    " AND state = 'completed' AND residues > 0 AND duration > 0"
                    " AND coalesce(real, path) NOT IN (SELECT real FROM parts) UNION ALL"
                    " SELECT gpu, sequences, residues, duration FROM parts WHERE gpu IS NOT NULL"
                    " AND state = 'completed' AND residues > 0 AND duration > 0 LIMIT ?",
                    (_MOST_RECALLED,),
                )
            ]

    def add_counts(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Keep exact (sequences, residues) by path, so that a resumed run need not count again."""
        rows = [(*count, os.fsencode(path)) for path, count in counts.items()]
        with self._transaction() as database:
            database.executemany(
                "UPDATE files SET sequences = ?, residues = ? WHERE path = ?", rows
            )

    def record(self, changes: Iterable[Change], now: float, offset: float = 0.0) -> None:
        """Write, in one transaction, what one turn of the loop decided.

        Args:
            changes: In the order in which they were decided.
            now: Unix seconds.
            offset: Unix seconds minus seconds on the clock of the facts.

        Raises:
            JournalError: Nothing of it was written; no output may be moved.
        """
        changes = list(changes)
        starts = (change.attempt for change in changes if isinstance(change, FileStarted))
        last_attempt = max(starts, default=0)
        with self._transaction() as database:
            for statement, rows in batches(changes, now, offset):
                database.executemany(statement, rows)
            if results := result_rows(changes):
                database.executemany(NOTE_RESULT, results)
            database.execute(
                "UPDATE meta SET value = max(value, ?) WHERE key = 'last_attempt'", (last_attempt,)
            )

    def finished(self) -> Iterator[FinishedFile]:
        """All files that have their results, of this run and of earlier ones."""
        with self._writing():
            yield from finished_files(self._database)

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
                "fix this (is the disk full?), then run the same command again to resume"
            ) from error


def _respell(
    database: sqlite3.Connection,
    known: Sequence[tuple[bytes, bytes]],
    new: Sequence[tuple[bytes, bytes]],
) -> None:
    """Show files by the paths that this run was given.

    A relative path may have meant another file when the program was started elsewhere: that one is
    shown by where it leads from now on.

    Args:
        database: In a transaction.
        known: (path, where it leads) of files that have had other paths.
        new: Likewise, of files that get a new row.
    """
    # Two files may have changed names, so all make room before the first gets its own.
    make_room = "UPDATE OR REPLACE files SET path = real WHERE path = ? AND real != ?"
    database.executemany(
        "UPDATE OR REPLACE files SET path = real WHERE real = ?", [(real,) for _, real in known]
    )
    database.executemany(make_room, [*known, *new])
    database.executemany("UPDATE files SET path = ? WHERE real = ?", known)
