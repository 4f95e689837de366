"""All of VirNucPro in one worker: from sequences to the two scores of each open frame.

Frames become tokens in one thread, rows are written in another, and the device computes in
between. What is left is a row for each open frame, in the order of the file, without a heading: the
rows of the parts of a file, one after the other, are those of the file.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from virnucpro_exporter.errors import EmptyFileError, ProcessorError, SequenceFileError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.batching import Tokens
from virnucpro_exporter.processors.embedding import check_finite, check_lengths
from virnucpro_exporter.processors.loading import bytes_to_load, turn_to_load
from virnucpro_exporter.processors.models import width_of
from virnucpro_exporter.processors.translate import (
    TranslateProcessor,
    has_nucleotides,
    refuse_protein,
    split_chunks,
    translate_frames,
)
from virnucpro_exporter.processors.windows import Piece, Report, Source, Tally, Windows
from virnucpro_exporter.sequences import OpenPart, Record, read_sequences, stem

if TYPE_CHECKING:
    from virnucpro_exporter.processors.classifier import Classifier
    from virnucpro_exporter.processors.transformer import Model

WINDOW = 1024  # frames: many batches, of like lengths; a worker gives away no frames of its windows
LONGEST = 1024  # residues of a protein that are embedded; chunks have 166 at most
LABELS = ("others", "virus")
DNABERT_SHARE = 0.1  # of the time that both models take, about
_COPIED_AT_ONCE = 1 << 20
VECTORS_PER_FILE = 10_000  # as many as VirNucPro keeps in one


class Frame(NamedTuple):
    """An open frame of a chunk.

    Attributes:
        name: Of the sequence, the chunk and the frame, as VirNucPro puts them together.
        nucleotides, protein: What is embedded.
    """

    name: bytes
    nucleotides: bytes
    protein: bytes


@dataclass(slots=True)
class Window:
    """Frames that go through the models together.

    Attributes:
        frames: Of any number of sequences.
        sequences, residues: How many of the file have been read when the window is done.
    """

    frames: list[Frame]
    sequences: int
    residues: int

    @property
    def names(self) -> list[Record]:
        """The frames by their names, for error messages."""
        return [Record(frame.name, b"") for frame in self.frames]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a worker has on its device."""

    dnabert: Model
    esm2: Model
    classifier: Classifier


def rows_name(file: Path) -> str:
    """The name of the rows of a file: hidden, and different for every path.

    Args:
        file: The input; a relative path counts from the current folder.
    """
    place = hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:12]
    return f".{stem(file.name)[:100]}-{place}.rows"


