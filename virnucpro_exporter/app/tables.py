"""Runs and their files for programs: JSON, a table for MultiQC, a list of what failed."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from virnucpro_exporter.errors import ReportError
from virnucpro_exporter.journal.files_table import FileRow, read_files
from virnucpro_exporter.journal.status import RunStatus
from virnucpro_exporter.text import clean

_ENDED = {"completed", "failed", "gone"}

# MultiQC finds a file called *_mqc.tsv, and reads how to show it from these lines.
_HEADER = """\
# id: virnucpro_exporter
# section_name: virnucpro_exporter
# description: One row for each input file.
# plot_type: table
"""
_COLUMNS = (
    *("file", "state", "gpu", "attempts", "started", "seconds", "bytes", "sequences", "residues"),
    *("residues_per_second", "error", "path"),
)


def run_object(state: RunStatus, files: Sequence[FileRow], now: float) -> dict[str, Any]:
    """A run with its GPUs and files, as JSON has them.

    Args:
        state: The run.
        files: Its files.
        now: Unix seconds.
    """
    ended = now if state.is_active else state.ended
    elapsed = None if state.started is None or ended is None else max(0.0, ended - state.started)
    return {
        "run_id": state.run_id,
        "state": state.state,
        "active": state.is_active,
        "started": _moment(state.started),
        "ended": _moment(None if state.is_active else state.ended),
        "elapsed_seconds": None if elapsed is None else round(elapsed, 3),
        "percent": percent(state, files),
        "eta_seconds": eta(state, files, now),
        "files": dict(state.counts),
        "parts": dict(state.parts),
        "steals": state.steals,
        "failed": [{**_path(path), "error": error} for path, error in state.failed],
        "per_gpu": [
            {
                "gpu": gpu.gpu,
                "files": gpu.files,
                "parts": gpu.parts,
                "sequences": gpu.sequences,
                "residues": gpu.residues,
                "busy_seconds": gpu.seconds,
                "processing": [file.path for file in files if _is_held(file, gpu.gpu)],
            }
            for gpu in state.gpus
        ],
        "per_file": [_file(file) for file in files],
    }


def percent(state: RunStatus, files: Sequence[FileRow]) -> float | None:
    """How much is done, 0 to 100, by residues where all are known; 100 only once no file is left.

    Args:
        state: The run.
        files: Its files.
    """
    total = sum(state.counts.values())
    if not total:
        return None
    ended = [file for file in files if file.state in _ENDED]
    share = len(ended) / total
    if len(files) == total and all(file.residues for file in files):
        share = _residues(ended) / _residues(files)
    return 100.0 if len(ended) == total else min(round(100 * share, 1), 99.9)


def eta(state: RunStatus, files: Sequence[FileRow], now: float) -> float | None:
    """Seconds that the run will still take at the pace of its workers so far.

    None where no run goes on, and until each file is known and one is completed.

    Args:
        state: The run.
        files: Its files.
        now: Unix seconds.
    """
    if not state.is_active or state.started is None or len(files) < sum(state.counts.values()):
        return None
    work: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for file in files:
        if file.state == "completed" and (file.started or 0.0) >= state.started and file.gpu:
            work[file.gpu][0] += file.residues or 0
            work[file.gpu][1] += file.seconds or 0.0
    speeds = {gpu: amount / seconds for gpu, (amount, seconds) in work.items() if seconds > 0}
    if not sum(speeds.values()):
        return None
    left = 0.0
    for file in files:
        if file.state not in _ENDED:
            if file.residues is None:
                return None
            done = 0.0
            if file.state == "processing" and file.started is not None:
                done = (now - file.started) * speeds.get(file.gpu or "", 0.0)
            left += max(0.0, file.residues - done)
    return round(left / sum(speeds.values()), 1)


def report_json(folder: str, now: float) -> str:
    """The run of an output folder with its GPUs and files, as one JSON object.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    return json.dumps(run_object(*read_files(folder), now))


def report_tsv(folder: str) -> str:
    """One row for each file, with a header for MultiQC; raises OutputError likewise."""
    _, files = read_files(folder)
    return as_tsv(files)


def as_tsv(files: Sequence[FileRow]) -> str:
    """The table of `report_tsv`."""
    names = _names([file.path for file in files])
    lines = ["\t".join(_COLUMNS), *("\t".join(_row(file, names[file.path])) for file in files)]
    return _HEADER + "\n".join(lines)


def write_failed(folder: str, path: str) -> int:
    """Write the paths of the files that were given up into a file, a line each.

    Returns:
        How many they are.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
        ReportError: The list cannot be written, or a path has an end of line in it.
    """
    _, files = read_files(folder)
    failed = [file.path for file in files if file.state == "failed"]
    for name in failed:
        if "\n" in name:
            raise ReportError(f"{name!r} contains a line break and cannot be listed; rename it")
    try:
        Path(path).write_bytes(b"".join(os.fsencode(name) + b"\n" for name in failed))
    except OSError as error:
        raise ReportError(f"{path!r}: {error.strerror}") from error
    return len(failed)


def _names(paths: Sequence[str]) -> dict[str, str]:
    """The name of each file, with as many folders in front as make it unlike all others.

    To MultiQC a second row of the same name is the same sample, and a line with `#` a header.
    """
    names: dict[str, str] = {}
    left, depth = list(paths), 1
    while left:
        tails = {path: str(Path(*Path(path).parts[-depth:])) for path in left}
        counts = Counter(tails.values())
        for path, tail in tails.items():
            if counts[tail] == 1 or tail == path or depth >= len(Path(path).parts):
                names[path] = f"./{tail}" if tail.startswith("#") else tail
        left = [path for path in left if path not in names]
        depth += 1
    return names


def _row(file: FileRow, name: str) -> Iterable[str]:
    rate = file.residues / file.seconds if file.residues and file.seconds else None
    cells = (
        *(name, file.state, file.gpu, file.attempts, _moment(file.started)),
        *(_number(file.seconds), file.size, file.sequences, file.residues, _number(rate)),
        *(file.error, file.path),
    )
    return ("" if cell is None else clean(str(cell)) for cell in cells)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _residues(files: Iterable[FileRow]) -> int:
    return sum(file.residues or 0 for file in files)


def _is_held(file: FileRow, gpu: str) -> bool:
    return file.state == "processing" and file.gpu == gpu


def _file(file: FileRow) -> dict[str, Any]:
    return {
        **_path(file.path),
        "real": file.real,
        "state": file.state,
        "bytes": file.size,
        "attempts": file.attempts,
        "failed_attempts": file.failures,
        "gpu": file.gpu,
        "started": _moment(file.started),
        "seconds": file.seconds,
        "sequences": file.sequences,
        "residues": file.residues,
        "error": file.error,
        "results": list(file.outputs),
    }


def _path(path: str) -> dict[str, str]:
    r"""A path that a program can open: no UTF-8 is as in Python, `\udcff`, and as bytes."""
    raw = os.fsencode(path)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return {"path": path, "path_base64": base64.b64encode(raw).decode()}
    return {"path": path}


def _moment(seconds: float | None) -> str | None:
    """Unix seconds as UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
