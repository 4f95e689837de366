"""The journal: what became of every file, so that a killed run goes on where it ended.

Exactly once, by writing ahead: a file becomes `committing`, with the winning attempt and the names
of its outputs, before the first of them is moved to its place, and `completed` after the last. A
resumed run moves what is left of a `committing` file and never runs it again. Everything that one
turn of the coordinator's loop decides is one transaction.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal import parts
from virnucpro_exporter.journal.schema import (
    ADDED,
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

# A later run learns from so many files: what files cost varies, and so many tell it well enough.
_MOST_RECALLED = 512


# As `os.fsdecode`, which takes three times as long: there may be a million rows.
_CODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class InputFile(NamedTuple):
    """An input file as it is on the disk now: the same file whatever way its path is spelled."""

    path: str
    size: int
    mtime_ns: int
    real: str = ""  # where the path leads; the path itself when empty


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

# What the journal knows of a file: path, size, time, state, sequences, residues and outputs.
_Row = tuple[str, int | None, int | None, str | None, int | None, int | None, str]
_UNKNOWN: _Row = ("", None, None, None, None, None, "[]")


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


def _names_in(outputs: str) -> Sequence[str]:
    """The names in the text of a list; most need no escapes, and can be read faster."""
    is_plain = outputs != "[]" and "\\" not in outputs
    names: Sequence[str] = outputs[2:-2].split('", "') if is_plain else json.loads(outputs)
    return names


class Earlier:
    """What earlier runs have left of the files of this one; may be read from any thread.

    Args:
        rows: What the journal knew of all files, by where their paths lead.
        present: The names in the output folder.
    """

    def __init__(self, rows: Mapping[str, _Row], present: set[str]) -> None:
        self._rows = rows
        self._present = present

    def knows(self, real: str) -> bool:
        """Whether the file at this place has been in an earlier run."""
        return real in self._rows

    def state_of(self, real: str) -> tuple[str | None, str]:
        """How the file at this place stood, None for one that was not known; its outputs."""
        row = self._rows.get(real, _UNKNOWN)
        return row[3], row[6]

    def is_unchanged(self, file: InputFile) -> bool:
        """Whether a file is as the journal knows it."""
        _, size, mtime_ns, *_ = self._rows.get(file.real or file.path, _UNKNOWN)
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
        _, _, _, state, sequences, residues, outputs = self._rows.get(real, _UNKNOWN)
        is_done = state == "completed" and (
            outputs == "[]" or self._present.issuperset(_names_in(outputs))
        )
        return is_done, None if residues is None else (sequences, residues)


# Inputs whose result was replaced by that of another.
_ROBBED = """UPDATE files SET state = 'queued' WHERE state = 'completed' AND EXISTS (
    SELECT 1 FROM json_each(files.outputs) AS output JOIN results
    ON results.name = CAST(output.value AS BLOB) WHERE results.real != files.real)"""


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
            _keep_private(outputs.journal)
            self._database = _connect(outputs)
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
            self._take_over(database)
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

    def _take_over(self, database: sqlite3.Connection) -> None:
        """Bring a journal of an older version up to date; missing tables have been made."""
        (version,) = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        for table, columns in ADDED.items():
            there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            for column, kind in columns.items():
                if column not in there:
                    database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        database.execute("CREATE INDEX IF NOT EXISTS files_by_real ON files (real)")
        if version < 3:
            paths = database.execute(
                "SELECT path FROM files ORDER BY state = 'completed' DESC, started DESC"
            ).fetchall()
            latest: dict[bytes, bytes] = {}
            for (path,) in paths:
                latest.setdefault(os.path.realpath(path), path)
            database.execute("UPDATE files SET real = NULL")
            database.executemany("UPDATE files SET real = ? WHERE path = ?", list(latest.items()))
            database.execute("DELETE FROM files WHERE real IS NULL")  # one file, spelled twice
            # Where two inputs had results of one name, the later one has it.
            owned = database.execute(
                "SELECT real, outputs FROM files WHERE outputs != '[]' ORDER BY started"
            ).fetchall()
            database.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?)",
                [(os.fsencode(n), real) for real, names in owned for n in json.loads(names)],
            )
            database.execute(_ROBBED)
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA_VERSION,))

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
            names: Tells what the results of a file are called, by its path, where that is known.

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
        known = self._known()
        has_inputs = self._protect_inputs()
        with self._writing():
            found = self._database.execute("SELECT 1 FROM results WHERE real IS NOT NULL LIMIT 1")
            self._has_results = found.fetchone() is not None
        self._names = names if self._has_results or has_inputs else None
        self._earlier = Earlier(known, self._outputs.names() if known else set())
        awaited = len(inputs)
        with self._transaction() as database:
            if known:
                awaited -= self._claim_rows(database, known, inputs)
            database.execute("INSERT OR REPLACE INTO meta VALUES ('awaited', ?)", (awaited,))
        for path, real in inputs if self._names else ():
            if known.get(real, _UNKNOWN)[3] != "completed":
                self._refuse_replacing(path, os.fsencode(real))
        return self._earlier

    def _claim_rows(
        self,
        database: sqlite3.Connection,
        known: Mapping[str, _Row],
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
            path = file.path.encode(*_CODING)
            real = file.real or file.path
            bare = path if real == file.path else real.encode(*_CODING)
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

    def _known(self) -> dict[str, _Row]:
        """The rows of all files, by where their paths lead."""
        with self._writing():
            rows = self._database.execute(
                "SELECT path, size, mtime_ns, state, sequences, residues, outputs,"
                " coalesce(real, path) FROM files"
            )
            known: dict[str, _Row] = {}
            for path, size, mtime_ns, state, sequences, residues, outputs, real in rows:
                shown = str(path, *_CODING)
                place = shown if real == path else str(real, *_CODING)
                known[place] = shown, size, mtime_ns, state, sequences, residues, outputs
            return known

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
            # The result was removed, so the input is no longer done, whoever takes its name now.
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
            # Somebody has removed outputs since: the file is done again.
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
        """Let no later run give this number, or a lower one, to an attempt.

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
            # The model of each GPU, as it was seen last.
            models: dict[str | None, str] = dict(
                self._database.execute("SELECT gpu, name FROM workers ORDER BY updated")
            )
            parts: dict[bytes, list[FinishedPart]] = {}
            for real, *cells, gpu in self._database.execute(_FINISHED_PARTS):
                parts.setdefault(real, []).append(
                    FinishedPart._make((*cells, gpu, models.get(gpu)))
                )
            rows = self._database.execute(_FINISHED_FILES)
            for real, path, *rest, gpu, outputs in rows:
                joined = tuple(parts[real]) if real in parts else ()
                names = tuple(_names_in(outputs))
                row = (str(path, *_CODING), *rest, gpu, models.get(gpu), names, joined)
                yield FinishedFile._make(row)

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


