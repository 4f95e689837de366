"""Samples: what predictions are about. A sample is one file, or its files in a sample sheet."""

from __future__ import annotations

import contextlib
import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro_exporter.errors import InputError, UsageError, VirnucproError
from virnucpro_exporter.sequences import read_sequences, stem
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.stores.urls import is_url, put_query_aside

COLUMNS = ("sample", "file")


@dataclass(frozen=True, slots=True)
class Sample:
    """Files whose sequences are in one table.

    Attributes:
        name: Of its tables; no other sample of the run has it.
        files: Their paths, in order.
    """

    name: str
    files: tuple[str, ...]


def read_sheet(path: str) -> list[Sample]:
    """Read a sample sheet: tab-separated, columns `sample` and `file`, a row for each file.

    Args:
        path: The sheet. Paths in it are relative to the current folder.

    Raises:
        InputError: It cannot be read, or is no such table.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t") if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the sample sheet {path!r} cannot be read ({reason})") from None
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not set(COLUMNS) <= set(heading):
        raise InputError(
            f"the sample sheet {path!r} must be tab-separated, with the columns sample and file in "
            "its first line"
        )
    files: dict[str, list[str]] = defaultdict(list)
    places: set[Path] = set()
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(heading, (cell.strip() for cell in row), strict=False))
        name, file_path = (cells.get(column, "") for column in COLUMNS)
        if not name or not file_path:
            raise InputError(f"row {number} of the sample sheet {path!r} lacks a sample or a file")
        if name.startswith(".") or not name.isprintable() or "/" in name:
            raise InputError(
                f"{name!r} in the sample sheet {path!r} is not usable as a file name: rename the "
                "sample"
            )
        if is_url(file_path):
            try:
                file_path = put_query_aside(file_path)
            except UsageError as error:
                raise InputError(
                    f"row {number} of the sample sheet {path!r}: {error.detail}"
                ) from None
        place = path_of(file_path).absolute()
        if place in places:
            raise InputError(f"{file_path!r} is listed twice in the sample sheet {path!r}")
        places.add(place)
        files[name].append(str(path_of(file_path)))
    if not files:
        raise InputError(f"the sample sheet {path!r} lists no files")
    return [Sample(name, tuple(paths)) for name, paths in files.items()]


def name_samples(paths: Sequence[str]) -> list[Sample]:
    """Make a sample of each file: of its name, or of its folder's where names clash.

    Raises:
        InputError: Two of them cannot be told apart.
    """
    names = {path: stem(Path(path).name) for path in paths}
    for form in _FORMS:
        clashing = _clashing(names)
        if not clashing:
            break
        names |= {path: form(path_of(path).absolute()) for path in clashing}
    clashing = _clashing(names)
    if clashing:
        raise InputError(
            f"{clashing[0]!r} and {clashing[1]!r} would be samples with the same name: name them "
            "with --sample-sheet"
        )
    return [Sample(name, (path,)) for path, name in names.items()]


def _folder(path: Path) -> str:
    return path.parent.name or stem(path.name)


def _folder_and_name(path: Path) -> str:
    return f"{_folder(path)}_{stem(path.name)}"


def _folders_and_name(path: Path) -> str:
    return "_".join([*path.parts[-3:-1], stem(path.name)])


_FORMS: Sequence[Callable[[Path], str]] = (_folder, _folder_and_name, _folders_and_name)


def _clashing(names: dict[str, str]) -> list[str]:
    """Paths whose name others have as well, those of one name side by side."""
    count = Counter(names.values())
    return sorted((p for p in names if count[names[p]] > 1), key=lambda path: names[path])


def refuse_mates(samples: Iterable[Sample]) -> None:
    """Refuse a sample whose files begin with one name: the two files of paired reads.

    Raises:
        InputError: There is one.
    """
    for sample in samples:
        first: dict[bytes, str] = {}
        for path in sample.files if len(sample.files) > 1 else ():
            # A file that cannot be read fails in an attempt of its own.
            with contextlib.suppress(VirnucproError, OSError):
                name = next(iter(read_sequences(path_of(path)))).name
                other = first.setdefault(name, path)
                if other != path:
                    break
        else:
            continue
        raise InputError(
            f"{other!r} and {path!r} of the sample {sample.name!r} have sequences of the same "
            f"names ({name.decode('utf-8', 'backslashreplace')!r}): name the mates read1/1 and "
            "read1/2 (`seqtk rename`), or make two samples"
        )
