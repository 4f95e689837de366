"""Which files are results, according to the journals beside them."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from functools import lru_cache
from pathlib import Path

from virnucpro_exporter.errors import OutputError
from virnucpro_exporter.files.outputs import HIDDEN, Outputs
from virnucpro_exporter.journal.reader import read_journal


def is_result(file: Path) -> bool:
    """Whether a run has left this file, or the folder in which it lies.

    Args:
        file: Where it is; links are followed.
    """
    real = Path(os.path.realpath(file))
    folder = next((folder for folder in real.parents if (folder / HIDDEN).is_dir()), None)
    return folder is not None and real.relative_to(folder).parts[0] in result_names(folder)


def result_names(folder: Path) -> frozenset[str]:
    """The names that runs have left in an output folder; none where it has no readable journal."""
    try:
        status = Outputs(folder).journal.stat()
    except OSError:
        return frozenset()
    return _names(folder, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _names(folder: Path, _size: int, _mtime_ns: int) -> frozenset[str]:
    try:
        return read_journal(folder, _read_names)
    except OutputError:
        return frozenset()


def _read_names(database: sqlite3.Connection, _is_active: bool) -> frozenset[str]:  # noqa: FBT001 - a `Reader`
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchone():
        coding = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        return frozenset(
            str(name, *coding) for (name,) in database.execute("SELECT name FROM results")
        )
    rows = database.execute("SELECT outputs FROM files WHERE outputs != '[]'")
    return frozenset(name for (outputs,) in rows for name in json.loads(outputs))
