"""run.json: with what, from what and where the results of a run were made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import stat
import string
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import virnucpro_exporter
from virnucpro_exporter.app.devices import Device
from virnucpro_exporter.files.digests import file_digest
from virnucpro_exporter.files.looking import answers_about, look_at
from virnucpro_exporter.files.outputs import RECORD, Outputs, StoredOutputs
from virnucpro_exporter.journal.finished import FinishedFile
from virnucpro_exporter.snapshot import RunSnapshot
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.stores.writing import sizes

log = logging.getLogger(__name__)

FORMAT = 1
_NAME = "virnucpro-exporter"
_PACKAGES = ("torch", "transformers", "safetensors", "numpy")
_SHA256_DIGITS = 64

# Our name is among the first bytes of each record.
_FIRST_BYTES = 200

# The record has a head about the run, then a line for each file: the ends of both.
_FILES, _END = '"files": [', "\n]}\n"

# What it is given holds no loops.
_ENCODER = json.JSONEncoder(check_circular=False)


class StoredFile(NamedTuple):
    """A file of a result that is in a store.

    Attributes:
        name: Below the prefix of the run.
        size: In bytes.
        url: Where it is.
    """

    name: str
    size: int
    url: str


Stored = dict[str, list[StoredFile]]

_MISSING = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Record:
    """The data of a run that are known at its start.

    Attributes:
        run_id: Its id.
        started: Unix seconds.
        devices: Its GPUs and CPU slots.
        options: All settings, by key.
    """

    run_id: str
    started: float
    devices: Sequence[Device]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        time: Unix seconds.
        state: `completed`, `failed` or `interrupted`.
        exit_status: What the program returns.
        snapshot: The last one.
        results: Names of results in the output folder that are of no single file.
    """

    time: float
    state: str
    exit_status: int
    snapshot: RunSnapshot
    results: Sequence[str] = ()

    @property
    def is_early(self) -> bool:
        """Whether the run was interrupted, so that a user waits for the end of the program."""
        return self.state == "interrupted"

    @property
    def has_done_nothing(self) -> bool:
        """Whether earlier runs had done all files."""
        return self.snapshot.files_skipped == self.snapshot.files_total


