"""Parts of files: each record once, in order, wherever a file is cut."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.compressed import PACK
from tests.sequence_texts import sources
from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.sequences import (
    OpenPart,
    Part,
    Record,
    copy_part,
    extent,
    parts,
    read_sequences,
    texts,
)
from virnucpro_exporter.sequences.texts import MAGIC_BYTES, is_bgzip, read_texts


def outcome(path: Path, cuts: list[int | None]) -> list[Record]:
    """The records of the parts between cuts, one part after the other."""
    ranges = itertools.pairwise(cuts)
    return [r for start, stop in ranges for r in read_sequences(Part(path, start or 0, stop))]


@given(
    text=sources(),
    pack=st.sampled_from(list(PACK)),
    size=st.integers(8, 200),
    shares=st.lists(st.floats(0, 1), max_size=5),
    near=st.integers(-2, 2),
    block=st.integers(texts.MAGIC_BYTES, 64),
    regular=st.sampled_from([(8, 60), (1 << 16, 1 << 22)]),
)
@example(
    b">! x >y @z\n\n>! x >y @z\n\n", "zstd", 8, [0.0], 1, 18, (8, 60)
)  # the first block gives no text yet
@example(b"> a\n> b\n", "bgzip after an empty block", 8, [0.5], 1, 18, (8, 60))
def test_each_record_is_in_one_part(
    text: bytes,
    pack: str,
    size: int,
    shares: list[float],
    near: int,
    block: int,
    regular: tuple[int, int],
) -> None:
    """Parts that cover a file hold each of its records once and in order, wherever it is cut."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.multiple(texts, BLOCK_BYTES=block, BGZIP_BLOCK_BYTES=300),
        patch.object(parts, "REGULAR_BYTES", regular),
    ):
        path = Path(folder, "x")
        path.write_bytes(PACK[pack](text, size))
        end = extent(path)
        assert end is not None
        cuts = sorted(max(1, int(share * end) + near) for share in shares)
        expected = list(read_sequences(path))
        assert outcome(path, [0, *cuts, None]) == expected
        assert outcome(path, [0, *cuts, end]) == expected
        copy = Path(folder, "copy")
        found = b""
        for start, stop in itertools.pairwise([0, *cuts, None]):
            part = Part(path, start or 0, stop)
            assert copy_part(part, copy) == bool(list(read_sequences(part)))
            assert extent(copy) is not None or not copy.stat().st_size
            with copy.open("rb") as read:
                assert is_bgzip(read.read(MAGIC_BYTES)) == pack.startswith("bgzip")
                read.seek(0)
                found += b"".join(piece.text for piece in read_texts(read))
        assert found == text.lstrip()