def _keep_private(journal: Path) -> None:
    """Let the owner alone read the journal: arguments of commands may be secrets.

    Raises:
        OSError: There can be no such file.
    """
    os.close(os.open(journal, os.O_RDWR | os.O_CREAT, 0o600))
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # somebody else's
            os.chmod(f"{journal}{suffix}", 0o600)  # noqa: PTH101 (a suffix of the name)


def _connect(outputs: Outputs) -> sqlite3.Connection:
    """Open the journal so that others can read it, where processes can share memory.

    Some file systems do not let them, and on a full disk there may be no room for it.

    Raises:
        sqlite3.Error: It cannot be used.
    """
    try:
        return _open(outputs, is_exclusive=False)
    except sqlite3.OperationalError:
        return _open(outputs, is_exclusive=True)


def _open(outputs: Outputs, *, is_exclusive: bool) -> sqlite3.Connection:
    database = sqlite3.connect(outputs.journal, isolation_level=None, check_same_thread=False)
    try:
        if is_exclusive:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        check_schema(database, outputs)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("SELECT 1 FROM sqlite_master")
    except BaseException:
        database.close()
        raise
    return database


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


def may_pass(error: JournalError) -> bool:
    """Whether the journal may take it later: it is locked or its disk is full, but not broken."""
    return isinstance(error.__cause__, sqlite3.OperationalError | OSError)


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
            f"{str(outputs.journal)!r}: {error}; delete it to process all files again, "
            "or choose another --output"
        ) from error
    if row and row[0] > SCHEMA_VERSION:
        raise OutputError(
            f"its journal has schema {row[0]}, but this version supports up to {SCHEMA_VERSION}; "
            "upgrade virnucpro-exporter, or choose another --output"
        )