class Recorder:
    """Writes the record of a run beside its results; there is none while the run is in progress.

    Args:
        spec: The processor's settings, as workers get them.
        outputs: The output folder.
    """

    def __init__(self, spec: Mapping[str, Any], outputs: Outputs) -> None:
        self._spec = spec
        self._models = Models(spec)
        self._path = outputs.record
        self._folder = outputs.folder
        self._outputs = outputs
        self._stored: Stored = {}
        self._before = outputs.hidden / RECORD  # of the run before this one
        self._new = outputs.hidden / f"{RECORD}.new"
        self._is_ours = True
        self._run = Record("", 0.0, (), {})

    def begin(self, run: Record) -> None:
        """Take the record of the run before away: the results may change from now on.

        Raises:
            OSError: The folder takes no change.
        """
        self._run = run
        self._models.start()
        self._before.unlink(missing_ok=True)
        if not os.path.lexists(self._path):
            return
        self._is_ours = _is_ours(self._path)
        if self._is_ours:
            self._path.replace(self._before)
        else:
            log.warning(
                "%r was not written by this program and is kept: this run writes no record",
                str(self._path),
            )

    def write(self, ended: Ended, files: Iterable[FinishedFile]) -> None:
        """Write run.json, whole or not at all; where nothing has changed, the old one comes back.

        Args:
            ended: How the run ended.
            files: The inputs that have their results, of this run and of earlier ones.

        Raises:
            OSError: It cannot be written, or a file that belongs in it cannot be read.
        """
        if not self._is_ours:
            return
        if isinstance(self._outputs, StoredOutputs):
            self._stored = _stored(self._outputs)
        head = self._head(ended)
        if ended.has_done_nothing and _is_same(self._before, head):
            self._before.replace(self._path)
            return
        head["processor"]["models"] = self._models.get(wait=not ended.is_early)
        is_summed = self._run.options["checksums"] and not ended.is_early
        try:
            self._write(head, list(files), is_summed=is_summed)
        except OSError:
            with contextlib.suppress(OSError):
                self._new.unlink(missing_ok=True)
            raise
        self._new.replace(self._path)
        self._before.unlink(missing_ok=True)

    def _head(self, ended: Ended) -> dict[str, Any]:
        """The head of the record."""
        run, snapshot, folder = self._run, ended.snapshot, self._folder
        is_summed = run.options["checksums"] and not ended.is_early
        return {
            "format": FORMAT,
            "program": {
                "name": _NAME,
                "version": virnucpro_exporter.__version__,
                "python": platform.python_version(),
                "packages": dict(_versions()),
            },
            "run": {
                "id": run.run_id,
                "started": _time(run.started),
                "ended": _time(ended.time),
                "state": ended.state,
                "exit_status": ended.exit_status,
                "host": platform.node(),
                "completed": snapshot.files_completed,
                "skipped": snapshot.files_skipped,
                "failed": snapshot.files_failed,
                "left": snapshot.files_queued + snapshot.files_processing,
            },
            "options": run.options,
            "processor": {**self._spec},
            "gpus": {device.gpu: device.name for device in run.devices},
            "results": [
                about
                for abouts in look_at(
                    ended.results, lambda name: _result(folder, name, is_summed=is_summed)
                )
                for about in abouts
            ],
        }

    def _write(
        self, head: Mapping[str, Any], files: Sequence[FinishedFile], *, is_summed: bool
    ) -> None:
        # Only the owner can read the arguments of a command, as in the journal.
        mode = 0o600 if self._spec["kind"] == "command" else 0o666
        self._new.unlink(missing_ok=True)
        descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as out:  # noqa: PTH123 - a descriptor
            lines = (f'"{name}": {json.dumps(value)},\n' for name, value in head.items())
            out.write("{" + "".join(lines) + _FILES)
            comma = "\n"
            for part in answers_about(
                files,
                lambda file: _input(file, self._folder, self._stored, is_summed=is_summed),
            ):
                if part:
                    out.write(comma + _lines(part))
                    comma = ",\n"
            out.write(_END)


def _lines(files: Sequence[Mapping[str, Any]]) -> str:
    """Files in JSON, a line for each; encoded together, as each call of the encoder is dear."""
    # No text in JSON holds what is replaced: its quotes have backslashes.
    return _ENCODER.encode(files)[1:-1].replace('}, {"path": ', '},\n{"path": ')


def _is_ours(path: Path) -> bool:
    """Whether a run has left this record.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"{_NAME}"'.encode() in file.read(_FIRST_BYTES)


def _is_same(path: Path, head: Mapping[str, Any]) -> bool:
    """Whether a record begins with a head, but for when and which run that was."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = iter(file.readline, "")
            text = "".join(iter(lambda: next(lines, _FILES).rstrip("\n"), _FILES))
        before = json.loads(f"{text}{_FILES}]}}")
        return bool(_lasting(before) == _lasting(json.loads(json.dumps(head))))
    except (OSError, ValueError, KeyError, TypeError):  # none, or of an earlier version
        return False


