from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.files.counting import count, estimate, read_blocks
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.sequences import Record, is_sequence_name, read_sequences, stem, texts

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}

GOOD = b">a first\nACGT\nNN\n>b\nac\n"
GOOD_FASTQ = b"@a first\nACGT\n+\n@III\n@b\nac\n+b\n+@\n"

names = st.from_regex(rb"[!-~]{1,8}", fullmatch=True)
bases = st.lists(st.sampled_from(b"ACGTNacgtn"), max_size=40).map(bytes)
records = st.lists(st.tuples(names, bases), min_size=1, max_size=8)


class Layout(NamedTuple):
    """One of the many ways to write the same records."""

    marker: bytes
    width: int
    newline: bytes
    ending: bytes
    members: int
    compress: Callable[[bytes], bytes]

    def render(self, found: list[tuple[bytes, bytes]]) -> bytes:
        """The file's text."""
        text = b"".join(self._record(name, sequence) for name, sequence in found) + self.ending
        if not self.members:
            return text
        cut = len(text) // self.members + 1
        return b"".join(self.compress(text[i : i + cut]) for i in range(0, len(text), cut))

    def _record(self, name: bytes, sequence: bytes) -> bytes:
        lines = [self.marker + name + b" x>y @z", *self._wrap(sequence)]
        if self.marker == b"@":
            lines += [b"+", *self._wrap(b"@" * len(sequence))]
        return b"".join(line + self.newline for line in lines)

    def _wrap(self, text: bytes) -> list[bytes]:
        return [text[i : i + self.width] for i in range(0, len(text), self.width)] or [b""]


layouts = st.builds(
    Layout,
    marker=st.sampled_from([b">", b"@"]),
    width=st.sampled_from([1, 7, 60]),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    ending=st.sampled_from([b"", b"\n", b"\n\r\n\n\n", b"\r\n\r", b">z\nAC", b">z"]),
    members=st.integers(0, 3),
    compress=st.sampled_from(list(COMPRESS.values())),
)


@given(found=records, layout=layouts, block=st.integers(6, 64))
def test_round_trip(found: list[tuple[bytes, bytes]], layout: Layout, block: int) -> None:
    """Reading, counting and estimating agree on any layout, wherever the blocks are cut."""
    expected = [Record(*pair) for pair in found]
    if b"z" in layout.ending:  # a last line without its newline
        sequence = layout.ending[3:]
        layout = layout._replace(marker=b">")
        expected.append(Record(b"z", sequence))
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.multiple(texts, BLOCK_BYTES=block, TEXT_BYTES=block),
    ):
        path = Path(folder, "x")
        path.write_bytes(layout.render(found))
        assert list(read_sequences(path)) == expected
        residues = sum(len(record.sequence) for record in expected)
        counted = SequenceFile(str(path), len(expected), max(1, residues))
        assert count(path) == estimate(path) == counted


def outcome(read: Callable[[], tuple[int, int]]) -> tuple[int, int] | str:
    """(sequences, residues), or what is wrong with the file."""
    try:
        return read()
    except SequenceFileError as error:
        return str(error)


@given(
    st.sampled_from([b"", b">", b"@", b"@a\nAC\n+\nII\n"]),
    st.lists(st.sampled_from([b">", b"@", b"+", b"AC", b" ", b"\t", b"\r", b"\n", b"\n"])),
    st.integers(2, 64),
)
@example(b"@", [b"\r", b">", b"\r", b"+", b"\r", b"\r", b"\n", b">"], 64)  # mixed line ends
def test_counting_and_processing_never_disagree(
    start: bytes, pieces: list[bytes], block: int
) -> None:
    """Of any text, however odd, the same is counted as is read, or the same is wrong with it."""
    with tempfile.TemporaryDirectory() as folder, patch.object(texts, "BLOCK_BYTES", block):
        path = Path(folder, "x")
        path.write_bytes(start + b"".join(pieces))

        def read() -> tuple[int, int]:
            found = list(read_sequences(path))
            return len(found), max(1, sum(len(record.sequence) for record in found))

        def counted() -> tuple[int, int]:
            file = count(path)
            return file.sequences or 0, file.residues

        assert outcome(counted) == outcome(read)


def test_last_fastq_line_without_newline(tmp_path: Path) -> None:
    """FASTQ needs no newline at its end."""
    path = tmp_path / "x.fq"
    path.write_bytes(GOOD_FASTQ.rstrip())
    assert list(read_sequences(path)) == [Record(b"a", b"ACGT"), Record(b"b", b"ac")]
    assert count(path) == SequenceFile(str(path), 2, 6)


