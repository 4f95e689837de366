"""VirNucPro's chunking and six-frame stage, byte for byte.

All six frames of a chunk come from whole-string operations. With bases as the digits 0 to 3, the
codon at every position is the number 16 a + 4 b + c; reading a chunk as one big integer, two
additions compute the codons at all positions at once, without a carry between bytes. A frame is
then every third codon; on the reverse strand the same codons, complemented, are read backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from virnucpro_exporter.errors import ProcessorError, SequenceFileError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.steps import read_step
from virnucpro_exporter.sequences import ONLY_PROTEIN, OpenPart, stem

CHUNK_SIZES = (300, 500)
CHUNKS_PER_REPORT = 200
LINE_COLUMNS = 60

BASES = b"TCAG"
# The standard genetic code, codons in the order TTT, TTC, TTA, TTG, TCT, ... GGG.
STANDARD_CODE = b"FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
STOP, UNKNOWN = b"*", b"?"
# A file that holds none of these letters is no nucleotide file. U and N count: RNA and masked
# sequence are nucleotides, although their codons add nothing.
NUCLEOTIDES = b"ACGTUNacgtun"


def _digit_table(factor: int) -> bytes:
    """Map each base to its digit times `factor`, any other letter to 64: beyond every codon."""
    table = bytearray([64] * 256)
    for digit, base in enumerate(BASES):
        table[base] = digit * factor
    return bytes(table)


def _reverse_code() -> bytes:
    """The code by the codon on the other strand: TTT there is AAA here."""
    codons = [bytes([a, b, c]) for a in BASES for b in BASES for c in BASES]
    code = dict(zip(codons, STANDARD_CODE, strict=True))
    return bytes(code[codon.translate(COMPLEMENT)[::-1]] for codon in codons)


DIGITS = tuple(_digit_table(factor) for factor in (16, 4, 1))
FORWARD_CODE = STANDARD_CODE.ljust(256, UNKNOWN)
REVERSE_CODE = _reverse_code().ljust(256, UNKNOWN)


def split_chunks(sequence: bytes, size: int) -> Iterator[bytes]:
    """Cut a sequence into chunks of at most `size` that overlap as evenly as they can.

    Args:
        sequence: Any length; an empty one has no chunks.
        size: Longest chunk, in bases.

    Yields:
        ceil(length / size) chunks that together cover the sequence.
    """
    number = -(-len(sequence) // size)
    if not number:
        return
    overlap = number * size - len(sequence)
    shift = overlap // number
    wider = overlap - shift * (number - 1)  # this many chunks are shifted by one base more
    for k in range(number):
        start = k * (size - shift) - min(k, wider)
        yield sequence[start : start + size]


def translate_frames(chunk: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Translate a chunk in six frames, and keep the open ones.

    Args:
        chunk: Upper-case bases; a codon with any letter but A, C, G and T adds nothing.

    Yields:
        (`F1` to `F3` and `R1` to `R3`, nucleotides, protein) of each frame that has a protein and
        no stop. The nucleotides have one base more than the codons, as VirNucPro writes them.
    """
    length = len(chunk) - 2
    if length < 1:
        return
    first, second, third = (
        int.from_bytes(chunk[i : i + length].translate(DIGITS[i]), "little") for i in range(3)
    )
    codons = (first + second + third).to_bytes(length, "little")
    forward = codons.translate(FORWARD_CODE)
    backward = codons.translate(REVERSE_CODE)[::-1]
    for strand, residues in ((b"F", forward), (b"R", backward)):
        bases = chunk
        for frame in range(3):
            protein = residues[frame::3]
            if STOP in protein:
                continue
            protein = protein.replace(UNKNOWN, b"")
            if protein:
                if strand == b"R":
                    bases = chunk.translate(COMPLEMENT)[::-1]
                nucleotides = bases[frame : frame + 1 + 3 * len(protein)]
                yield strand + b"%d" % (frame + 1), nucleotides, protein


