"""Parts of files: whatever the cuts, their records are those of the file, in order."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro_exporter.processors.translate import TranslateProcessor
from virnucpro_exporter.sequences import OpenPart, Part, Record, read_sequences, texts
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