BAD = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n\n", "it is empty"),
    "empty gzip": (gzip.compress(b""), "it is empty"),
    "leading text": (b"junk\n" + GOOD, "it has text before the first '>' or '@': 'junk'"),
    "binary": (b"\x7fELF\0\0", "it holds binary data, not sequences"),
    "binary inside": (GOOD + b"AC\0GT", "it holds binary data, not sequences"),
    "cut gzip": (
        gzip.compress(GOOD)[:-3],
        "its gzip data ends early: the file is truncated",
    ),
    "gzip magic alone": (
        b"\x1f\x8b",
        "its gzip data ends early: the file is truncated",
    ),
    "wrong checksum": (
        gzip.compress(GOOD)[:-8] + b"12345678",
        "its gzip data is damaged (Error -6 Incorrect checksum found)",
    ),
    "header within a line": (
        GOOD + b"ACGT>c\nAC\n",
        "record 'b' contains 'ACGT>c': a header must start its line",
    ),
    "indented header": (
        GOOD + b" >c\nAC\n",
        "record 'b' contains ' >c': a header must start its line",
    ),
    "first header indented": (
        b"\n >a\nAC\n",
        "the first header, '>a', is not at the start of its line",
    ),
    "FASTQ header within a line": (
        b"@a\nAC@b\n+\nIIII\n",
        "record 'a' contains 'AC@b': a header must start its line",
    ),
    "no separator": (b"@a\nACGT\n", "it ends within the FASTQ record 'a'"),
    "cut qualities": (GOOD_FASTQ[:-2], "it ends within the FASTQ record 'b'"),
    "long qualities": (
        b"@a\nAC\n+\nIII\n" + GOOD_FASTQ,
        "the FASTQ record 'a' has 2 bases but 3 qualities",
    ),
    "stray line": (
        GOOD_FASTQ + b"oops\n" + GOOD_FASTQ,
        "a FASTQ record starts with 'oops', not with '@'",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_content(tmp_path: Path, content: bytes, message: str) -> None:
    """Bad content gets one clear line from reading and counting, and a cost of 1."""
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    for use in (lambda: list(read_sequences(path)), lambda: count(path)):
        with pytest.raises(SequenceFileError) as caught:
            use()
        assert caught.value.detail == message
    assert (estimate(path).sequences, estimate(path).residues) == (None, 1)


@pytest.mark.parametrize("kind", COMPRESS)
def test_damaged_compressed_data(tmp_path: Path, kind: str) -> None:
    """Zeros that pad compressed data are ignored; a cut or any other text after the end is told."""
    path = tmp_path / "x.fa"
    packed = COMPRESS[kind](GOOD)
    path.write_bytes(packed + b"\0" * 512)
    assert len(list(read_sequences(path))) == 2
    path.write_bytes(packed + b"more text that is not compressed")
    with pytest.raises(SequenceFileError, match=f"its {kind} data is damaged"):
        count(path)
    path.write_bytes(packed[:-5])
    with pytest.raises(SequenceFileError, match=f"its {kind} data ends early"):
        count(path)


def test_little_compressed_data_with_very_much_text(tmp_path: Path) -> None:
    """A small file with much text is read piece by piece, not held as a whole."""
    path = tmp_path / "x.fa.zst"
    path.write_bytes(zstd.compress(b">a\n" + b"ACGT" * 5_000_000))
    assert path.stat().st_size < texts.BLOCK_BYTES
    with path.open("rb") as file:
        assert max(map(len, read_blocks(file))) <= texts.TEXT_BYTES


@pytest.mark.parametrize(
    "name", [b"a b.fa", b'it\'s "x".fa', b"a\nb.fa", "\u00e9\u96ea.fa".encode(), b"\xff\xfe.fa"]
)
def test_any_path(tmp_path: Path, name: bytes) -> None:
    """A path may hold blanks, quotes, newlines, any letters and bytes that are not UTF-8."""
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(GOOD)
    assert list(read_sequences(path)) == [Record(b"a", b"ACGTNN"), Record(b"b", b"ac")]
    assert count(path).path == estimate(path).path == os.fsdecode(path)


def test_machine_faults_stay_os_errors(tmp_path: Path) -> None:
    """A vanished file raises OSError, so that it may be tried again."""
    for use in (lambda: list(read_sequences(tmp_path / "gone")), lambda: count(tmp_path / "gone")):
        with pytest.raises(FileNotFoundError):
            use()


def test_names() -> None:
    """Known suffixes are found and taken off in any case, plain and compressed."""
    assert stem("a.fas.zst") == stem("a.FNA.bgz") == stem("a.fq.xz") == stem("a.fsa.bz2") == "a"
    assert stem("a.b.fa") == stem("a.b.fa.gz") == stem("a.b.FASTQ.GZ") == "a.b"
    assert stem("reads.txt") == "reads.txt"
    assert stem("reads.txt.gz") == "reads.txt"
    assert stem(".fa") == ".fa"
    assert is_sequence_name("x.Fna.gz")
    assert not is_sequence_name("x.txt.gz")
    assert not is_sequence_name("x.gz")
