"""Files on their way through models, in windows that reach over the borders of small files.

A window holds many batches of rows: so batches are of like lengths and full, and memory is bounded
whatever the file. The next window is read and encoded in a thread while the device computes. What
is left of the last window of a file takes in whole small files that the worker holds, too; their
vectors are kept until it is their turn. Such a file never harms another one: what cannot be read is
left for its own turn, and a window that fails is computed again for its first file alone.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from virnucpro_exporter.processors.base import ProgressCallback
from virnucpro_exporter.processors.batching import Tokens
from virnucpro_exporter.sequences import OpenPart

T = TypeVar("T")
C = TypeVar("C")
Source = Path | OpenPart
Report = Callable[[float, Sequence[int]], None]

SMALL_BYTES = 1 << 20  # of a file that may share a window; larger ones fill windows of their own

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece(Generic[C]):
    """Rows of one file that go through the models together.

    Attributes:
        content: The processor's data of the rows.
        tokens: For each model, the tokens of each row.
        room: How many more rows the window would take; 0 unless the file ends here.
    """

    content: C
    tokens: Sequence[Sequence[Tokens]]
    room: int = 0

    def __len__(self) -> int:
        return len(self.tokens[0])

    @property
    def work(self) -> int:
        """Tokens, of all models."""
        return sum(len(tokens) for rows in self.tokens for tokens in rows)


@dataclass(frozen=True, slots=True)
class Made(Generic[C]):
    """A piece with its vectors, and the seconds that they took."""

    content: C
    vectors: Any
    seconds: float


class Windows(Generic[C]):
    """Brings files through models.

    Args:
        read: Yields the pieces of a file.
        compute: Makes one vector for each row of their tokens, and calls the report with the share
            of the work that a model does and the rows that it has done.

    Attributes:
        lent: Seconds that the present file has spent for others, less those spent for it before.
    """

    def __init__(
        self,
        read: Callable[[Source], Iterator[Piece[C]]],
        compute: Callable[[Sequence[Sequence[Tokens]], Report], Any],
    ) -> None:
        self._read = read
        self._compute = compute
        self._expected: deque[Source] = deque()
        self._kept: dict[Source, Made[C]] = {}
        self.lent = 0.0

    def expect(self, files: Sequence[Source]) -> None:
        """Note the files that will be processed next.

        Args:
            files: In their order, the very objects that `run` will be given.
        """
        self._expected = deque(files)
        self._kept.clear()

    def run(self, file: Source, counter: Callable[[C], Report]) -> Iterator[Made[C]]:
        """Make the vectors of a file, and those of small ones that follow, to be kept.

        Args:
            file: What is read.
            counter: Makes the report of a piece, which counts its rows from none.

        Yields:
            The pieces of the file in order.

        Raises:
            SequenceFileError: The content of the file is at fault.
            MemoryError: A row alone does not fit into the memory.
        """
        self.lent = 0.0
        while self._expected and self._expected.popleft() != file:
            pass
        kept = self._kept.pop(file, None)
        if kept is not None:
            self.lent = -kept.seconds
            yield kept
            return
        for piece, others in ahead(self._shared(file)):
            begin = time.perf_counter()
            vectors = self._vectors(piece, others, counter)
            seconds = time.perf_counter() - begin
            work = piece.work + sum(other.work for other in others.values()) or 1
            start = len(piece)
            for other, found in others.items():
                share = seconds * found.work / work
                end = start + len(found)
                self._kept[other] = Made(found.content, vectors[start:end], share)
                self.lent += share
                start = end
            yield Made(piece.content, vectors[: len(piece)], seconds)

    def _shared(self, file: Source) -> Iterator[tuple[Piece[C], dict[Source, Piece[C]]]]:
        """The pieces of a file, and the small files that go with the last one."""
        for piece in self._read(file):
            others: dict[Source, Piece[C]] = {}
            room = piece.room
            for other in self._expected:
                found = self._small(other) if room > 0 else None
                if found is None or len(found) > room:
                    break
                others[other] = found
                room -= len(found)
            yield piece, others

    def _small(self, file: Source) -> Piece[C] | None:
        """The one piece of a small file; None of others, and where anything is wrong with it."""
        try:
            about = os.stat(file)  # noqa: PTH116 - a part is no Path
            if not stat.S_ISREG(about.st_mode) or about.st_size > SMALL_BYTES:
                return None
            pieces = self._read(file)
            piece = next(pieces, None)
            if piece is None or next(pieces, None) is not None:
                return None
        except Exception:  # noqa: BLE001 - reported when the file itself is processed
            return None
        if isinstance(file, OpenPart):
            file.finish()
        return piece

    def _vectors(
        self, piece: Piece[C], others: dict[Source, Piece[C]], counter: Callable[[C], Report]
    ) -> Any:
        """The vectors of a piece, then those of the others; these are dropped if that fails."""
        rows = len(piece)

        def reporter() -> Report:
            count = counter(piece.content)
            return lambda share, done: count(share, [row for row in done if row < rows])

        if not others:
            return self._compute(piece.tokens, reporter())
        together = [piece.tokens, *(other.tokens for other in others.values())]
        try:
            joint = [[*itertools.chain(*of_model)] for of_model in zip(*together, strict=True)]
            return self._compute(joint, reporter())
        except Exception as error:  # noqa: BLE001 - whichever file is at fault, it fails alone
            log.warning(
                "%d small files are processed one by one after an error (%s)",
                len(others) + 1,
                error,
            )
        others.clear()
        return self._compute(piece.tokens, reporter())


class Tally:
    """Counts what is done within a file, and reports it.

    Args:
        progress: Is called with the numbers of sequences and residues.

    Attributes:
        sequences, residues: Of all windows that are done.
    """

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress = progress
        self._reported = 0, 0
        self.sequences = 0
        self.residues = 0

    def begin(self, rows: Sequence[tuple[float, float]]) -> Report:
        """What reports progress within a window, none of which is done yet.

        Args:
            rows: How many sequences and residues each row counts.
        """
        sequences, residues = float(self.sequences), float(self.residues)
        self._reported = self.sequences, self.residues

        def report(share: float, made: Sequence[int]) -> None:
            nonlocal sequences, residues
            sequences += share * sum(rows[row][0] for row in made)
            residues += share * sum(rows[row][1] for row in made)
            self._reported = int(sequences), int(residues)
            self._progress(*self._reported)

        return report

    def end(self, sequences: int, residues: int) -> None:
        """A window is done, and with it so many of the file."""
        self.sequences, self.residues = sequences, residues
        if self._reported != (sequences, residues):
            self._progress(sequences, residues)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, each of which was made in a thread while the one before was worked on."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
