"""VirNucPro's protein stage: ESM-2 vectors of translated frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.processors.embedding import EmbeddingProcessor
from virnucpro_exporter.sequences import Record

if TYPE_CHECKING:
    from virnucpro_exporter.processors.transformer import Model

LONGEST = 1024  # residues
NUCLEOTIDES = b"ACGTUNacgtun"
# All of them nucleotides: that many letters are no protein. A few may well be one.
TELLING_LETTERS = 1000


class Esm2Processor(EmbeddingProcessor):
    """Embeds proteins: the mean of the last hidden layer over residues, at most the first 1,024."""

    suffix = "_ESM.pt"
    is_direct = True

    def load(self, gpu: str) -> Model:
        """An ESM-2."""
        from virnucpro_exporter.processors.transformer import load_esm2  # noqa: PLC0415 - PyTorch

        return load_esm2(
            self.folder,
            gpu,
            tokens_per_batch=self.tokens_per_batch,
            precision=self.precision,
        )

    def check(self, window: Sequence[Record]) -> None:
        """Refuse nucleotides.

        Raises:
            SequenceFileError: Nothing but nucleotides, and many of them.
        """
        letters = sum(len(record.sequence) for record in window)
        if letters >= TELLING_LETTERS and not any(
            record.sequence.translate(None, NUCLEOTIDES) for record in window
        ):
            raise SequenceFileError("it contains nucleotides, but esm2 needs proteins")

    def clip(self, sequence: bytes) -> bytes:
        """The first 1,024 residues."""
        return sequence[:LONGEST]

    def save(self, names: Sequence[str], vectors: list[Any], output: Path) -> None:
        """`proteins`: the names; `data`: a float32 tensor for each."""
        from virnucpro_exporter.processors.vectors import save_proteins  # noqa: PLC0415 - PyTorch

        save_proteins(names, vectors, output)
