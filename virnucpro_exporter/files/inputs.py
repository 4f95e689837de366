"""Finds the input files that a user means."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from virnucpro_exporter.errors import InputError
from virnucpro_exporter.sequences import is_sequence_name


def discover(inputs: Sequence[str], output: Path | None = None) -> list[Path]:
    """Turn files, folders and globs into a list of files.

    A file named outright is taken whatever its suffix. Folders are searched through, links
    followed, hidden entries skipped, for names with a known suffix; a link that leads nowhere is
    kept, so that its failure is seen. Of several paths to one file the first counts.

    Args:
        inputs: What the user gave, in order.
        output: The output folder, which is not searched when it lies within an input folder.

    Returns:
        Files in the order of the arguments, in natural order (`x2` before `x10`) within each.

    Raises:
        InputError: An argument matches nothing, or a folder cannot be searched.
    """
    excluded = None if output is None else os.path.realpath(output)
    found: dict[str, Path] = {}
    folders: dict[str, str] = {}
    for argument in inputs:
        matches = sorted(_matches(argument, excluded), key=_natural_key)
        if not matches:
            raise InputError(f"{argument!r} matches no sequence file")
        for path in matches:
            found.setdefault(_real(path, folders), Path(path))
    return list(found.values())


def _real(path: str, folders: dict[str, str]) -> str:
    """Where a path leads; `folders` keeps where those of earlier paths lead.

    To follow every part of every path would be most of the work of finding a million files, and on
    a shared file system each part is a question to its server.
    """
    if os.path.islink(path):  # noqa: PTH114 (a million Path objects take seconds)
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.join(folders[folder], name)  # noqa: PTH118 (likewise)


def _matches(argument: str, excluded: str | None) -> Iterator[str]:
    # A name that exists is taken as it stands, even if it holds the letters of a pattern.
    names = [argument] if os.path.lexists(argument) else glob.glob(argument, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    visited: set[str] = set()
    for name in names:
        if Path(name).is_dir():
            yield from _search(name, excluded, visited)
        elif name == argument or not _lies_in(name, excluded):
            yield name


def _search(folder: str, excluded: str | None, visited: set[str]) -> Iterator[str]:
    """Yield the sequence files below a folder; `visited` ends loops of links."""
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited or _lies_in(real, excluded):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and is_sequence_name(name):
                yield os.path.join(parent, name)  # noqa: PTH118 (os.walk deals in strings)


def _refuse(error: OSError) -> None:
    raise InputError(f"folder {error.filename!r} cannot be searched ({error.strerror})") from error


def _lies_in(path: str, folder: str | None) -> bool:
    return folder is not None and Path(os.path.realpath(path)).is_relative_to(folder)


def _natural_key(path: str) -> tuple[list[tuple[bool, int, str]], str]:
    parts = re.findall(r"[0-9]+|[^0-9]+", path)
    return [(not p[0].isdigit(), int(p) if p[0].isdigit() else 0, p) for p in parts], path
