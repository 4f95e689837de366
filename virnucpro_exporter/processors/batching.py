"""Embeds sequences in batches of like length; what the model is, only the caller knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Vector = TypeVar("Vector")
Tokens = Sequence[int]


class Batcher(Generic[Vector]):
    """Cuts sequences into batches, and halves them when they do not fit into the memory.

    A smaller batch that was found to fit stays the limit for all that follows.

    Args:
        embed: Makes one vector of each sequence of a batch; `MemoryError` when it does not fit.
        tokens_per_batch: The most tokens of a batch, padding included. A longer sequence is a batch
            of its own.
    """

    def __init__(
        self, embed: Callable[[Sequence[Tokens]], Sequence[Vector]], tokens_per_batch: int
    ) -> None:
        self._embed = embed
        self.tokens_per_batch = tokens_per_batch

    def embed(
        self, sequences: Sequence[Tokens], report: Callable[[Sequence[int]], None]
    ) -> list[Vector]:
        """Embed sequences of any lengths.

        Args:
            sequences: The tokens of each, at least one.
            report: Called after each batch with the indices of its sequences.

        Returns:
            A vector for each sequence, in the order of `sequences`.

        Raises:
            MemoryError: A sequence alone does not fit.
        """
        # The longest come first, so that a lack of memory shows at once.
        order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
        vectors: dict[int, Vector] = {}
        while len(vectors) < len(order):
            rest = order[len(vectors) :]
            longest = len(sequences[rest[0]])
            batch = rest[: max(1, self.tokens_per_batch // longest)]
            try:
                made = self._embed([sequences[index] for index in batch])
            except MemoryError:
                if len(batch) == 1:
                    raise
                self.tokens_per_batch = longest * (len(batch) // 2)
                continue
            vectors.update(zip(batch, made, strict=True))
            report(batch)
        return [vectors[index] for index in range(len(order))]
