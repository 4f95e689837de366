from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter import sequences
from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.files.counting import count, estimate
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.sequences import Record, is_sequence_name, read_sequences, stem

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

    def render(self, found: list[tuple[bytes, bytes]]) -> bytes:
        """The file's text."""
        text = b"".join(self._record(name, sequence) for name, sequence in found) + self.ending
        if not self.members:
            return text
        cut = len(text) // self.members + 1
        return b"".join(gzip.compress(text[i : i + cut]) for i in range(0, len(text), cut))

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
    newline=st.sampled_from([b"\n", b"\r\n"]),
    ending=st.sampled_from([b"", b"\n", b"\n\r\n\n\n", b">z\nAC", b">z"]),
    members=st.integers(0, 3),
)


@given(found=records, layout=layouts, block=st.integers(2, 64))
def test_round_trip(found: list[tuple[bytes, bytes]], layout: Layout, block: int) -> None:
    """Reading, counting and estimating agree on any layout, wherever the blocks are cut."""
    expected = [Record(*pair) for pair in found]
    if b"z" in layout.ending:  # a last line without its newline
        sequence = layout.ending[3:]
        layout = layout._replace(marker=b">")
        expected.append(Record(b"z", sequence))
    with tempfile.TemporaryDirectory() as folder, patch.object(sequences, "BLOCK_BYTES", block):
        path = Path(folder, "x")
        path.write_bytes(layout.render(found))
        assert list(read_sequences(path)) == expected
        residues = sum(len(record.sequence) for record in expected)
        counted = SequenceFile(str(path), len(expected), max(1, residues))
        assert count(path) == estimate(path) == counted


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
        "its gzip data ends too early: the file was cut short",
    ),
    "gzip magic alone": (
        b"\x1f\x8b",
        "its gzip data ends too early: the file was cut short",
    ),
    "wrong checksum": (
        gzip.compress(GOOD)[:-8] + b"12345678",
        "its gzip data is damaged (Error -6 Incorrect checksum found)",
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


def test_gzip_garbage_after_the_end(tmp_path: Path) -> None:
    """Zeros that pad a gzip file are ignored, anything else after its end is damage."""
    path = tmp_path / "x.fa.gz"
    path.write_bytes(gzip.compress(GOOD) + b"\0" * 512)
    assert len(list(read_sequences(path))) == 2
    path.write_bytes(gzip.compress(GOOD) + b"more text that is no gzip")
    with pytest.raises(SequenceFileError, match="damaged"):
        count(path)


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
    """Known suffixes are found and taken off in any case, with and without .gz."""
    assert stem("a.b.fa") == stem("a.b.fa.gz") == stem("a.b.FASTQ.GZ") == "a.b"
    assert stem("reads.txt") == "reads.txt"
    assert stem("reads.txt.gz") == "reads.txt"
    assert stem(".fa") == ".fa"
    assert is_sequence_name("x.Fna.gz")
    assert not is_sequence_name("x.txt.gz")
    assert not is_sequence_name("x.gz")