class VirnucproProcessor:
    """Scores every open frame of a file.

    Args:
        classifier: VirNucPro's classifier, a file.
        classifier_sha256: What it is to contain, so that all workers use the same.
        models: The folders of the models, `dnabert` and `esm2`.
        chunk_size: Longest chunk in bases, 300 or 500.
        tokens_per_batch: The most tokens that go through a model together; None: as many as suit.
        trust_remote_code: Whether Python code that comes with DNABERT-S may be run.
        precision: `auto`, or in what numbers the models compute: `bf16`, `fp16`, `fp32`.
        keep_vectors: Whether the vectors are kept, in VirNucPro's form.
    """

    def __init__(
        self,
        classifier: str,
        models: Mapping[str, str],
        *,
        classifier_sha256: str | None = None,
        chunk_size: int = 500,
        tokens_per_batch: int | None = None,
        trust_remote_code: bool = False,
        precision: str = "auto",
        keep_vectors: bool = False,
    ) -> None:
        self.chunk_size = TranslateProcessor(chunk_size).chunk_size
        self._files = classifier, models["dnabert"], models["esm2"]
        self._classifier_sha256 = classifier_sha256
        self._tokens_per_batch = tokens_per_batch
        self._trust_remote_code = trust_remote_code
        self._precision = precision
        self._keep_vectors = keep_vectors
        self._loaded: _Loaded | None = None
        self._windows = Windows(self._pieces, self._compute)

    def output_names(self, file: Path) -> Sequence[str]:
        """The rows. Vectors, where they are kept, lie beside them in numbered files."""
        return (rows_name(file),)

    def setup(self, gpu: str) -> None:
        """Load the classifier, and both models when there is memory for them.

        Raises:
            ProcessorError: One of them cannot be used, or they do not fit together.
        """
        from virnucpro_exporter.processors.classifier import load_classifier  # noqa: PLC0415 - loads PyTorch
        from virnucpro_exporter.processors.transformer import load_dnabert, load_esm2  # noqa: PLC0415 - likewise

        path, dnabert, esm2 = self._files
        classifier = load_classifier(path, self._classifier_sha256)
        widths = width_of(dnabert), width_of(esm2)
        if classifier.width != sum(widths):
            raise ProcessorError(
                f"the classifier {path!r} takes vectors of {classifier.width} numbers, but the "
                f"models give {widths[0]} + {widths[1]}; it was trained with other models"
            )
        options: dict[str, Any] = {
            "tokens_per_batch": self._tokens_per_batch,
            "precision": self._precision,
        }
        trust = self._trust_remote_code
        with turn_to_load(bytes_to_load({dnabert: False, esm2: not gpu.startswith("cpu")})):
            model = load_dnabert(dnabert, gpu, trust_remote_code=trust, **options)
            esm = load_esm2(esm2, gpu, **options)
        self._loaded = _Loaded(model, esm, classifier.to(model.device))

    def close(self) -> None:
        """Let the models go."""
        self._loaded = None

    def join(self, parts: Sequence[Path], output: Path) -> None:
        """Put the rows of the parts of a file one after the other, and number their vectors anew.

        Args:
            parts: The rows of each part, in the order of the file, with its vectors beside.
            output: Where the rows of the file go.

        Raises:
            OSError: They cannot be read or written.
        """
        with output.open("wb") as whole:
            for part in parts:
                with part.open("rb") as rows:
                    shutil.copyfileobj(rows, whole, _COPIED_AT_ONCE)
        vectors = itertools.chain.from_iterable(map(_vector_files, parts))
        for number, path in enumerate(vectors, 1):
            shutil.copyfile(path, output.parent / f"{_base(output)}_merged_{number}.pt")

    def expect(self, files: Sequence[Source]) -> None:
        """Read ahead in these files where there is room for small ones."""
        self._windows.expect(files)

    @property
    def shortages(self) -> int:
        """How often a batch did not fit into the memory."""
        loaded = self._loaded
        return 0 if loaded is None else loaded.dnabert.shortages + loaded.esm2.shortages

    def process(self, file: Source, output: Path, progress: ProgressCallback) -> Processed:
        """Write a row for every open frame, in the order of the file, or of a part of it.

        Raises:
            SequenceFileError: The content is at fault, or is protein, or two sequences that follow
                each other have one name.
            MemoryError: A frame alone does not fit into the memory.
            NotFiniteError: A vector or a score is NaN or infinite.
        """
        begin = time.perf_counter()
        loaded, vectors, tally = self._ready(), _Vectors(output), Tally(progress)
        with output.open("wb") as rows, ThreadPoolExecutor(1, "rows") as writer:
            written: Future[None] | None = None
            for made in self._windows.run(file, partial(_begin, tally)):
                window = made.content
                scores = loaded.classifier.scores(made.vectors)
                check_finite(window.names, made.vectors)
                check_finite(window.names, scores)
                if written is not None:
                    written.result()
                kept = made.vectors.cpu() if self._keep_vectors else None
                written = writer.submit(
                    _write, rows, vectors, window.frames, scores.cpu().numpy(), kept
                )
                tally.end(window.sequences, window.residues)
            if written is not None:
                written.result()
        vectors.end()
        seconds = time.perf_counter() - begin - self._windows.lent
        return Processed(tally.sequences, tally.residues, seconds)

    def _pieces(self, file: Source) -> Iterator[Piece[Window]]:
        """The windows of a file, with the tokens of both models."""
        loaded = self._ready()
        is_whole = not isinstance(file, OpenPart) or file.is_whole
        for window in read_windows(_records(file), self.chunk_size, is_whole=is_whole):
            nucleotides = loaded.dnabert.encode([frame.nucleotides for frame in window.frames])
            proteins = loaded.esm2.encode([frame.protein[:LONGEST] for frame in window.frames])
            check_lengths(window.names, nucleotides, loaded.dnabert.longest)
            check_lengths(window.names, proteins, loaded.esm2.longest)
            yield Piece(window, (nucleotides, proteins), WINDOW - len(window.frames))

    def _compute(self, tokens: Sequence[Sequence[Tokens]], report: Report) -> Any:
        """Vectors: the nucleotides' values, then the proteins'."""
        from virnucpro_exporter.processors.vectors import side_by_side  # noqa: PLC0415 - PyTorch

        loaded, (nucleotides, proteins) = self._ready(), tokens
        first = loaded.dnabert.vectors(nucleotides, partial(report, DNABERT_SHARE))
        return side_by_side(
            first, loaded.esm2.vectors(proteins, partial(report, 1 - DNABERT_SHARE))
        )

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise ProcessorError("setup has not been called")
        return self._loaded


