"""One step after another: the results of an earlier run as the inputs of this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from virnucpro_exporter.errors import EmptyFileError
from virnucpro_exporter.journal.results import is_result
from virnucpro_exporter.sequences import OpenPart, Record, read_sequences


def read_step(file: Path | OpenPart) -> Iterator[Record]:
    """Yield the records of a file; none, where an earlier run has found nothing and left it empty.

    Any other empty file is a fault: it may be what is left of one.

    Raises:
        SequenceFileError: The content is at fault.
        OSError: The file cannot be opened or read.
    """
    try:
        yield from read_sequences(file)
    except EmptyFileError:
        if not is_result(Path(file)):
            raise
