"""Read access to the journal of an output folder, while a run is going on or later.

Takes no lock and writes nothing, so that it works on a folder that only others may write.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from virnucpro_exporter.errors import OutputError
from virnucpro_exporter.files.lock import holder
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.database import check_schema

T = TypeVar("T")
# A run keeps its journal locked where the file system lets processes share no memory.
_LOCKED_SECONDS = 0.5

Reader = Callable[[sqlite3.Connection, bool], T]


def read_journal(folder: str | os.PathLike[str], read: Reader[T]) -> T:
    """The result of `read` on the journal of an output folder.

    Args:
        folder: The output folder.
        read: Gets the database, as of one moment, and whether a run is going on now.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    outputs = Outputs(folder)
    try:
        if not outputs.journal.is_file():
            raise _unused(outputs)
        run = holder(outputs.lock)
        if run is not None and not run.is_elsewhere:
            with contextlib.suppress(sqlite3.OperationalError):
                return _read(outputs, outputs.journal, read, is_active=True)
        # SQLite cannot join in the sharing of the write-ahead log where the folder is mounted
        # read-only, nor on another machine: a copy of both files can be read in any case.
        return _read_copy(outputs, read, is_active=run is not None)
    except (sqlite3.Error, OSError) as error:
        raise OutputError(f"{str(outputs.journal)!r} cannot be read: {error}") from error


def _read_copy(outputs: Outputs, read: Reader[T], *, is_active: bool) -> T:
    with TemporaryDirectory(prefix="virnucpro-") as folder:
        copy = Path(folder, outputs.journal.name)
        for suffix in ("", "-wal"):
            part = Path(f"{outputs.journal}{suffix}")
            if part.exists():
                shutil.copyfile(part, f"{copy}{suffix}")
        return _read(outputs, copy, read, is_active=is_active)


def _read(outputs: Outputs, journal: Path, read: Reader[T], *, is_active: bool) -> T:
    with contextlib.closing(
        sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True, timeout=_LOCKED_SECONDS)
    ) as database:
        check_schema(database, outputs)
        database.execute("BEGIN")  # all that follows is seen as of one moment
        if not _has_begun(database):
            raise _unused(outputs)
        return read(database, is_active)


def _has_begun(database: sqlite3.Connection) -> bool:
    """Whether the journal has any run: one may have been killed while creating the journal."""
    is_made = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
    return bool(is_made and database.execute("SELECT 1 FROM runs").fetchone())


def _unused(outputs: Outputs) -> OutputError:
    return OutputError(f"no run has used {str(outputs.folder)!r} yet")


def rows(
    database: sqlite3.Connection,
    table: str,
    columns: str,
    where: str = "",
    parameters: Sequence[Any] = (),
) -> Iterator[Any]:
    """Rows of a table that older versions did not have; NULL in columns that they lacked.

    Args:
        database: The journal.
        table: Its name.
        columns: Names, with ", " between them.
        where: What follows the names, from WHERE on.
        parameters: The values for it.
    """
    known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    if not known:
        return iter(())
    wanted = ", ".join(c if c in known else f"NULL AS {c}" for c in columns.split(", "))
    return database.execute(f"SELECT {wanted} FROM {table} {where}", parameters)  # noqa: S608 - names of our own
