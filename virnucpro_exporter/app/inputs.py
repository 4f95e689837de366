"""Which files a run processes, and how much work each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro_exporter.app.cpus import usable_cpus
from virnucpro_exporter.config import Inputs
from virnucpro_exporter.errors import InputError, UsageError
from virnucpro_exporter.files.counting import estimate
from virnucpro_exporter.files.counting_many import count_files
from virnucpro_exporter.files.inputs import discover
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.writer import Source
from virnucpro_exporter.processors import build
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.terminal.counting import CountingProgress


def output_folder(inputs: Inputs) -> Outputs:
    """The output folder, which is not touched yet.

    Raises:
        UsageError: None was named.
    """
    if inputs.output is None:
        raise UsageError("name the output folder with --output DIR")
    return Outputs(inputs.output)


def find_files(inputs: Inputs, outputs: Outputs, spec: Mapping[str, Any]) -> list[Path]:
    """The input files.

    Raises:
        InputError: There are none, or two of them would write the same output.
    """
    if not inputs.paths:
        raise InputError("name files, folders or patterns to process")
    paths = discover(inputs.paths, outputs.folder)
    if spec["kind"] != "python":  # the user's own code is loaded in the workers alone
        processor = build(spec)
        owners: dict[str, Path] = {}
        for path in paths:
            for name in processor.output_names(path):
                other = owners.setdefault(name, path)
                if other is not path:
                    both = f"{str(other)!r} and {str(path)!r}"
                    raise InputError(f"{both} would both write {name!r}; run them apart")
    return paths


def measure(paths: Sequence[Path], how: str) -> list[SequenceFile]:
    """Count or estimate what the files hold; a count that takes long shows how far it is."""
    if how == "estimate":
        return [estimate(path) for path in paths]
    total = sum(max(0, source(path).size) for path in paths)
    with CountingProgress(total) as progress:
        return count_files(paths, usable_cpus(), progress.update)


def source(path: Path) -> Source:
    """The file as the journal knows it again."""
    try:
        status = path.stat()
    except OSError:
        return Source(str(path), -1, -1)  # its own attempt will say what is wrong
    return Source(str(path), status.st_size, status.st_mtime_ns)