def _lasting(head: Mapping[str, Any]) -> Any:
    """What is the same when a run finds nothing to do.

    Models are those that made the results: a run without work has used none.
    """
    run, processor = head["run"], dict(head["processor"])
    processor.pop("models", None)
    return (
        [head[name] for name in ("format", "program", "options", "gpus", "results")],
        processor,
        [run[name] for name in ("state", "exit_status", "host")],
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


class Models:
    """The files of a processor's models; a thread computes their SHA-256 during the run.

    Args:
        spec: The processor's settings, as workers get them.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._folders: Mapping[str, str] = spec.get("models") or (
            {spec["kind"]: spec["model"]} if "model" in spec else {}
        )
        self._found: dict[str, Any] = {}
        self._error: OSError | None = None
        # A daemon: the end of an interrupted run does not wait for it.
        self._thread = threading.Thread(target=self._look, name="digests", daemon=True)

    def start(self) -> None:
        """Begin to read them, if there are any."""
        if self._folders:
            self._thread.start()

    def get(self, *, wait: bool = True) -> dict[str, Any]:
        """Folder and files of each model, by its name.

        Args:
            wait: Until all are read; else those that are.

        Raises:
            OSError: A file cannot be read.
        """
        if self._folders and wait:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return dict(self._found)

    def _look(self) -> None:
        try:
            for name, folder in self._folders.items():
                paths = [path for path in sorted(Path(folder).iterdir()) if path.is_file()]
                self._found[name] = {"folder": folder, "files": list(map(_model_file, paths))}
        except OSError as error:
            self._error = error


def _model_file(path: Path) -> dict[str, Any]:
    """A file of a model. In the cache of Hugging Face, weights are named by their SHA-256."""
    blob = path.resolve().name
    is_digest = len(blob) == _SHA256_DIGITS and set(blob) <= set(string.hexdigits.lower())
    about: dict[str, Any] = {"name": path.name, "bytes": path.stat().st_size}
    with path.open("rb") as file:
        about["sha256"] = blob if is_digest else file_digest(file)
    return about


def _stored(outputs: StoredOutputs) -> Stored:
    """What is in the store, by the name of the result.

    Raises:
        OSError: A request to the store fails.
    """
    found: Stored = {}
    for name, size in sizes(outputs.url).items():
        one = StoredFile(name, size, f"{outputs.url}/{name}")
        found.setdefault(name.partition("/")[0], []).append(one)
    return found


def _result(
    folder: Path, name: str, stored: Stored | None = None, *, is_summed: bool
) -> list[dict[str, Any]]:
    """A result, or each file of one that is a folder; without size if it has been removed."""
    path = f"{folder}/{name}"
    try:
        status = os.stat(path)  # noqa: PTH116 - so many Path objects take seconds
        if not stat.S_ISDIR(status.st_mode):
            return [_file(path, name, status.st_size, is_summed=is_summed)]
        inner = sorted(file for file in Path(path).rglob("*") if file.is_file())
        return [
            _file(
                os.fspath(file),
                os.fspath(file.relative_to(folder)),
                file.stat().st_size,
                is_summed=is_summed,
            )
            for file in inner
        ]
    except _MISSING:
        if stored and name in stored:
            return [_file(one.url, one.name, one.size, is_summed=is_summed) for one in stored[name]]
        return [{"name": name}]


def _file(path: str, name: str, size: int, *, is_summed: bool) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "bytes": size}
    if is_summed:
        about["sha256"] = _digest(path)
    return about


def _digest(path: str) -> str:
    with path_of(path).open("rb") as file:
        return file_digest(file)


def _input(file: FinishedFile, folder: Path, stored: Stored, *, is_summed: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "path": file.path,
        "bytes": file.size,
        "sequences": file.sequences,
        "residues": file.residues,
        "seconds": file.seconds,
        "gpu": file.gpu,
        "gpu_model": file.model,
        "results": [
            about
            for name in file.outputs
            for about in _result(folder, name, stored, is_summed=is_summed)
        ],
    }
    if file.parts:
        about["parts"] = [
            {
                "start": part.start,
                "stop": part.stop,
                "sequences": part.sequences,
                "residues": part.residues,
                "seconds": part.seconds,
                "gpu": part.gpu,
                "gpu_model": part.model,
            }
            for part in file.parts
        ]
    if is_summed:
        with contextlib.suppress(*_MISSING):  # it is not needed any more
            about["sha256"] = _digest(file.path)
    return about
