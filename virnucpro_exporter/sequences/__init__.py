"""FASTA and FASTQ, plain or compressed, whole files and parts of them.

Files are opened by the operating system's own call, so any path works, and are told apart by their
first bytes, never by their suffix.

Faults of the content raise `SequenceFileError` (no other attempt could do better). Faults of the
machine, such as a vanished file or a failing disk, stay `OSError` (another attempt might work).
"""

from virnucpro_exporter.sequences.copies import copy_part
from virnucpro_exporter.sequences.names import (
    SUFFIXES,
    is_sequence_name,
    stem,
    without_compression,
)
from virnucpro_exporter.sequences.parts import (
    OpenPart,
    Part,
    Shrunk,
    extent,
    read_sequences,
)
from virnucpro_exporter.sequences.records import ONLY_PROTEIN, Record

__all__ = [
    "ONLY_PROTEIN",
    "SUFFIXES",
    "OpenPart",
    "Part",
    "Record",
    "Shrunk",
    "copy_part",
    "extent",
    "is_sequence_name",
    "read_sequences",
    "stem",
    "without_compression",
]
