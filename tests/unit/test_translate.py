from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slow_translation import slow_frames, slow_starts
from virnucpro_exporter.errors import ProcessorError, SequenceFileError
from virnucpro_exporter.processors.base import Processed
from virnucpro_exporter.processors.translate import (
    TranslateProcessor,
    split_chunks,
    translate_frames,
)

PHAGE = Path(__file__).parents[2] / "examples" / "lambda_phage.fa"
# Of what VirNucPro itself writes for the genome at 500 bases.
PHAGE_DIGESTS = {
    "lambda_phage_chunked500.fa": (
        "295afd729b1bf09dd74e6cb56ccc86a65490c8f5c6daefab73fd5111ed872cb3"
    ),
    "lambda_phage_identified_nucleotide.fa": (
        "83b6db2fe141335bfff5997a2c739a05dba6c64e8cb3fac87172456521d3a7cb"
    ),
    "lambda_phage_identified_protein.faa": (
        "cc3cc053546e27bf2164c1a0a1b3d577afdc5d577ac0be2370b384d281344195"
    ),
}


def run(content: bytes, folder: Path, size: int = 500) -> tuple[Processed, list[bytes]]:
    """Process a file of this content; return what was said of it and the three outputs."""
    file = folder / "x.fa"
    file.write_bytes(content)
    processor = TranslateProcessor(size)
    names = processor.output_names(file)
    result = processor.process(file, folder / names[0], lambda _sequences, _residues=None: None)
    return result, [(folder / name).read_bytes() for name in names]


def test_phage_is_what_virnucpro_writes(tmp_path: Path) -> None:
    """The results for the lambda phage are VirNucPro's own, byte for byte."""
    processor = TranslateProcessor()
    names = processor.output_names(PHAGE)
    reports: list[tuple[int, int | None]] = []

    def progress(sequences: int, residues: int | None = None) -> None:
        reports.append((sequences, residues))

    processor.setup("cpu0")
    assert processor.process(PHAGE, tmp_path / names[0], progress) == Processed(1, 48502)
    processor.close()
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    assert digests == PHAGE_DIGESTS
    assert tuple(names) == tuple(PHAGE_DIGESTS)
    assert reports == sorted(reports)
    assert reports[-1] == (1, 48502)


@given(st.text("ACGTN", max_size=60) | st.text("ACGTNRYU-", max_size=60))
def test_frames_against_the_slow_way(chunk: str) -> None:
    """Frames, proteins and nucleotides are those of codon by codon translation."""
    found = [tuple(part.decode() for part in frame) for frame in translate_frames(chunk.encode())]
    assert found == slow_frames(chunk)


@given(st.integers(0, 5000), st.sampled_from([300, 500]))
def test_chunks_cover_the_sequence(length: int, size: int) -> None:
    """Chunks start where VirNucPro starts them, are at most `size` long and leave no gap."""
    sequence = bytes(i * i % 251 for i in range(length))
    starts = slow_starts(length, size)
    chunks = list(split_chunks(sequence, size))
    assert chunks == [sequence[start : start + size] for start in starts]
    end = 0
    for start, chunk in zip(starts, chunks, strict=True):
        assert start <= end
        assert 0 < len(chunk) <= size
        end = start + len(chunk)
    assert end == length


def test_layout(tmp_path: Path) -> None:
    """Chunks keep their case and wrap at 60 columns, frames are upper-case and on one line."""
    result, (chunks, nucleotides, proteins) = run(
        b">r1 some text\r\n" + b"ggcnnngct" * 8 + b"\r\n>r2\n>r3\nAC\n", tmp_path
    )
    assert result == Processed(3, 74)
    sequence = b"ggcnnngct" * 8
    assert chunks == (
        b">r1_chunk_1\n" + sequence[:60] + b"\n" + sequence[60:] + b"\n>r3_chunk_1\nAC\n"
    )
    assert nucleotides.startswith(b">r1_chunk_1F1\n" + sequence[:49].upper() + b"\n")
    assert proteins.startswith(b">r1_chunk_1F1\nGAGAGAGAGAGAGAGA\n>r1_chunk_1F2\n")


def test_progress_within_a_long_sequence(tmp_path: Path) -> None:
    """Progress is reported within a sequence, and never more than there is."""
    file = tmp_path / "genome.fa"
    file.write_bytes(b">g\n" + b"ACGTACGGT" * 30_000 + b"\n")
    reports: list[tuple[int, int | None]] = []

    def progress(sequences: int, residues: int | None = None) -> None:
        reports.append((sequences, residues))

    TranslateProcessor(300).process(file, tmp_path / "out.fa", progress)
    assert reports == [(0, 60_000), (0, 120_000), (0, 180_000), (0, 240_000), (1, 270_000)]


@pytest.mark.parametrize("content", [b">a\nNNNN\n", b">a\nACUU\n", b">a\n"])
def test_little_to_translate(tmp_path: Path, content: bytes) -> None:
    """Masked, RNA and empty sequences are processed, and give no frames."""
    assert run(content, tmp_path)[1][1:] == [b"", b""]


def test_no_nucleotides(tmp_path: Path) -> None:
    """A file without any nucleotide is refused."""
    with pytest.raises(SequenceFileError, match="it contains no nucleotides"):
        run(b">p\nMKVWYRSDH\n", tmp_path)


def test_chunk_size() -> None:
    """Only the chunk sizes that VirNucPro has models for are accepted."""
    with pytest.raises(ProcessorError, match="300 or 500 bases, not 400"):
        TranslateProcessor(400)


@pytest.mark.parametrize("letter", "EFILPQe")
def test_proteins_are_refused(tmp_path: Path, letter: str) -> None:
    """A letter that stands for an amino acid alone fails the file, with the sequence's name."""
    with pytest.raises(SequenceFileError, match=f"sequence 'p' contains '{letter}'"):
        run(f">n\nACGTRYKMSWBDHVN\n>p 2\nMKVA{letter}\n".encode(), tmp_path)
