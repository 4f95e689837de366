"""Windows of rows that reach over the borders of small files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.processors import windows
from virnucpro_exporter.processors.windows import Piece, Report, Source, Windows
from virnucpro_exporter.sequences import OpenPart, Part

SIZE = 8
Rows = list[str]


class Model:
    """Reads a file of words, and makes of each word its letters; some words it does not take."""

    def __init__(self) -> None:
        self.windows: list[int] = []

    def read(self, file: Source) -> Iterator[Piece[Rows]]:
        """Pieces of eight words, one token to a letter; `bad` is at fault."""
        words = Path(file).read_text().split()
        for start in range(0, len(words), SIZE):
            rows = words[start : start + SIZE]
            if "bad" in rows:
                raise SequenceFileError("a bad word")
            yield Piece(rows, [[list(map(ord, row)) for row in rows]], SIZE - len(rows))

    def compute(self, tokens: Sequence[Sequence[Sequence[int]]], report: Report) -> Rows:
        """The words again; `hard` is more than there is memory for."""
        (rows,) = tokens
        made = ["".join(map(chr, row)) for row in rows]
        self.windows.append(len(rows))
        if "hard" in made:
            raise MemoryError
        report(1.0, range(len(rows)))
        return made


def vectors(made: Windows[Rows], file: Source) -> tuple[Rows, int]:
    """What a file becomes, and how many rows were reported."""
    counted = 0

    def counter(_: Rows) -> Report:
        nonlocal counted
        before = counted

        def report(_: float, rows: Sequence[int]) -> None:
            nonlocal counted
            counted = before + len(rows)

        return report

    found: Rows = []
    for piece in made.run(file, counter):
        assert piece.content == piece.vectors
        found += piece.vectors
    return found, counted


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=2 * SIZE + 1)
FILES = st.lists(st.one_of(WORDS, st.just(["a", "bad"]), st.just(["hard"])), max_size=8)


@given(FILES, st.booleans(), st.data())
def test_every_file_becomes_what_it_is_alone(
    files: list[Rows], is_part: bool, data: st.DataObject
) -> None:
    """Whichever files the worker holds: their own rows each, and faults alone."""
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Source] = []
        for number, words in enumerate(files):
            path = Path(folder, str(number))
            path.write_text(" ".join(words))
            paths.append(OpenPart(Part(path)) if is_part else path)
        model = Model()
        made = Windows(model.read, model.compute)
        made.expect(data.draw(st.permutations(paths)) if data.draw(st.booleans()) else paths)
        lent = 0.0
        for source, words in zip(paths, files, strict=True):
            if "bad" in words or "hard" in words:
                with pytest.raises((SequenceFileError, MemoryError)):
                    vectors(made, source)
            else:
                found, counted = vectors(made, source)
                assert found == words
                assert counted in (len(words), 0)  # none where it was made before
            lent += made.lent
        assert lent == pytest.approx(0, abs=1e-9) or any("hard" in words for words in files)


def test_small_files_fill_a_window(tmp_path: Path) -> None:
    """As many as there is room for; what is too large, or no file, begins a window of its own."""
    names = []
    for number, rows in enumerate([3, 2, 3, 5, 9, 1, 1]):
        names.append(tmp_path / str(number))
        names[-1].write_text("a " * rows)
    model = Model()
    made = Windows(model.read, model.compute)
    made.expect(names)
    for name in names:
        vectors(made, name)
    assert model.windows == [8, 5, 8, 3]  # the last row of the fifth file, and the two after it


def test_large_files_and_pipes_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read of a file beyond a size, before its turn."""
    monkeypatch.setattr(windows, "SMALL_BYTES", 3)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_text("a")
    large.write_text("a a a a")
    model = Model()
    made = Windows(model.read, model.compute)
    made.expect([small, large])
    assert vectors(made, small)[0] == ["a"]
    assert model.windows == [1]


def test_files_that_were_not_held_are_forgotten(tmp_path: Path) -> None:
    """What was made of a file that was taken away is not kept for its next attempt."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("bb")
    model = Model()
    made = Windows(model.read, model.compute)
    made.expect([one, two])
    vectors(made, one)
    two.write_text("ccc")
    made.expect([two])
    assert vectors(made, two)[0] == ["ccc"]
    assert model.windows == [2, 1]
