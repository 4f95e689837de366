"""What a run of virnucpro leaves beside its rows: tables of samples."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro_exporter.app.processor import VIRNUCPRO
from virnucpro_exporter.config import Inputs, Processor
from virnucpro_exporter.errors import InputError, StorageError, UsageError, VirnucproError
from virnucpro_exporter.files.inputs import Inputs as Found
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.predictions.samples import (
    Sample,
    name_samples,
    read_sheet,
    refuse_mates,
)
from virnucpro_exporter.predictions.tables import table_names, write_tables

log = logging.getLogger(__name__)

_SHOWN = 3  # samples in one line


def with_sheet(inputs: Inputs, processor: Processor) -> Inputs:
    """The inputs, with the files of the sample sheet where one is given.

    Raises:
        InputError: The sheet cannot be used.
        UsageError: It does not go with the other options.
    """
    if inputs.sample_sheet is None:
        return inputs
    if processor.name != VIRNUCPRO:
        raise UsageError(f"--sample-sheet is for --processor {VIRNUCPRO}; remove it")
    if inputs.paths:
        raise UsageError("--sample-sheet lists the inputs: remove the others")
    samples = read_sheet(inputs.sample_sheet)
    return inputs.model_copy(update={"paths": tuple(p for s in samples for p in s.files)})


@dataclass(frozen=True, slots=True)
class Tables:
    """What became of the tables of a run.

    Attributes:
        names: Those that are there.
        notice: What is to be known about samples that are left out, in one line, or nothing.
        error: Why they could not be written, or None.
    """

    names: Sequence[str] = ()
    notice: str = ""
    error: VirnucproError | None = None


class Predictions:
    """The samples of a run, and what is written about them.

    Args:
        inputs: What the user gave.
        found: Its inputs.
        outputs: Its output folder, in which the names of the tables are reserved.

    Raises:
        InputError: Files cannot be told apart, or a table cannot be kept.
    """

    def __init__(self, inputs: Inputs, found: Found, outputs: Outputs) -> None:
        self._outputs = outputs
        paths = [file.path for file in found.files]
        sheet = inputs.sample_sheet
        self._samples = name_samples(paths) if sheet is None else _checked(sheet, paths)
        refuse_mates(self._samples)
        for name in table_names(self._samples):
            why = outputs.refusal(name)
            if why is not None:
                raise InputError(f"the table {name!r} cannot be written: {why}")
        for name in table_names(self._samples):
            outputs.reserve(outputs.folder / name)

    def write(self, journal: Journal) -> Tables:
        """Write the tables of the samples that are whole."""
        begin = time.monotonic()
        outputs = self._outputs
        wanted = {path for sample in self._samples for path in sample.files}
        files = [file for file in journal.finished() if file.path in wanted]
        rows = {
            file.path: outputs.result(name)
            for file in files
            for name in file.outputs
            if name.endswith(".rows")
        }
        try:
            written = write_tables(self._samples, rows, outputs.folder, outputs.hidden / "tables")
        except OSError as error:
            reason = error.strerror or error
            text = f"the tables cannot be written: {reason}; the same command writes them"
            return Tables(error=StorageError(text))
        number = len(self._samples) - len(written.left_out)
        log.info("tables of %d samples written in %.1f s", number, time.monotonic() - begin)
        return Tables(written.names, _notice(written.left_out))


def predictions_of(
    inputs: Inputs, spec: Mapping[str, Any], found: Found, outputs: Outputs
) -> Predictions | None:
    """The predictions of a run; None where its processor makes none."""
    if spec["kind"] != VIRNUCPRO:
        return None
    return Predictions(inputs, found, outputs)


def _notice(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    shown = "; ".join(f"{name!r}: {why}" for name, why in list(left_out.items())[:_SHOWN])
    more = f"; and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    return f"no tables for {shown}{more}"


def _checked(sheet: str, paths: Sequence[str]) -> list[Sample]:
    """The samples of a sheet, each of whose files is an input of the run."""
    samples, found = read_sheet(sheet), set(paths)
    for sample in samples:
        for path in sample.files:
            if path not in found:
                what = "a folder" if Path(path).is_dir() else "another name of a file in it"
                raise InputError(f"{path!r} in the sample sheet {sheet!r} is {what}: list files")
    return samples
