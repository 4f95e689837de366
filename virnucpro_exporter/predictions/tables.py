"""The tables of predictions, made of the rows that workers have left.

Nothing is kept in memory as a whole: rows go from one file to the next, and the ids that VirNucPro
has in order in its second table are sorted in runs on the disk, which are then merged. A table is
written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from virnucpro_exporter.errors import VirnucproError
from virnucpro_exporter.predictions.samples import Sample

RESULTS, HIGHEST = "_prediction_results.txt", "_prediction_results_highestscore.csv"
PREDICTIONS, CONTIGS = "predictions.tsv", "contigs.tsv"
SORTED_AT_ONCE = 500_000

_RESULTS_HEADING = b"Sequence_ID\tPrediction\tscore1\tscore2\n"
_HIGHEST_HEADING = b"Modified_ID\tIs_Virus\n"
_PREDICTIONS_HEADING = b"sample\tcontig\tchunk\tframe\tlabel\tscore1\tscore2\n"
_CONTIGS_HEADING = (
    b"sample\tcontig\tchunks\tframes\tviral_chunks\tviral_share\tlargest_score1\tlargest_score2\n"
)


class SampleError(VirnucproError):
    """The tables of a sample cannot be written."""


class _Row(NamedTuple):
    """A line that a worker wrote; scores as they stand there."""

    line: bytes
    chunk: bytes  # the id without its frame
    frame: bytes
    label: bytes
    others: bytes
    virus: bytes


class _Chunk(NamedTuple):
    """What is said of a chunk: the largest scores of its frames."""

    name: bytes
    frames: int
    others: bytes
    virus: bytes

    @property
    def is_virus(self) -> bool:
        """Whether the largest score of viruses is at least that of others."""
        return float(self.virus) >= float(self.others)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the tables.

    Attributes:
        names: The files that are there.
        left_out: Samples without tables, and why.
    """

    names: Sequence[str]
    left_out: Mapping[str, str]


def table_names(samples: Iterable[Sample]) -> Iterator[str]:
    """The names of all tables of a run."""
    yield from (PREDICTIONS, CONTIGS)
    for sample in samples:
        yield from (sample.name + RESULTS, sample.name + HIGHEST)