def format_fasta(name: bytes, sequence: bytes) -> bytes:
    """One FASTA record, wrapped at 60 columns."""
    starts = range(0, len(sequence), LINE_COLUMNS)
    lines = [sequence[start : start + LINE_COLUMNS] for start in starts]
    return b">%s\n%s\n" % (name, b"\n".join(lines))


class TranslateProcessor:
    """Splits the sequences of a file into chunks and translates each in six frames.

    Args:
        chunk_size: Longest chunk in bases, 300 or 500.

    Raises:
        ProcessorError: VirNucPro has no models for chunks of this size.
    """

    joins = "concatenate"

    def __init__(self, chunk_size: int = 500) -> None:
        if chunk_size not in CHUNK_SIZES:
            raise ProcessorError(f"translate cuts chunks of 300 or 500 bases, not {chunk_size}")
        self.chunk_size = chunk_size

    def output_names(self, file: Path) -> Sequence[str]:
        """The chunks, and the nucleotides and proteins of their open frames."""
        base = stem(file.name)
        return (
            f"{base}_chunked{self.chunk_size}.fa",
            f"{base}_identified_nucleotide.fa",
            f"{base}_identified_protein.faa",
        )

    def setup(self, gpu: str) -> None:
        """Nothing to load: the work is done on the CPU."""

    def close(self) -> None:
        """Nothing to give back."""

    def process(self, file: Path | OpenPart, output: Path, progress: ProgressCallback) -> Processed:
        """Write the three results; memory is bounded by the longest sequence.

        Raises:
            SequenceFileError: The content is at fault, or is protein.
        """
        _, nucleotides, proteins = (output.parent / name for name in self.output_names(Path(file)))
        with (
            output.open("wb") as chunk_file,
            nucleotides.open("wb") as nucleotide_file,
            proteins.open("wb") as protein_file,
        ):
            return self._translate(file, (chunk_file, nucleotide_file, protein_file), progress)

    def _translate(
        self,
        file: Path | OpenPart,
        outputs: tuple[BinaryIO, BinaryIO, BinaryIO],
        progress: ProgressCallback,
    ) -> Processed:
        chunk_file, nucleotide_file, protein_file = outputs
        sequences = residues = chunks = 0
        is_nucleotide = False
        for name, sequence in read_step(file):
            refuse_protein(name, sequence)
            is_nucleotide = is_nucleotide or has_nucleotides(sequence)
            for k, chunk in enumerate(split_chunks(sequence, self.chunk_size), 1):
                chunk_name = b"%s_chunk_%d" % (name, k)
                chunk_file.write(format_fasta(chunk_name, chunk))
                for frame, bases, protein in translate_frames(chunk.upper()):
                    nucleotide_file.write(b">%s%s\n%s\n" % (chunk_name, frame, bases))
                    protein_file.write(b">%s%s\n%s\n" % (chunk_name, frame, protein))
                chunks += 1
                if chunks % CHUNKS_PER_REPORT == 0:
                    progress(sequences, residues + min(k * self.chunk_size, len(sequence)))
            sequences += 1
            residues += len(sequence)
        is_part = (
            isinstance(file, OpenPart) and not file.is_whole
        )  # it is not representative of the file
        if residues and not is_nucleotide and not is_part:
            raise SequenceFileError("it contains no nucleotides; is it a protein file?")
        progress(sequences, residues)
        return Processed(sequences, residues)


def has_nucleotides(sequence: bytes) -> bool:
    """Whether a sequence has letters that stand for nucleotides."""
    return len(sequence.translate(None, NUCLEOTIDES)) < len(sequence)


def refuse_protein(name: bytes, sequence: bytes) -> None:
    """Refuse a sequence with letters that stand for amino acids alone.

    Raises:
        SequenceFileError: It has one.
    """
    nucleotides = sequence.translate(None, ONLY_PROTEIN)
    if len(nucleotides) < len(sequence):
        letter = next(chr(letter) for letter in sequence if letter in ONLY_PROTEIN)
        raise SequenceFileError(
            f"sequence {name.decode('utf-8', 'backslashreplace')!r} contains {letter!r}, which is "
            "an amino acid, not a nucleotide"
        )
