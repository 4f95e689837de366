"""Which files a run processes, and how much work each of them is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro_exporter.app.cpus import usable_cpus
from virnucpro_exporter.config import Inputs
from virnucpro_exporter.errors import InputError, UsageError
from virnucpro_exporter.files.counting import estimate
from virnucpro_exporter.files.counting_many import count_files, size_of
from virnucpro_exporter.files.inputs import Input, discover
from virnucpro_exporter.files.inputs import Inputs as Found
from virnucpro_exporter.files.looking import look_at
from virnucpro_exporter.files.outputs import Outputs, StoredOutputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.results import result_names
from virnucpro_exporter.processors import build
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.stores.access import need
from virnucpro_exporter.stores.urls import is_url, scheme_of, state_folder
from virnucpro_exporter.terminal.counting import CountingProgress


def output_folder(inputs: Inputs) -> Outputs:
    """The output folder, which is not touched yet.

    Raises:
        UsageError: None was named.
    """
    if inputs.output is None:
        raise UsageError("name the output folder with --output DIR")
    if is_url(inputs.output):
        need(scheme_of(inputs.output))
        return StoredOutputs(inputs.state_folder or state_folder(inputs.output), inputs.output)
    if inputs.state_folder is not None:
        raise UsageError("--state-folder is for results in a store; remove it")
    return Outputs(inputs.output)


Names = Callable[[str], Sequence[str]]


def output_names(spec: Mapping[str, Any]) -> Names:
    """A function from a file to the names of its results; they are empty for a user's own code."""
    if spec["kind"] == "python":  # the user's own code is loaded in the workers alone
        return lambda _: ()
    processor = build(spec)
    return lambda path: processor.output_names(Path(path))


def find_files(inputs: Inputs, outputs: Outputs, names: Names) -> Found:
    """The input files, none of which the results would replace.

    Raises:
        InputError: There are none, or the results of one cannot be kept.
    """
    if not inputs.paths:
        raise InputError("name files, folders or patterns to process")
    url = f"{outputs.url}/" if isinstance(outputs, StoredOutputs) else None
    found = discover(inputs.paths, outputs.folder, lambda: result_names(outputs.folder), url)
    for file in found.files:
        if file.stored is not None or file.place.startswith(outputs.prefix):
            outputs.protect(file.place, file.path)
        if file.real != file.place:
            outputs.protect(file.real, file.path)
    owners: dict[str, str] = {}
    for file in found.files:
        for name in names(file.path):
            other = owners.setdefault(name, file.path)
            if other is not file.path:
                both = f"{other!r} and {file.path!r}"
                raise InputError(f"{both} would both write {name!r}; process them in separate runs")
            why = outputs.refusal(name)
            if why is not None:
                raise InputError(f"{file.path!r}: {why}")
    return found


def measure(paths: Sequence[Path], how: str) -> list[SequenceFile]:
    """Count or estimate what the files hold; a count that takes long shows how far it is."""
    if how == "estimate":
        return look_at(paths, estimate)
    with CountingProgress(sum(look_at(paths, size_of))) as progress:
        return count_files(paths, usable_cpus(), progress.update)


def source(file: Input, status: os.stat_result | None = None) -> InputFile:
    """The file in the form by which the journal identifies it.

    Args:
        file: The input file.
        status: Its status, where it was read already.
    """
    if file.stored is not None:
        return InputFile(file.path, file.stored.size, file.stored.version, file.real)
    try:
        status = status or os.stat(file.path)  # noqa: PTH116 (a million Path objects take seconds)
    except OSError:
        return InputFile(file.path, -1, -1, file.real)  # its attempt will report the error
    return InputFile(file.path, status.st_size, status.st_mtime_ns, file.real)
