"""VirNucPro's chunks and six frames as its own code makes them: base by base, codon by codon.

It shares nothing with the processor but the definitions. tests/unit/test_translate.py also has the
digests of what VirNucPro itself writes for a genome.
"""

from __future__ import annotations

from collections.abc import Iterable

# The standard code as a table of amino acids and their codons, unlike the packed one under test.
CODONS = {
    "F": "TTT TTC", "L": "TTA TTG CTT CTC CTA CTG", "I": "ATT ATC ATA", "M": "ATG",
    "V": "GTT GTC GTA GTG", "S": "TCT TCC TCA TCG AGT AGC", "P": "CCT CCC CCA CCG",
    "T": "ACT ACC ACA ACG", "A": "GCT GCC GCA GCG", "Y": "TAT TAC", "*": "TAA TAG TGA",
    "H": "CAT CAC", "Q": "CAA CAG", "N": "AAT AAC", "K": "AAA AAG", "D": "GAT GAC",
    "E": "GAA GAG", "C": "TGT TGC", "W": "TGG", "R": "CGT CGC CGA CGG AGA AGG",
    "G": "GGT GGC GGA GGG",
}  # fmt: skip
AMINO_ACIDS = {codon: letter for letter, codons in CODONS.items() for codon in codons.split()}
PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A"}


def slow_frames(chunk: str) -> list[tuple[str, str, str]]:
    """Six frames the obvious way."""
    found = []
    reverse = "".join(PAIRS.get(base, base) for base in reversed(chunk))
    for letter, strand in (("F", chunk), ("R", reverse)):
        for frame in range(3):
            codons = [strand[i : i + 3] for i in range(frame, len(strand) - 2, 3)]
            protein = "".join(AMINO_ACIDS.get(codon, "") for codon in codons)
            if protein and "*" not in protein:
                end = frame + 1 + 3 * len(protein)
                found.append((f"{letter}{frame + 1}", strand[frame:end], protein))
    return found


def slow_starts(length: int, size: int) -> list[int]:
    """Where chunks start, by the list of shifts as VirNucPro defines it."""
    number = -(-length // size)
    if not number:
        return []
    overlap = number * size - length
    shift = overlap // number
    need = overlap - shift * (number - 1)
    shifts = [shift + 1] * need + [shift] * max(0, number - need - 1) + [0]
    return [k * size - sum(shifts[:k]) for k in range(number)]


def slow_results(records: Iterable[tuple[str, str]], size: int) -> dict[str, str]:
    """The three results for a file of these names and sequences, by the end of their names."""
    chunks, nucleotides, proteins = [], [], []
    for name, sequence in records:
        for number, start in enumerate(slow_starts(len(sequence), size), 1):
            chunk = sequence[start : start + size]
            lines = [chunk[i : i + 60] for i in range(0, len(chunk), 60)]
            chunks.append("\n".join([f">{name}_chunk_{number}", *lines, ""]))
            for frame, bases, protein in slow_frames(chunk.upper()):
                nucleotides.append(f">{name}_chunk_{number}{frame}\n{bases}\n")
                proteins.append(f">{name}_chunk_{number}{frame}\n{protein}\n")
    return {
        f"chunked{size}.fa": "".join(chunks),
        "identified_nucleotide.fa": "".join(nucleotides),
        "identified_protein.faa": "".join(proteins),
    }
