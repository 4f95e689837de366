from __future__ import annotations

import os
from pathlib import Path

import pytest

from virnucpro_exporter.errors import InputError
from virnucpro_exporter.files.inputs import discover


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with sequences, other files, hidden ones and the output of an earlier run."""
    for name in (
        "x10.fa",
        "x2.FASTA.gz",
        "sub/y.fq",
        "notes.txt",
        ".hidden/z.fa",
        ".z.fa",
        "out/x2_chunked500.fa",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b">a\nA\n")
    return tmp_path


def found(folder: Path, *inputs: str, output: Path | None = None) -> list[str]:
    return [str(path.relative_to(folder)) for path in discover(inputs, output)]


def test_folder(folder: Path) -> None:
    """A folder is searched in natural order, without hidden entries and the output folder."""
    expected = ["sub/y.fq", "x2.FASTA.gz", "x10.fa"]
    assert found(folder, str(folder), output=folder / "out") == expected
    assert found(folder, str(folder)) == ["out/x2_chunked500.fa", *expected]


def test_glob_and_file(folder: Path) -> None:
    """Globs match as in a shell, a file named outright is taken whatever its suffix."""
    notes = str(folder / "notes.txt")
    assert found(folder, notes, str(folder / "x*")) == ["notes.txt", "x2.FASTA.gz", "x10.fa"]
    assert found(folder, str(folder / "**/*.f[aq]"), output=folder / "out") == [
        "sub/y.fq",
        "x10.fa",
    ]


def test_duplicates_and_links(folder: Path) -> None:
    """A file counts once, by whichever path comes first; a loop of links ends."""
    (folder / "a_link.fa").symlink_to(folder / "x10.fa")
    (folder / "sub/loop").symlink_to(folder)
    (folder / "sub/lost.fa").symlink_to(folder / "nowhere")
    assert found(folder, str(folder), str(folder / "x10.fa"), output=folder / "out") == [
        "a_link.fa",
        "sub/lost.fa",
        "sub/y.fq",
        "x2.FASTA.gz",
    ]


def test_name_that_looks_like_a_pattern(folder: Path) -> None:
    """A file whose name holds the letters of a pattern is found by that name."""
    (folder / "a[1]*.fa").write_bytes(b">a\nA\n")
    assert found(folder, str(folder / "a[1]*.fa")) == ["a[1]*.fa"]


def test_undecodable_name(folder: Path) -> None:
    """A name that is not UTF-8 is found, and keeps its bytes."""
    name = os.fsdecode(b"\xff.fa")
    (folder / name).write_bytes(b">a\nA\n")
    assert folder / name in discover([str(folder)])


@pytest.mark.parametrize("argument", ["gone.fa", "*.faa", "sub/empty"])
def test_no_match(folder: Path, argument: str) -> None:
    """An argument that matches nothing is refused by name."""
    (folder / "sub/empty").mkdir()
    with pytest.raises(InputError) as caught:
        discover([str(folder), str(folder / argument)])
    assert caught.value.detail == f"{str(folder / argument)!r} matches no sequence file"


def test_folder_that_cannot_be_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that refuses to be read is named, never left out in silence."""
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"sub' cannot be searched \(Permission denied\)"):
        discover([str(folder)])
