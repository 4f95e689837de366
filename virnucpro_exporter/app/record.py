"""run.json: with what, from what and where the results of a run were made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import string
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import virnucpro_exporter
from virnucpro_exporter.app.devices import Device
from virnucpro_exporter.files.digests import file_digest
from virnucpro_exporter.files.looking import look_at
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.writer import FinishedFile

RECORD = "run.json"
FORMAT = 1
_PACKAGES = ("torch", "transformers", "safetensors", "numpy")
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a run.

    Attributes:
        run_id: Its id.
        started: Unix seconds.
        devices: Its GPUs and CPU slots.
        options: All settings, by key.
        ended: Unix seconds.
        state: How it ended.
        exit_status: What the program returns.
    """

    run_id: str
    started: float
    devices: Sequence[Device]
    options: Mapping[str, Any]
    ended: float = 0.0
    state: str = "running"
    exit_status: int = 0


def write_record(
    run: Record,
    spec: Mapping[str, Any],
    models: Models,
    files: Sequence[FinishedFile],
    results: Iterable[str],
    outputs: Outputs,
) -> None:
    """Write run.json, whole or not at all.

    Args:
        run: What is known of the run, which has ended.
        spec: What workers were told of the processor.
        models: Its models.
        files: The inputs that have their results, of this run and of earlier ones.
        results: Names of further results in the output folder.
        outputs: The output folder.

    Raises:
        OSError: It cannot be written, or a file that belongs in it cannot be read.
    """
    is_summed = bool(run.options["checksums"])
    folder = outputs.folder
    record = {
        "format": FORMAT,
        "program": {
            "name": "virnucpro-exporter",
            "version": virnucpro_exporter.__version__,
            "python": platform.python_version(),
            "packages": dict(_versions()),
        },
        "run": {
            "id": run.run_id,
            "started": _time(run.started),
            "ended": _time(run.ended),
            "state": run.state,
            "exit_status": run.exit_status,
            "host": platform.node(),
        },
        "options": run.options,
        "processor": {**spec, "models": models.get()},
        "gpus": {device.gpu: device.name for device in run.devices},
        "results": look_at(
            [folder / name for name in results], lambda path: _file(path, is_summed=is_summed)
        ),
        "files": look_at(files, lambda file: _input(file, folder, is_summed=is_summed)),
    }
    temporary = outputs.hidden / RECORD
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(folder / RECORD)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


class Models:
    """The files of a processor's models, whose SHA-256 are made in a thread while a run goes on.

    Args:
        spec: What workers are told of the processor.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._folders: Mapping[str, str] = spec.get("models") or (
            {spec["kind"]: spec["model"]} if "model" in spec else {}
        )
        self._found: dict[str, Any] = {}
        self._error: OSError | None = None
        # A daemon: the end of an interrupted run does not wait for it.
        self._thread = threading.Thread(target=self._look, name="digests", daemon=True)
        self._thread.start()

    def get(self) -> dict[str, Any]:
        """Folder and files of each model, by its name.

        Raises:
            OSError: A file cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

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


def _file(path: Path, *, is_summed: bool) -> dict[str, Any]:
    about: dict[str, Any] = {"name": path.name, "bytes": path.stat().st_size}
    if is_summed:
        with path.open("rb") as file:
            about["sha256"] = file_digest(file)
    return about


def _input(file: FinishedFile, folder: Path, *, is_summed: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "path": file.path,
        "bytes": file.size,
        "sequences": file.sequences,
        "residues": file.residues,
        "seconds": file.seconds,
        "gpu": file.gpu,
        "gpu_model": file.model,
        "results": [_file(folder / name, is_summed=is_summed) for name in file.outputs],
    }
    if is_summed:
        with Path(file.path).open("rb") as content:
            about["sha256"] = file_digest(content)
    return about
