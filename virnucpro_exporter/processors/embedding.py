"""What VirNucPro's two embedding stages share: one vector for every sequence of a file.

The vectors of a file stay in memory until its end, as arrays: VirNucPro reads them from one file.
A part of a file leaves its arrays as they are; they become VirNucPro's file when parts are joined.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from virnucpro_exporter.errors import ProcessorError, SequenceFileError, VirnucproError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.batching import Tokens
from virnucpro_exporter.processors.loading import bytes_to_load, turn_to_load
from virnucpro_exporter.processors.steps import read_step
from virnucpro_exporter.processors.windows import Piece, Report, Source, Tally, Windows
from virnucpro_exporter.sequences import OpenPart, Record, stem

if TYPE_CHECKING:
    from virnucpro_exporter.processors.transformer import Model

WINDOW = 1024  # sequences: many batches, of like lengths; those of a window are not given away


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
    is_direct: ClassVar[bool] = False  # its weights may go from the file to the GPU

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
        self._windows = Windows(self._pieces, self._compute)

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
    def save(self, names: Sequence[str], vectors: list[Any], output: Path) -> None:
        """Write what VirNucPro's merge step reads.

        Args:
            names: Of the sequences.
            vectors: Arrays that together have a row for each name; the list may be emptied.
            output: The file.
        """

    def clip(self, sequence: bytes) -> bytes:
        """The part of a sequence that is embedded."""
        return sequence

    def output_names(self, file: Path) -> Sequence[str]:
        """The name of the file without its suffix, and VirNucPro's after it."""
        return (stem(file.name) + self.suffix,)

    def setup(self, gpu: str) -> None:
        """Load the model, when there is memory for it."""
        is_direct = self.is_direct and not gpu.startswith("cpu")
        with turn_to_load(bytes_to_load({self.folder: is_direct})):
            self._model = self.load(gpu)

    def close(self) -> None:
        """Let the model go."""
        self._model = None

    def expect(self, files: Sequence[Source]) -> None:
        """Read ahead in these files where there is room for small ones."""
        self._windows.expect(files)

    @property
    def shortages(self) -> int:
        """How often a batch did not fit into the memory."""
        return 0 if self._model is None else self._model.shortages

    def process(self, file: Source, output: Path, progress: ProgressCallback) -> Processed:
        """Embed every sequence of a file, or of a part of it.

        Raises:
            SequenceFileError: The content is at fault: a sequence is empty, has the name of another
                or is too long for the model, or the file holds the wrong kind of sequences.
            MemoryError: A sequence alone does not fit into the memory.
            NotFiniteError: A vector has a value that is NaN or infinite: the model or the GPU is
                at fault, not the file.
        """
        from virnucpro_exporter.processors.vectors import save_part  # noqa: PLC0415 - loads PyTorch

        begin = time.perf_counter()
        names: dict[str, None] = {}
        vectors: list[Any] = []
        tally = Tally(progress)
        for made in self._windows.run(file, partial(_begin, tally)):
            _add_names(made.content, names)
            check_finite(made.content, made.vectors)
            residues = sum(len(record.sequence) for record in made.content)
            tally.end(tally.sequences + len(made.content), tally.residues + residues)
            vectors.append(made.vectors.cpu())
        is_all = not isinstance(file, OpenPart) or (not file.part.start and file.finish())
        (self.save if is_all else save_part)(list(names), vectors, output)
        seconds = time.perf_counter() - begin - self._windows.lent
        return Processed(tally.sequences, tally.residues, seconds)

    def join(self, parts: Sequence[Path], output: Path) -> None:
        """Make VirNucPro's file of the arrays of the parts of a file.

        Args:
            parts: What `process` has left of each, in the order of the file.
            output: The result.

        Raises:
            SequenceFileError: Two of the parts have a sequence of one name.
            OSError: They cannot be read or written.
        """
        from virnucpro_exporter.processors.vectors import load_part  # noqa: PLC0415 - loads PyTorch

        names: dict[str, None] = {}
        vectors: list[Any] = []
        for part in parts:
            found, arrays = load_part(part)
            for name in found:
                _add_name(name, names)
            vectors += arrays
        self.save(list(names), vectors, output)

    def _pieces(self, file: Source) -> Iterator[Piece[list[Record]]]:
        """The sequences of a file, checked, with their tokens."""
        model = self._loaded()
        for window in _windows(read_step(file)):
            _refuse_empty(window)
            self.check(window)
            tokens = model.encode([self.clip(record.sequence) for record in window])
            check_lengths(window, tokens, model.longest)
            yield Piece(window, [tokens], WINDOW - len(window))

    def _compute(self, tokens: Sequence[Sequence[Tokens]], report: Report) -> Any:
        return self._loaded().vectors(tokens[0], partial(report, 1.0))

    def _loaded(self) -> Model:
        if self._model is None:
            raise ProcessorError("setup has not been called")
        return self._model


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
                f"{shown(record)} has {len(found)} tokens; the model takes at most {longest}"
            )


def check_finite(window: Sequence[Record], vectors: Any) -> None:
    """Make sure of vectors, or scores.

    Raises:
        NotFiniteError: One holds a value that is NaN or infinite.
    """
    from virnucpro_exporter.processors.transformer import not_finite  # noqa: PLC0415 - PyTorch

    for row in not_finite(vectors)[:1]:
        raise NotFiniteError(f"{shown(window[row])}; check the GPU, then the model")


def _begin(tally: Tally, records: Sequence[Record]) -> Report:
    """Each sequence of a window counts itself."""
    return tally.begin([(1, len(record.sequence)) for record in records])


def shown(record: Record) -> str:
    """A sequence by its name, for an error message."""
    return f"sequence {record.name.decode('utf-8', 'backslashreplace')!r}"


def _windows(records: Iterator[Record]) -> Iterator[list[Record]]:
    while window := list(itertools.islice(records, WINDOW)):
        yield window


def _add_names(window: Sequence[Record], names: dict[str, None]) -> None:
    for record in window:
        _add_name(record.name.decode("utf-8", "backslashreplace"), names)


def _add_name(name: str, names: dict[str, None]) -> None:
    """Note a name, by which VirNucPro finds the two vectors of a chunk again."""
    if name in names:
        raise SequenceFileError(f"two sequences are named {name!r}; rename one")
    names[name] = None


def _refuse_empty(window: Sequence[Record]) -> None:
    for record in window:
        if not record.sequence:
            raise SequenceFileError(f"{shown(record)} is empty; remove it")
