"""A metrics log read back, with the ones that were rotated away."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from virnucpro_exporter.csv_log.writer import FIRST_HEADER, HEADER, KEPT_FILES
from virnucpro_exporter.errors import LogError
from virnucpro_exporter.history import GpuSeries, LogHistory

_HEADERS = (HEADER.strip(), FIRST_HEADER.strip())
_FIRST_COLUMNS = FIRST_HEADER.count(",") + 1
_COLUMNS = HEADER.count(",") + 1


def read_log(path: Path) -> LogHistory:
    """Read a metrics log, the oldest rows first.

    Args:
        path: The newest file; `PATH.1` and so on belong to it.

    Raises:
        LogError: It cannot be read, or is no metrics log.
    """
    gpus: dict[str, GpuSeries] = {}
    damaged = 0
    older = [Path(f"{path}.{number}") for number in range(KEPT_FILES, 0, -1)]
    for file in [*(name for name in older if name.exists()), path]:
        for row in _rows(file):
            try:
                values = _values(row)
            except ValueError:
                damaged += 1
                continue
            _append(gpus.setdefault(row[1], GpuSeries()), values)
    return LogHistory(str(path), gpus, damaged)


def _rows(file: Path) -> Iterator[list[str]]:
    try:
        with file.open(encoding="utf-8", newline="") as text:
            if text.readline(len(HEADER) + 1).rstrip("\r\n") not in _HEADERS:
                raise LogError(f"{str(file)!r} is not a metrics log: its first line differs")
            yield from csv.reader(text)
    except OSError as error:
        raise LogError(f"{str(file)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LogError(f"{str(file)!r} is not a metrics log: {error}") from error


def _values(row: list[str]) -> list[float]:
    """Time and numbers of a row; an earlier version wrote fewer."""
    if len(row) not in (_FIRST_COLUMNS, _COLUMNS):
        raise ValueError("wrong number of cells")
    stamp, _gpu, *cells = row
    # Python 3.10 does not parse the Z.
    time = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    if time.tzinfo is None:
        raise ValueError("no time zone")
    cells += [""] * (_COLUMNS - len(row))
    return [time.timestamp(), *map(_number, cells)]


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


def _append(series: GpuSeries, values: list[float]) -> None:
    for column, value in zip(series.columns, values, strict=True):
        column.append(value)