def _vector_files(rows: Path) -> list[Path]:
    """The files of vectors beside rows, in their order."""
    found = rows.parent.glob(f"{glob.escape(_base(rows))}_merged_*.pt")
    return sorted(found, key=lambda path: int(path.stem.rpartition("_")[2]))


def _base(rows: Path) -> str:
    """What the names of files of vectors begin with."""
    return rows.name.removeprefix(".").removesuffix(".rows")


def _records(file: Source) -> Iterator[Record]:
    """The sequences of a file; none of an empty one, as assemblers leave it of a blank sample."""
    with contextlib.suppress(EmptyFileError):
        yield from read_sequences(file)


def read_windows(
    records: Iterator[Record], chunk_size: int, *, is_whole: bool = True
) -> Iterator[Window]:
    """Cut sequences into chunks, translate them, and gather the open frames in windows.

    Args:
        records: The sequences.
        chunk_size: Longest chunk, in bases.
        is_whole: Whether they are all of a file: a part without nucleotides is not representative.

    Yields:
        Windows, the last of which may have no frames: it has the numbers of the whole file.

    Raises:
        SequenceFileError: They are no nucleotides, or two that follow each other have one name.
    """
    frames: list[Frame] = []
    sequences = residues = 0
    is_nucleotide = False
    before: bytes | None = None
    for name, sequence in records:
        refuse_protein(name, sequence)
        if name == before:
            raise SequenceFileError(
                f"two sequences are named {name.decode('utf-8', 'backslashreplace')!r}; give paired"
                " reads names such as read1/1 and read1/2 (`seqtk rename`), or use one file for "
                "each mate"
            )
        before = name
        is_nucleotide = is_nucleotide or has_nucleotides(sequence)
        for number, chunk in enumerate(split_chunks(sequence, chunk_size), 1):
            for frame, bases, protein in translate_frames(chunk.upper()):
                frames.append(Frame(b"%s_chunk_%d%s" % (name, number, frame), bases, protein))
            if len(frames) >= WINDOW:
                done = residues + min(number * chunk_size, len(sequence))
                yield Window(frames, sequences, done)
                frames = []
        sequences += 1
        residues += len(sequence)
    if residues and not is_nucleotide and is_whole:
        raise SequenceFileError("it contains no nucleotides; is it a protein file?")
    if sequences:
        yield Window(frames, sequences, residues)


def _begin(tally: Tally, window: Window) -> Report:
    """Each frame of a window counts a like share of what the window has of the file."""
    number = len(window.frames)
    sequences, residues = window.sequences - tally.sequences, window.residues - tally.residues
    return tally.begin([(sequences / number, residues / number)] * number if number else [])


def _write(
    rows: BinaryIO, vectors: _Vectors, frames: Sequence[Frame], scores: Any, kept: Any
) -> None:
    """Write the rows of a window; a score as float32 prints itself."""
    for frame, (first, second) in zip(frames, scores, strict=True):
        label = LABELS[bool(second > first)]
        rows.write(b"%s\t%s\n" % (frame.name, f"{label}\t{first!s}\t{second!s}".encode()))
    if kept is not None:
        vectors.add(frames, kept)


class _Vectors:
    """Writes vectors in files of as many as VirNucPro keeps in one."""

    def __init__(self, rows: Path) -> None:
        self._base = _base(rows)
        self._folder = rows.parent
        self._names: list[str] = []
        self._parts: list[Any] = []
        self._files = 0

    def end(self) -> None:
        """Write what is left."""
        if self._names:
            self._save(len(self._names))

    def add(self, frames: Sequence[Frame], vectors: Any) -> None:
        """Keep the vectors of a window."""
        self._names += [frame.name.decode("utf-8", "backslashreplace") for frame in frames]
        self._parts.append(vectors)
        while len(self._names) >= VECTORS_PER_FILE:
            self._save(VECTORS_PER_FILE)

    def _save(self, number: int) -> None:
        from virnucpro_exporter.processors.vectors import save, stacked  # noqa: PLC0415 - PyTorch

        self._files += 1
        whole = stacked(self._parts)
        content = {"ids": self._names[:number], "data": whole[:number].clone()}
        save(content, self._folder / f"{self._base}_merged_{self._files}.pt")
        self._names, self._parts = self._names[number:], [whole[number:]]
