"""A file of this machine for programs and code that cannot read a store themselves."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from virnucpro_exporter.stores.paths import StoredPath

FOLDER = ".virnucpro_part"  # in the folder of an attempt, for the file made for it
_COPY_BYTES = 1 << 22


@contextlib.contextmanager
def local_file(file: Path, folder: Path) -> Iterator[Path]:
    """The file, or a copy of the object under its own name, which goes again.

    Args:
        file: On this machine or in a store.
        folder: Of the attempt.

    Raises:
        OSError: The object cannot be read, or the copy not be written.
    """
    if not isinstance(file, StoredPath):
        yield file
        return
    staged = folder / FOLDER
    staged.mkdir(parents=True)
    try:
        with file.open_raw() as source, (staged / file.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, _COPY_BYTES)
        yield staged / file.name
    finally:
        shutil.rmtree(staged)
