"""A unit of work and the states it goes through."""

from __future__ import annotations

import enum
import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SequenceFile:
    """One FASTA or FASTQ file.

    Attributes:
        path: Where it is; bytes that are not UTF-8 are kept as surrogate escapes (`os.fsdecode`).
        sequences: How many records it holds, or None when nobody has counted yet.
        residues: Bases or amino acids, counted or estimated: the cost of the file.
    """

    path: str
    sequences: int | None = None
    residues: int = 1

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return posixpath.basename(self.path)


class FileState(enum.Enum):
    """Where a file stands."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
