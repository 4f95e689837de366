"""Names of sequence files."""

from __future__ import annotations

SUFFIXES = (".fa", ".fasta", ".fna", ".faa", ".fas", ".fsa", ".ffn", ".frn", ".fq", ".fastq")
COMPRESSED_SUFFIXES = (".gz", ".bgz", ".bz2", ".xz", ".zst")


def is_sequence_name(name: str) -> bool:
    """Whether a file name ends in a known suffix, compressed or not, in any case."""
    lower = name.lower()  # most names end with it, and there may be a million of them
    return lower.endswith(SUFFIXES) or without_compression(lower).endswith(SUFFIXES)


def stem(name: str) -> str:
    """A file name without its compression's and its sequence suffix: `a.b.fa.gz` gives `a.b`."""
    plain = without_compression(name)
    return _without(SUFFIXES, plain)


def without_compression(name: str) -> str:
    """A file name without its compression's suffix: `a.fa.gz` gives `a.fa`."""
    return _without(COMPRESSED_SUFFIXES, name)


def _without(suffixes: tuple[str, ...], name: str) -> str:
    """The name without one of these suffixes, which is not all of it."""
    stem, dot, last = name.rpartition(".")
    return stem if stem and (dot + last).lower() in suffixes else name
