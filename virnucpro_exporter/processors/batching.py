"""Cuts sequences into batches of similar length, independent of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Made = TypeVar("Made")
Tokens = Sequence[int]

log = logging.getLogger(__name__)

# After a lack of memory batches grow back by a quarter, at first after so many that fitted, and
# after twice as many each time that they had grown too far.
PATIENCE = 16
MOST_PATIENCE = 1024
GROWTH = 1.25


class Batcher:
    """Cuts sequences into batches, and halves them when they do not fit into the memory.

    Args:
        tokens_per_batch: The most tokens of a batch. A longer sequence is a batch of its own.
        is_packed: The model needs no padding; elsewhere it counts as tokens.

    Attributes:
        tokens_per_batch: The most tokens of a batch at present.
        shortages: How often a batch did not fit.
    """

    def __init__(self, tokens_per_batch: int, *, is_packed: bool = False) -> None:
        self._most = tokens_per_batch
        self._is_packed = is_packed
        self._patience = PATIENCE
        self._fitted = 0
        self._before_growth: int | None = None
        self.tokens_per_batch = tokens_per_batch
        self.shortages = 0

    def batches(
        self, sequences: Sequence[Tokens], embed: Callable[[Sequence[Tokens]], Made]
    ) -> Iterator[tuple[list[int], Made]]:
        """Embed sequences of any lengths, the longest first: so a lack of memory shows at once.

        Args:
            sequences: The tokens of each, at least one.
            embed: Embeds a batch; `MemoryError` when it does not fit.

        Yields:
            The indices of the sequences of a batch, and what was made of it.

        Raises:
            MemoryError: A sequence alone does not fit.
        """
        order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
        done = 0
        while done < len(order):
            batch = self._cut(sequences, order, done)
            try:
                made = embed([sequences[index] for index in batch])
            except MemoryError:
                if len(batch) == 1:
                    raise
                self._shrink(self._size(sequences, batch[: len(batch) // 2]))
                continue
            self._note_fit()
            done += len(batch)
            yield batch, made

    def _cut(self, sequences: Sequence[Tokens], order: Sequence[int], done: int) -> list[int]:
        """The next batch, of one sequence at least."""
        longest = len(sequences[order[done]])
        batch, room = [order[done]], self.tokens_per_batch - longest
        for place in range(done + 1, len(order)):
            room -= len(sequences[order[place]]) if self._is_packed else longest
            if room < 0:
                break
            batch.append(order[place])
        return batch

    def _size(self, sequences: Sequence[Tokens], batch: Sequence[int]) -> int:
        lengths = [len(sequences[index]) for index in batch]
        return sum(lengths) if self._is_packed else max(lengths) * len(lengths)

    def _shrink(self, half: int) -> None:
        """Go back to what fitted before it grew, or else to half of what did not fit."""
        self.shortages += 1
        self._fitted = 0
        if self._before_growth is None:
            self.tokens_per_batch = half
        else:
            self.tokens_per_batch = self._before_growth
            self._before_growth = None
            self._patience = min(2 * self._patience, MOST_PATIENCE)
        log.warning(
            "out of memory (%d so far): batches are reduced to %d tokens",
            self.shortages,
            self.tokens_per_batch,
        )

    def _note_fit(self) -> None:
        self._fitted += 1
        if self.tokens_per_batch < self._most and self._fitted >= self._patience:
            self._fitted = 0
            self._before_growth = self.tokens_per_batch
            grown = int(self.tokens_per_batch * GROWTH) + 1
            self.tokens_per_batch = min(self._most, grown)
