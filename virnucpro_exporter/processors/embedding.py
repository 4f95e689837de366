"""What VirNucPro's two embedding stages share: one vector for every sequence of a file.

A file is worked off in windows of sequences, so that the tokens of a long file need little memory;
those of the next window are made while the device computes. The vectors stay in memory until its
end, as arrays: VirNucPro reads them from one file.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from virnucpro_exporter.errors import ProcessorError, SequenceFileError, VirnucproError
from virnucpro_exporter.processors.ahead import ahead
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.batching import Tokens
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
        tokens_per_batch: The most tokens that go through the model together; None: as many as suit.
        trust_remote_code: Whether Python code that comes with the model may be run.
        precision: `auto`, or in what numbers the model computes: `bf16`, `fp16`, `fp32`.
    """

    suffix: ClassVar[str]

    def __init__(
        self,
        model: str,
        *,
        tokens_per_batch: int | None = None,
        trust_remote_code: bool = False,
        precision: str = "auto",
    ) -> None:
        self.folder = model
        self.trust_remote_code = trust_remote_code
        self.tokens_per_batch = tokens_per_batch
        self.precision = precision
        self._model: Model | None = None

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
    def save(self, names: Sequence[str], vectors: Any, output: Path) -> None:
        """Write what VirNucPro's merge step reads; `vectors` has a row for each name."""

    def clip(self, sequence: bytes) -> bytes:
        """The part of a sequence that is embedded."""
        return sequence

    def output_names(self, file: Path) -> Sequence[str]:
        """The name of the file without its suffix, and VirNucPro's after it."""
        return (stem(file.name) + self.suffix,)

    def setup(self, gpu: str) -> None:
        """Load the model."""
        self._model = self.load(gpu)

    def close(self) -> None:
        """Let the model go."""
        self._model = None

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Embed every sequence of a file.

        Raises:
            SequenceFileError: The content is at fault: a sequence is empty, has the name of another
                or is too long for the model, or the file holds the wrong kind of sequences.
            MemoryError: A sequence alone does not fit into the memory.
            NotFiniteError: A vector has a value that is NaN or infinite: the model or the GPU is
                at fault, not the file.
        """
        from virnucpro_exporter.processors.vectors import join  # noqa: PLC0415 - loads PyTorch

        if self._model is None:
            raise ProcessorError("setup has not been called")
        model = self._model
        names: dict[str, None] = {}
        parts: list[Any] = []
        tally = Tally(progress)
        for window, tokens in ahead(self._encoded(model, read_step(file), names)):
            vectors = model.vectors(tokens, partial(tally.add, window))
            check_finite(window, vectors)
            parts.append(vectors.cpu())
        self.save(list(names), join(parts, model.width), output)
        return Processed(tally.sequences, tally.residues)

    def _encoded(
        self, model: Model, records: Iterator[Record], names: dict[str, None]
    ) -> Iterator[tuple[list[Record], Sequence[Tokens]]]:
        """Windows of records, checked, and their tokens."""
        for window in _windows(records):
            _add_names(window, names)
            self.check(window)
            tokens = model.encode([self.clip(record.sequence) for record in window])
            check_lengths(window, tokens, model.longest)
            yield window, tokens


def check_lengths(window: Iterable[Record], tokens: Iterable[Tokens], longest: int | None) -> None:
    """Refuse sequences that are longer than a model can take.

    Raises:
        SequenceFileError: There is one.
    """
    if longest is None:
        return
    for record, found in zip(window, tokens, strict=True):
        if len(found) > longest:
            raise SequenceFileError(
                f"{shown(record)} makes {len(found)} tokens; the model takes {longest}"
            )


def check_finite(window: Sequence[Record], vectors: Any) -> None:
    """Make sure of vectors, or scores.

    Raises:
        NotFiniteError: One holds a value that is NaN or infinite.
    """
    from virnucpro_exporter.processors.transformer import not_finite  # noqa: PLC0415 - PyTorch

    for row in not_finite(vectors)[:1]:
        raise NotFiniteError(f"{shown(window[row])}; suspect the GPU, or else the model")


class Tally:
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
