from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.processors.batching import Batcher

Batch = Sequence[Sequence[int]]


class Memory:
    """Makes a vector of the tokens themselves, as long as a batch fits."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.batches: list[int] = []
        self.failures = 0

    def __call__(self, batch: Batch) -> list[tuple[int, ...]]:
        size = len(batch) * max(map(len, batch))
        if size > self._tokens:
            self.failures += 1
            raise MemoryError
        self.batches.append(size)
        return [tuple(sequence) for sequence in batch]


SEQUENCES = st.lists(st.lists(st.integers(0, 32), min_size=1, max_size=30), max_size=40)


@given(SEQUENCES, st.integers(1, 200), st.integers(30, 400))
def test_every_sequence_keeps_its_vector(
    sequences: list[list[int]], tokens_per_batch: int, memory: int
) -> None:
    """Whatever the batches and the memory, vectors come in order and each is reported once."""
    embed = Memory(memory)
    reported: list[int] = []
    made = Batcher(embed, tokens_per_batch).embed(sequences, reported.extend)
    assert made == [tuple(sequence) for sequence in sequences]
    assert sorted(reported) == list(range(len(sequences)))
    longest = max(map(len, sequences), default=0)
    assert all(size <= max(tokens_per_batch, longest) for size in embed.batches)


def test_like_lengths_share_a_batch() -> None:
    """Sequences are batched by length, the longest first, as many as the tokens allow."""
    embed = Memory(1000)
    sequences = [[0] * length for length in (1, 50, 2, 50, 49, 3)]
    reports: list[list[int]] = []
    Batcher(embed, 100).embed(sequences, lambda batch: reports.append(list(batch)))
    assert reports == [[1, 3], [4, 5], [2, 0]]


def test_limit_that_was_found_stays() -> None:
    """Memory runs out once, not once for every batch or file."""
    embed = Memory(120)
    batcher = Batcher(embed, 400)
    for _ in range(3):
        batcher.embed([[0] * 10] * 100, lambda _: None)
    assert embed.failures == 2  # 400 and 200 tokens; 100 fit
    assert set(embed.batches) == {100}


def test_sequence_that_does_not_fit_alone_ends_it() -> None:
    """Nothing is left to halve."""
    with pytest.raises(MemoryError):
        Batcher(Memory(9), 100).embed([[0] * 10], lambda _: None)