def write_tables(
    samples: Sequence[Sample], rows: Mapping[str, Path], folder: Path, scratch: Path
) -> Written:
    """Write the tables of all samples that are whole, and remove those of others.

    Args:
        samples: All samples of the run.
        rows: The rows of each file that is done, by its path.
        folder: Where tables go.
        scratch: A folder on the same file system, which is made and removed.

    Raises:
        OSError: A table cannot be written.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    left_out: dict[str, str] = {}
    names: list[str] = []
    try:
        with (
            (scratch / PREDICTIONS).open("wb") as predictions,
            (scratch / CONTIGS).open("wb") as contigs,
        ):
            predictions.write(_PREDICTIONS_HEADING)
            contigs.write(_CONTIGS_HEADING)
            for sample in samples:
                own = [sample.name + RESULTS, sample.name + HIGHEST]
                try:
                    _write_sample(sample, rows, scratch, predictions, contigs)
                except SampleError as error:
                    left_out[sample.name] = error.detail
                    for name in own:
                        (folder / name).unlink(missing_ok=True)
                    continue
                for name in own:
                    (scratch / name).replace(folder / name)
                names += own
        for name in (PREDICTIONS, CONTIGS):
            (scratch / name).replace(folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Written((PREDICTIONS, CONTIGS, *names), left_out)


def _write_sample(
    sample: Sample,
    rows: Mapping[str, Path],
    scratch: Path,
    predictions: BinaryIO,
    contigs: BinaryIO,
) -> None:
    missing = [path for path in sample.files if path not in rows]
    if missing:
        number = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SampleError(f"{missing[0]!r}{number} is not finished")
    label = sample.name.encode("utf-8", "surrogateescape")
    starts = predictions.tell(), contigs.tell()
    with (
        (scratch / (sample.name + RESULTS)).open("wb") as results,
        _Sorter(scratch / "runs") as chunks,
    ):
        results.write(_RESULTS_HEADING)
        every = itertools.chain.from_iterable(_read(rows[path]) for path in sample.files)
        noted = _noted(every, label, results, predictions)
        for contig, group in itertools.groupby(_chunks(noted), lambda chunk: _contig(chunk.name)):
            _write_contig(label, contig, group, contigs, chunks)
        try:
            _write_highest(chunks.merged(), scratch / (sample.name + HIGHEST))
        except SampleError:
            for table, start in zip((predictions, contigs), starts, strict=True):
                table.seek(start)
                table.truncate()
            raise


def _read(path: Path) -> Iterator[_Row]:
    with path.open("rb") as file:
        for line in file:
            try:
                name, label, others, virus = line[:-1].split(b"\t")
            except ValueError:
                raise SampleError(
                    f"{str(path)!r} is damaged: remove it and run the same command again"
                ) from None
            yield _Row(line, name[:-2], name[-2:], label, others, virus)


def _noted(
    rows: Iterable[_Row], sample: bytes, results: BinaryIO, predictions: BinaryIO
) -> Iterator[_Row]:
    """The rows, which are written into the tables of frames as they pass."""
    for row in rows:
        results.write(row.line)
        contig, _, number = row.chunk.rpartition(b"_chunk_")
        cells = (sample, contig, number, row.frame, row.label, row.others, row.virus)
        predictions.write(b"\t".join(cells) + b"\n")
        yield row


def _chunks(rows: Iterable[_Row]) -> Iterator[_Chunk]:
    """Frames of one chunk follow each other."""
    for name, group in itertools.groupby(rows, lambda row: row.chunk):
        frames = list(group)
        others = max((row.others for row in frames), key=float)
        virus = max((row.virus for row in frames), key=float)
        yield _Chunk(name, len({row.frame for row in frames}), others, virus)
        if len({row.frame for row in frames}) < len(frames):
            # Two sequences of one name and one chunk each; sorting will find them side by side.
            yield _Chunk(name, 0, others, virus)


def _contig(chunk: bytes) -> bytes:
    return chunk.rpartition(b"_chunk_")[0]


def _write_contig(
    sample: bytes, contig: bytes, group: Iterable[_Chunk], table: BinaryIO, chunks: _Sorter
) -> None:
    number = frames = viral = 0
    others = virus = b"0"
    for chunk in group:
        chunks.add(b"%s\t%s\n" % (chunk.name, str(chunk.is_virus).encode()))
        number += 1
        frames += chunk.frames
        viral += chunk.is_virus
        others, virus = max(others, chunk.others, key=float), max(virus, chunk.virus, key=float)
    counts = f"{number}\t{frames}\t{viral}\t{viral / number:.4f}".encode()
    table.write(b"\t".join((sample, contig, counts, others, virus)) + b"\n")


def _write_highest(lines: Iterable[bytes], path: Path) -> None:
    """Write VirNucPro's second table; a name that is there twice ends it."""
    before = None
    with path.open("wb") as table:
        table.write(_HIGHEST_HEADING)
        for line in lines:
            name, _, answer = line.rpartition(b"\t")
            if name == before:
                shown = _contig(name).decode("utf-8", "backslashreplace")
                raise SampleError(
                    f"two of its sequences are named {shown!r}: rename one, or make two samples"
                )
            before = name
            # As pandas does where it would be taken for the quotes around a cell.
            cell = b'"%s"' % name.replace(b'"', b'""') if b'"' in name else name
            table.write(cell + b"\t" + answer)


class _Sorter:
    """Sorts lines by their first cell, as many as there may be."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lines: list[bytes] = []
        self._runs: list[Path] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _Sorter:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        for run in self._runs:
            run.unlink()

    def add(self, line: bytes) -> None:
        """Take a line."""
        self._lines.append(line)
        if len(self._lines) >= SORTED_AT_ONCE:
            self._spill()

    def merged(self) -> Iterator[bytes]:
        """All lines, in order."""
        self._lines.sort(key=_first_cell)
        runs = [self._open.enter_context(run.open("rb")) for run in self._runs]
        return heapq.merge(*runs, self._lines, key=_first_cell)

    def _spill(self) -> None:
        self._lines.sort(key=_first_cell)
        run = self._base.with_name(f"{self._base.name}_{len(self._runs)}")
        with run.open("wb") as file:
            file.writelines(self._lines)
        self._runs.append(run)
        self._lines.clear()


def _first_cell(line: bytes) -> bytes:
    return line.rpartition(b"\t")[0]
