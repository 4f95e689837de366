from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.errors import InputError
from virnucpro_exporter.files import inputs
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
    return [str(Path(f.path).relative_to(folder)) for f in discover(inputs, output).files]


ANY_NAMES = st.lists(st.text("a09./", min_size=1), unique=True)
ALIKE = st.lists(st.integers(0, 9999).map(lambda n: f"f{n % 7}/{n // 100:02}_{n % 100:02}.fa"))


@given(st.one_of(ANY_NAMES, ALIKE))
def test_natural_order(names: list[str]) -> None:
    """Files are in one order, whether all names have digits in the same places or not."""
    files = [inputs.Input(name, name, name) for name in names]
    ordered = [file.path for file in inputs._in_natural_order(iter(files))]
    assert ordered == sorted(
        names, key=lambda name: inputs._natural_key(inputs.Input(name, "", ""))
    )


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
    assert str(folder / name) in [file.path for file in discover([str(folder)]).files]


@pytest.mark.parametrize("argument", ["gone.fa", "*.faa", "sub/empty"])
def test_no_match(folder: Path, argument: str) -> None:
    """An argument that matches nothing is refused by name."""
    (folder / "sub/empty").mkdir()
    with pytest.raises(InputError) as caught:
        discover([str(folder), str(folder / argument)])
    assert caught.value.detail == f"{str(folder / argument)!r} matches no sequence file"


def test_the_output_folder_is_no_input(folder: Path) -> None:
    """Named as an input, alone, it is refused with what to do instead."""
    with pytest.raises(InputError, match=r"inside the output folder, .* give its files"):
        discover([str(folder)], folder)


def test_folder_that_cannot_be_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that refuses to be read is told and the others are searched; alone it is refused."""
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    searched = discover([str(folder)], folder / "out")
    assert [Path(file.path).name for file in searched.files] == ["x2.FASTA.gz", "x10.fa"]
    (line,) = searched.lines()
    assert line.endswith("sub' cannot be searched (Permission denied): its files are not processed")
    with pytest.raises(InputError, match=r"sub' cannot be searched \(Permission denied\)"):
        discover([str(folder / "sub")])


def test_what_is_left_out_is_told(folder: Path) -> None:
    """Pipes, sockets and formats that are not read get a line each; companions get none."""
    os.mkfifo(folder / "p.fa")
    (folder / "p_link.fa").symlink_to(folder / "p.fa")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "s.fa"))
    for name in ("a.fa.lz4", "b.bam", "x10.fa.fai", "x10.fa.bwt", "x2.fasta.txt", "x.nhr"):
        (folder / name).touch()
    searched = discover([str(folder)], folder / "out")
    assert len(searched.files) == 3
    left_out = {Path(path).name for paths in searched.left_out.values() for path in paths}
    assert left_out == {"p.fa", "p_link.fa", "s.fa", "a.fa.lz4", "b.bam"}
    assert len(list(searched.lines())) == 3


@pytest.mark.parametrize("argument", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "p.fa"])
def test_streams_are_refused(folder: Path, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream or pipe that is named is one clear line, and nothing waits for what it gives."""
    os.mkfifo(folder / "p.fa")
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=r"to a file"):
        discover([argument])


def test_results_are_no_inputs(folder: Path) -> None:
    """Known results in the output folder and the folders of other runs are left out, and told."""
    (folder / "out" / ".virnucpro").mkdir()
    assert "out/x2_chunked500.fa" not in found(folder, str(folder))
    assert found(folder, str(folder / "out")) == ["out/x2_chunked500.fa"]
    arguments = [str(path) for path in folder.glob("x*")]
    searched = discover(arguments, folder, lambda: ["x10.fa"])
    assert [Path(file.path).name for file in searched.files] == ["x2.FASTA.gz"]
    assert "results of earlier runs" in next(searched.lines())


def test_one_file_by_many_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is the same whatever way it is spelled, and shown as it was typed first."""
    (folder / "link").symlink_to(folder / "sub")
    (folder / "y_link.fq").symlink_to("sub/y.fq")
    monkeypatch.chdir(folder)
    spellings = ["link/y.fq", "./sub/../sub/y.fq", "y_link.fq", str(folder / "sub/y.fq")]
    (file,) = discover(spellings).files
    assert (file.path, file.real) == ("link/y.fq", os.path.realpath("sub/y.fq"))


def test_links_and_names_are_asked_about_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer of a shared file system takes a millisecond; a listing tells of files alone."""
    files, links = tmp_path / "files", tmp_path / "links"
    for folder in (files, links):
        folder.mkdir()
    for number in range(30):
        (files / f"{number}.fa").touch()
        (links / f"{number}.fa").symlink_to(files / f"{number}.fa")
    asked: list[int] = []

    def look_at(paths: Sequence[str], ask: Callable[[str], Any]) -> list[Any]:
        asked.append(len(paths))
        return list(map(ask, paths))

    monkeypatch.setattr(inputs, "look_at", look_at)
    assert len(discover([str(files)]).files) == 30
    assert asked == [1, 0]
    assert {file.real for file in discover([str(links)]).files} == set(map(str, files.iterdir()))
    assert asked[2:] == [1, 30]
    names = [str(path) for path in files.iterdir()]
    assert len(discover(names).files) == 30
    assert asked[4:] == [30]
    assert len(discover([str(links / "*.fa")]).files) == 30
    assert asked[5:] == [1, 30]
