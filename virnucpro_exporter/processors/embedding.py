"""What VirNucPro's two embedding stages share: one vector for every sequence of a file.

A file is worked off in windows of sequences, so that the tokens of a long file need little memory.
Its vectors stay in memory until its end: VirNucPro reads them from one file.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from virnucpro_exporter.errors import ProcessorError, SequenceFileError, VirnucproError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.batching import Batcher, Tokens
from virnucpro_exporter.processors.steps import read_step
from virnucpro_exporter.sequences import Record, stem

if TYPE_CHECKING:
    from virnucpro_exporter.processors.transformer import Model

WINDOW = 4096  # sequences; enough that those of one batch are of about the same length


class NotFiniteError(VirnucproError):
    """The model gave a vector that is not finite."""


class EmbeddingProcessor(ABC):
    """Writes the vectors of all sequences of a file, in their order; one model per worker.

    Args:
        model: The folder of the model.
        tokens_per_batch: The most tokens that go through the model together.
        trust_remote_code: Whether Python code that comes with the model may be run.
    """

    suffix: ClassVar[str]

    def __init__(
        self, model: str, *, tokens_per_batch: int, trust_remote_code: bool = False
    ) -> None:
        self.folder = model
        self.trust_remote_code = trust_remote_code
        self._tokens_per_batch = tokens_per_batch
        self._model: Model | None = None
        self._batcher: Batcher[Any] | None = None

    @abstractmethod
    def load(self, gpu: str) -> Model:
        """The model, on the worker's device."""

    @abstractmethod
    def check(self, window: Sequence[Record]) -> None:
        """Refuse what the model is not made for.

        Raises:
            SequenceFileError: The file holds the wrong kind of sequences.
        """

    @abstractmethod
    def result(self, names: list[str], vectors: list[Any]) -> dict[str, Any]:
        """What VirNucPro's merge step reads."""

    def clip(self, sequence: bytes) -> bytes:
        """The part of a sequence that is embedded."""
        return sequence

    def output_names(self, file: Path) -> Sequence[str]:
        """The name of the file without its suffix, and VirNucPro's after it."""
        return (stem(file.name) + self.suffix,)

    def setup(self, gpu: str) -> None:
        """Load the model."""
        self._model = self.load(gpu)
        self._batcher = Batcher(self._model.embed, self._tokens_per_batch)

    def close(self) -> None:
        """Let the model go."""
        self._model = self._batcher = None

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Embed every sequence of a file.

        Raises:
            SequenceFileError: The content is at fault: a sequence is empty, has the name of another
                or is too long for the model, or the file holds the wrong kind of sequences.
            MemoryError: A sequence alone does not fit into the memory.
            NotFiniteError: A vector has a value that is NaN or infinite: the model or the GPU is
                at fault, not the file.
        """
        from virnucpro_exporter.processors.transformer import save  # noqa: PLC0415 - loads PyTorch

        names: dict[str, None] = {}
        vectors: list[Any] = []
        tally = _Tally(progress)
        for window in _windows(read_step(file)):
            _add_names(window, names)
            self.check(window)
            vectors += self._embed(window, tally)
        save(self.result(list(names), vectors), output)
        return Processed(tally.sequences, tally.residues)

    def _embed(self, window: Sequence[Record], tally: _Tally) -> list[Any]:
        if self._model is None or self._batcher is None:
            raise ProcessorError("setup has not been called")
        tokens = self._model.encode([self.clip(record.sequence) for record in window])
        self._check_lengths(window, tokens, self._model.longest)
        vectors = self._batcher.embed(tokens, partial(tally.add, window))
        _check_finite(window, vectors)
        return vectors

    def _check_lengths(
        self, window: Sequence[Record], tokens: Sequence[Tokens], longest: int | None
    ) -> None:
        if longest is None:
            return
        for record, found in zip(window, tokens, strict=True):
            if len(found) > longest:
                raise SequenceFileError(
                    f"{shown(record)} makes {len(found)} tokens; the model takes {longest}"
                )


def _check_finite(window: Sequence[Record], vectors: Sequence[Any]) -> None:
    from virnucpro_exporter.processors.transformer import is_finite  # noqa: PLC0415 - loads PyTorch

    # The vectors are on the CPU by now, so the GPU is not waited for once more.
    for record, vector in zip(window, vectors, strict=True):
        if not is_finite(vector):
            raise NotFiniteError(f"{shown(record)}; suspect the GPU, or else the model")


class _Tally:
    """Counts what is done within a file, and reports it."""

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress = progress
        self.sequences = 0
        self.residues = 0

    def add(self, window: Sequence[Record], batch: Sequence[int]) -> None:
        """Count a batch, given by its indices in the window."""
        self.sequences += len(batch)
        self.residues += sum(len(window[index].sequence) for index in batch)
        self._progress(self.sequences, self.residues)


def shown(record: Record) -> str:
    """A sequence by its name, for an error message."""
    return f"sequence {record.name.decode('utf-8', 'backslashreplace')!r}"


def _windows(records: Iterator[Record]) -> Iterator[list[Record]]:
    while window := list(itertools.islice(records, WINDOW)):
        yield window


def _add_names(window: Sequence[Record], names: dict[str, None]) -> None:
    """Note the names, by which VirNucPro finds the two vectors of a chunk again."""
    for record in window:
        if not record.sequence:
            raise SequenceFileError(f"{shown(record)} is empty; remove it")
        name = record.name.decode("utf-8", "backslashreplace")
        if name in names:
            raise SequenceFileError(f"{shown(record)} is there twice; rename one")
        names[name] = None
