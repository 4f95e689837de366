"""The journal's database: opened, private, of this version."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path

from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.schema import ADDED, SCHEMA_VERSION

# Inputs whose result was replaced by that of another.
_ROBBED = """UPDATE files SET state = 'queued' WHERE state = 'completed' AND EXISTS (
    SELECT 1 FROM json_each(files.outputs) AS output JOIN results
    ON results.name = CAST(output.value AS BLOB) WHERE results.real != files.real)"""


def keep_private(journal: Path) -> None:
    """Make the journal readable by its owner only: arguments of commands may be secrets.

    Raises:
        OSError: There can be no such file.
    """
    os.close(os.open(journal, os.O_RDWR | os.O_CREAT, 0o600))
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # another user's
            os.chmod(f"{journal}{suffix}", 0o600)  # noqa: PTH101 (a suffix of the name)


def connect(outputs: Outputs) -> sqlite3.Connection:
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


def take_over(database: sqlite3.Connection) -> None:
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


def may_pass(error: JournalError) -> bool:
    """Whether the journal may take it later: it is locked or its disk is full, but not broken."""
    return isinstance(error.__cause__, sqlite3.OperationalError | OSError)
