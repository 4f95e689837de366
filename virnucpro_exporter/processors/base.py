"""The interface of processors, built in or written by users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class ProgressCallback(Protocol):
    """The function with which a processor reports its progress within a file."""

    def __call__(self, sequences: int, residues: int | None = None) -> None:
        """Report progress; cheap enough to be called after every record.

        Args:
            sequences: Sequences of this file done so far.
            residues: Residues of this file done so far, where the processor counts them.
        """


@dataclass(frozen=True, slots=True)
class Processed:
    """The counted content of a file; None where the processor does not count it.

    Attributes:
        sequences: The number of sequences.
        residues: The number of residues of all sequences.
        seconds: The time for this file, where files are processed together; None: the time since
            `process` began.
    """

    sequences: int | None = None
    residues: int | None = None
    seconds: float | None = field(default=None, compare=False)


class Processor(Protocol):
    """Does one thing to a file. One instance lives in each worker process.

    A processor that gains by it may have a method `expect(files)`: it is called with the files, or
    parts of files, that the worker holds, the very objects that `process` is given one by one after
    that; it may read ahead in them. Results stay those of each file. An attribute `shortages` may
    count the batches that did not fit into the memory of the device.

    Whatever `process` leaves in the folder of `output` is the result: the files are moved to the
    output folder of the run by rename once the attempt has won, and thrown away otherwise.
    """

    def output_names(self, file: Path) -> Sequence[str]:
        """Names of the files that processing `file` leaves, the main one first."""

    def setup(self, gpu: str) -> None:
        """Get ready, once per worker: load the model. CUDA_VISIBLE_DEVICES is already set."""

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Process one file.

        Args:
            file: The input.
            output: Where the main result goes, in an empty folder that belongs to this attempt
                alone; further results go beside it.
            progress: To be called as the work goes on.

        Returns:
            What the file held.

        Raises:
            SequenceFileError: The file's content is at fault; no other attempt could do better.
            Exception: Anything else; the attempt failed and another worker may try.
        """

    def close(self) -> None:
        """Give back what `setup` took."""
