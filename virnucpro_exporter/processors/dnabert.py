"""VirNucPro's nucleotide stage: DNABERT-S vectors of open frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.processors.embedding import EmbeddingProcessor, shown
from virnucpro_exporter.sequences import ONLY_PROTEIN, Record

if TYPE_CHECKING:
    from virnucpro_exporter.processors.transformer import Model


class DnabertProcessor(EmbeddingProcessor):
    """Embeds nucleotides: the mean of the last hidden layer over all tokens of a sequence."""

    suffix = "_DNABERT_S.pt"

    def load(self, gpu: str) -> Model:
        """A BERT for nucleotides."""
        from virnucpro_exporter.processors.transformer import load_dnabert  # noqa: PLC0415 - PyTorch

        return load_dnabert(
            self.folder,
            gpu,
            trust_remote_code=self.trust_remote_code,
            tokens_per_batch=self.tokens_per_batch,
            precision=self.precision,
        )

    def check(self, window: Sequence[Record]) -> None:
        """Refuse proteins.

        Raises:
            SequenceFileError: A sequence has letters that stand for no nucleotide.
        """
        for record in window:
            if len(record.sequence.translate(None, ONLY_PROTEIN)) < len(record.sequence):
                raise SequenceFileError(
                    f"{shown(record)} is a protein, but dnabert needs nucleotides"
                )

    def save(self, names: Sequence[str], vectors: list[Any], output: Path) -> None:
        """`nucleotide`: the names; `data`: name and vector of each, the latter as a list."""
        from virnucpro_exporter.processors.vectors import save_nucleotides  # noqa: PLC0415 - PyTorch

        save_nucleotides(names, vectors, output)
