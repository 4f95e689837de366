"""Parts of files: whatever the cuts, their records are those of the file, in order."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro_exporter.processors.command import CommandProcessor
from virnucpro_exporter.processors.translate import TranslateProcessor
from virnucpro_exporter.sequences import OpenPart, Part, Record, extent, read_sequences, texts
from virnucpro_exporter.workers import joining

LINES = st.text(alphabet="ACGTNacgt ", max_size=12)
HEADERS = st.text(alphabet="abc 1_", max_size=8)
RECORDS = st.lists(st.tuples(HEADERS, st.lists(LINES, max_size=4)), min_size=1, max_size=12)
CUTS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.1, 0.5, 0.9, 1.0])), min_size=1, max_size=6
)


def fasta(records: list[tuple[str, list[str]]], end: str, before: str, after: str) -> bytes:
    lines = [line for header, parts in records for line in (">" + header, *parts)]
    return (before + end.join(lines) + after).encode()


def in_parts(path: Path, cuts: list[tuple[int, float]]) -> list[Record]:
    """What readers find one after the other, each of which gives a share away on its way."""
    found: list[Record] = []
    left = list(cuts)
    start: int | None = 0
    while start is not None:
        part = OpenPart(Part(path, start))
        after, share = left.pop(0) if left else (0, 0.0)
        for number, record in enumerate(read_sequences(part)):
            found.append(record)
            if number == after and share:
                part.shrink(share)
        start = part.stop
    return found


@settings(max_examples=300, deadline=None)
@given(
    records=RECORDS,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    before=st.sampled_from(["", "\n", "\n\n"]),
    after=st.sampled_from(["", "\n", "\r\n", "\n\n"]),
    block=st.sampled_from([1, 2, 3, 7, 64, 65536]),
    cuts=CUTS,
)
def test_parts_hold_every_record_once(
    records: list[tuple[str, list[str]]],
    end: str,
    before: str,
    after: str,
    block: int,
    cuts: list[tuple[int, float]],
) -> None:
    """Readers whose ends move while they read find together what one finds in the file."""
    size = texts.BLOCK_BYTES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fa"
        path.write_bytes(fasta(records, end, before, after))
        whole = list(read_sequences(path))
        texts.BLOCK_BYTES = block  # so that records lie across blocks
        try:
            assert in_parts(path, cuts) == whole
        finally:
            texts.BLOCK_BYTES = size


def test_what_was_read_is_not_given_away(tmp_path: Path) -> None:
    """A cut lies behind the record that was read last, and a share not worth it stays."""
    path = tmp_path / "a.fa"
    path.write_bytes(b">a\nACGT\n" * 100)
    part = OpenPart(Part(path))
    records = read_sequences(part)
    next(records)
    assert part.shrink(0.5, lambda cut: cut.end - cut.at > 1000) is None
    assert part.shrink(0.5) == (400, 0, 800)
    next(records)
    assert part.shrink(1.0) == (9, 8, 400)
    assert part.shrink(1.0) is None
    assert list(records) == []


def test_joined_parts_are_what_one_worker_writes(tmp_path: Path) -> None:
    """Results are put together in the order of the file; those of the parts stay."""
    path = tmp_path / "in.fa"
    path.write_bytes(b"".join(b">r%d\n%s\n" % (n, b"ACGTTGCA" * (n % 9)) for n in range(200)))
    processor = TranslateProcessor()
    names = processor.output_names(path)
    cuts = [(0, 700), (700, 701), (701, 5000), (5000, None)]
    folders = [tmp_path / name for name in ("whole", "0", "1", "2", "3", "joined")]
    for folder in folders:
        folder.mkdir()
    processor.process(path, folders[0] / names[0], lambda *_: None)
    for folder, cut in zip(folders[1:], cuts, strict=False):
        processor.process(OpenPart(Part(path, *cut)), folder / names[0], lambda *_: None)
    for _ in range(2):
        joining.join(processor, path, folders[1:-1], folders[-1])
        for name in names:
            assert (folders[-1] / name).read_bytes() == (folders[0] / name).read_bytes()


def left_by_parts(folder: Path, *results: bytes | None) -> list[Path]:
    """Folders with a result each, or none."""
    parts = [folder / str(number) for number in range(len(results))]
    for part, result in zip(parts, results, strict=True):
        part.mkdir()
        if result is not None:
            (part / "a.out").write_bytes(result)
    (folder / "joined").mkdir()
    return parts


@pytest.mark.parametrize(
    ("joins", "results", "expected"),
    [
        ("concatenate", [b"h\n1\n", None, b"h\n2"], {"a.out": b"h\n1\nh\n2"}),
        ("header", [b"", b"h\n1\n", b"", None, b"h\n2\n"], {"a.out": b"h\n1\n2\n"}),
        ("header", [b"h\n", b"h\n", b"h"], {"a.out": b"h\nh"}),
        ("header", [b"1\n", b"2\n"], {"a.out": b"1\n2\n"}),
        ("number", [b"1", None, b"2"], {"a_1.out": b"1", "a_2.out": b"2"}),
        ("number", [None, b"1"], {"a.out": b"1"}),
    ],
)
def test_results_are_joined_as_the_user_says(
    joins: str, results: list[bytes | None], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """One after the other, with one header, or numbered; parts that left nothing are left out."""
    parts = left_by_parts(tmp_path, *results)
    command = CommandProcessor(["cat", "{input}", "{output}"], joins=joins)
    output = tmp_path / "joined"
    joining.join(command, Path("a"), parts, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == expected


def test_what_lies_beside_a_result_is_joined_too(tmp_path: Path) -> None:
    """A file that only some parts have left is joined of these."""
    parts = left_by_parts(tmp_path, b"1", b"2", b"3")
    (parts[0] / "a.log").write_bytes(b"x")
    (parts[2] / "a.log").write_bytes(b"y")
    command = CommandProcessor(["cat", "{input}", "{output}"], joins="concatenate")
    joining.join(command, Path("a"), parts, tmp_path / "joined")
    assert (tmp_path / "joined" / "a.log").read_bytes() == b"xy"


def test_results_that_cannot_be_joined_are_refused(tmp_path: Path) -> None:
    """Compressed results have no header that could be seen, and folders have no order."""
    parts = left_by_parts(tmp_path, gzip.compress(b"h\n1"), gzip.compress(b"h\n2"))
    command = CommandProcessor(["cat", "{input}", "{output}"], joins="header")
    with pytest.raises(joining.JoinError, match="use --join concatenate"):
        joining.join(command, Path("a"), parts, tmp_path / "joined")
    for part in parts:
        (part / "a.out").unlink()
        (part / "a.out").mkdir()
    with pytest.raises(joining.JoinError, match="use --join none"):
        joining.join(command, Path("a"), parts, tmp_path / "joined")
    command = CommandProcessor(["cat", "{input}", "{output}"], joins="number")
    joining.join(command, Path("a"), parts, tmp_path / "joined")
    assert (tmp_path / "joined" / "a_2.out").is_dir()


def test_a_part_is_no_larger_than_was_asked_for(tmp_path: Path) -> None:
    """What is left after a cut can be cut into parts of the same size; the size is that on disk."""
    for name, text in {
        "a.fa": b">a\nACGT\n" * 1000,
        "a.fa.gz": gzip.compress(b">a\nACGT\n" * 1000),
    }.items():
        path = tmp_path / name
        path.write_bytes(text)
        unit = 1 if name == "a.fa" else 1 << 16
        lengths, start = [], 0
        while (cut := OpenPart(Part(path, start)).keep(1.0, len(text) // 3)) is not None:
            lengths.append(cut.at - start)
            start = cut.at
        assert 3 <= len(lengths) <= 4
        assert max(lengths) <= len(text) // 3 * unit
        assert max(lengths) - min(lengths) <= unit
    part = OpenPart(Part(tmp_path / "a.fa", 0, 80))
    assert part.keep(0.5, 1000) == (40, 0, 80)
    assert OpenPart(Part(tmp_path / "a.fa")).keep(1.0, None) is None
    assert OpenPart(Part(tmp_path / "missing.fa")).keep(0.5, None) is None


def test_a_command_gets_its_part_as_a_file(tmp_path: Path) -> None:
    """It has the name and compression of the whole, and is removed; without records, no run."""
    path, output = tmp_path / "a.fa.gz", tmp_path / "0" / "a.fa.gz.out"
    path.write_bytes(gzip.compress(b"".join(b">r%d\nACGT\n" % n for n in range(9))))
    output.parent.mkdir()
    end = extent(path)
    assert end is not None
    shell = 'basename "$0" > "$1" && zcat "$0" >> "$1"'
    command = CommandProcessor(["sh", "-c", shell, "{input}", "{output}"], joins="concatenate")
    command.process(OpenPart(Part(path, 30, 46)), output, lambda *_: None)
    assert output.read_bytes() == b"a.fa.gz\n>r4\nACGT\n>r5\nACGT\n"
    assert list(output.parent.iterdir()) == [output]
    output.unlink()
    command.process(OpenPart(Part(path, end - 1, end)), output, lambda *_: None)
    assert not list(output.parent.iterdir())
