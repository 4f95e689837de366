from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.processors.batching import PATIENCE, Batcher

Batch = Sequence[Sequence[int]]


class Memory:
    """Makes a vector of the tokens themselves, as long as a batch fits."""

    def __init__(self, tokens: int, *, is_packed: bool = False) -> None:
        self.tokens = tokens
        self._is_packed = is_packed
        self.batches: list[int] = []
        self.failures = 0

    def __call__(self, batch: Batch) -> list[tuple[int, ...]]:
        lengths = list(map(len, batch))
        size = sum(lengths) if self._is_packed else len(batch) * max(lengths)
        if size > self.tokens:
            self.failures += 1
            raise MemoryError
        self.batches.append(size)
        return [tuple(sequence) for sequence in batch]


SEQUENCES = st.lists(st.lists(st.integers(0, 32), min_size=1, max_size=30), max_size=40)


@given(SEQUENCES, st.integers(1, 200), st.integers(30, 400), st.booleans())
def test_every_sequence_is_embedded_once(
    sequences: list[list[int]], tokens_per_batch: int, memory: int, is_packed: bool
) -> None:
    """Whatever the batches and the memory, each sequence is in one batch, with its own vector."""
    embed = Memory(memory, is_packed=is_packed)
    batcher = Batcher(tokens_per_batch, is_packed=is_packed)
    made: dict[int, tuple[int, ...]] = {}
    for batch, vectors in batcher.batches(sequences, embed):
        assert not made.keys() & set(batch)
        made.update(zip(batch, vectors, strict=True))
    assert made == dict(enumerate(map(tuple, sequences)))
    longest = max(map(len, sequences), default=0)
    assert all(size <= max(tokens_per_batch, longest) for size in embed.batches)


@pytest.mark.parametrize(
    ("is_packed", "batches"), [(False, [[1, 3], [4, 5], [2, 0]]), (True, [[1, 3], [4, 5, 2, 0]])]
)
def test_like_lengths_share_a_batch(is_packed: bool, batches: list[list[int]]) -> None:
    """Sequences are batched by length, the longest first, as many as the tokens allow."""
    sequences = [[0] * length for length in (1, 50, 2, 50, 49, 3)]
    batcher = Batcher(100, is_packed=is_packed)
    found = [batch for batch, _ in batcher.batches(sequences, Memory(1000, is_packed=is_packed))]
    assert found == batches


def test_batches_grow_back() -> None:
    """After a lack of memory they grow again, and try less and less often what did not fit."""
    embed = Memory(120)
    batcher = Batcher(400)
    list(batcher.batches([[0] * 10] * 1000, embed))
    assert embed.batches[:PATIENCE] == [100] * PATIENCE  # 400 and 200 tokens did not fit
    assert embed.failures == batcher.shortages
    first = embed.failures
    list(batcher.batches([[0] * 10] * 10_000, embed))
    assert embed.failures - first < 7
    embed.tokens = 1000
    list(batcher.batches([[0] * 10] * 100_000, embed))
    assert embed.batches[-2] == 400


def test_sequence_that_does_not_fit_alone_ends_it() -> None:
    """Nothing is left to halve."""
    with pytest.raises(MemoryError):
        list(Batcher(100).batches([[0] * 10], Memory(9)))