@given(text=sources(), pack=st.sampled_from(list(PACK)), data=st.data())
def test_records_are_in_one_part_after_it_has_shrunk(
    text: bytes, pack: str, data: st.DataObject
) -> None:
    """A part that gives its end away while it is read yields what begins before, and no more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(PACK[pack](text, 64))
        expected = list(read_sequences(path))
        part = OpenPart(Part(path))
        found = []
        for record in read_sequences(part):
            found.append(record)
            cut = (
                part.shrink(data.draw(st.sampled_from([0.3, 1.0])))
                if data.draw(st.booleans())
                else None
            )
            if cut is not None:
                assert part.position == cut.position < cut.at < cut.end
                assert part.stop == cut.at
        assert found + list(read_sequences(Part(path, part.stop or extent(path) or 0))) == expected


FASTQ_SEED = 5


@pytest.mark.parametrize("pack", ["plain", "bgzip", "gzip"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_part_of_regular_fastq_reads_little_before_it(
    tmp_path: Path, pack: str, newline: bytes
) -> None:
    """A part in the middle of a large file of FASTQ is entered there."""
    rng = random.Random(FASTQ_SEED)
    lines = []
    for number in range(20_000):
        length = rng.randrange(1, 150)
        sequence, quality = (
            bytes(rng.choices(b"ACGT", k=length)),
            bytes(rng.choices(b"@+>I", k=length)),
        )
        lines += [b"@r%d" % number, sequence, b"+", quality]
    path = tmp_path / "x"
    path.write_bytes(PACK[pack](newline.join([*lines, b""]), 60_000))
    end = extent(path)
    assert end is not None
    with patch.object(parts, "read_texts", side_effect=texts.read_texts) as from_the_start:
        cuts: list[int | None] = [end * share // 5 for share in range(5)]
        assert len(outcome(path, [*cuts, None])) == 20_000
    assert from_the_start.call_count == 5  # to tell the format, and for the first part
    assert outcome(path, [*cuts, None]) == list(read_sequences(path))


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
def test_a_reader_goes_on_where_the_one_before_has_stopped(tmp_path: Path, pack: str) -> None:
    """A worker that does part after part of a file decompresses it once; other files do not mix."""
    rng = random.Random(FASTQ_SEED)
    first, other = tmp_path / "x", tmp_path / "y"
    for path in (first, other):
        records = [(n, rng.randbytes(500).translate(b"ACGT" * 64)) for n in range(4000)]
        path.write_bytes(PACK[pack](b"".join(b">r%d\n%s\n" % pair for pair in records), 0))
    whole = list(read_sequences(first))
    end = extent(first)
    assert end is not None
    cuts = [end * share // 20 for share in range(20)]
    blocks = -(-first.stat().st_size // texts.BLOCK_BYTES)
    with patch.object(texts, "_more_text", side_effect=texts._more_text) as decompressed:
        assert outcome(first, [*cuts, None]) == whole
        assert decompressed.call_count < 6 * blocks  # not 10: once all, and each part its format
        decompressed.reset_mock()
        assert outcome(first, [cuts[5], cuts[6]]) == outcome(first, [cuts[5], cuts[6]])
        assert decompressed.call_count < 2 * blocks
    half = read_sequences(first)
    found = [next(half)]
    assert list(read_sequences(other)) != whole
    first.write_bytes(first.read_bytes()[: end >> 17])  # a file that changes is read anew
    with pytest.raises(SequenceFileError):
        list(read_sequences(Part(first, cuts[1])))
    with pytest.raises(SequenceFileError):
        list(read_sequences(Part(first, cuts[1])))
    assert found == whole[:1]


def test_what_cannot_be_split(tmp_path: Path) -> None:
    """Text that costs much to throw away, and a pipe, belong to one part; an empty file as well."""
    import bz2  # noqa: PLC0415 - here alone
    import os  # noqa: PLC0415 - here alone

    packed, empty, pipe = tmp_path / "x.bz2", tmp_path / "empty", tmp_path / "pipe"
    packed.write_bytes(bz2.compress(b">a\nAC\n>b\nGT\n"))
    empty.touch()
    os.mkfifo(pipe)
    assert [extent(path) for path in (packed, empty, pipe)] == [None] * 3
    part = OpenPart(Part(packed))
    records = read_sequences(part)
    next(records)
    assert part.shrink(1.0) is None
    assert not part.can_shrink
    assert len(list(records)) == 1


def test_a_cut_that_is_not_worth_it(tmp_path: Path) -> None:
    """A cut that is refused leaves the part as it was."""
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\nAC\n>b\nGT\n")
    part = OpenPart(Part(path))
    assert part.shrink(0.5, lambda cut: cut != (6, 0, 12)) is None
    assert part.stop is None
    assert part.shrink(0.5) == (6, 0, 12)
    assert list(read_sequences(part)) == [Record(b"a", b"AC")]


def test_faults_of_a_file_are_found_by_the_part_they_are_in(tmp_path: Path) -> None:
    """A part says what is wrong with its own records, and nothing of those of others."""
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\nAC>x\n>b\nGT\n")
    assert list(read_sequences(Part(path, 8))) == [Record(b"b", b"GT")]
    with pytest.raises(SequenceFileError):
        list(read_sequences(Part(path, 0, 8)))
