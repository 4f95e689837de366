"""What a run does with folders that earlier runs have used."""

from __future__ import annotations

import os
from pathlib import Path

from tests.run_program import results, run


def write(path: Path, name: str = "x", sequence: str = "ATGGCTAAAGGTCTGACCCTG") -> None:
    """A file of one record, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f">{name}\n{sequence}\n")


def test_an_empty_result_of_an_earlier_run_is_no_failure(tmp_path: Path) -> None:
    """It gives an empty result; an empty file that is no result still fails."""
    write(tmp_path / "in" / "a.fa", sequence="AC")
    assert run(tmp_path / "in", output=tmp_path / "first").returncode == 0
    empty = tmp_path / "first" / "a_identified_nucleotide.fa"
    assert not empty.read_bytes()
    assert run(empty, output=tmp_path / "second").returncode == 0
    assert set(results(tmp_path / "second").values()) == {b""}
    (tmp_path / "first" / "mine.fa").touch()
    refused = run(tmp_path / "first" / "mine.fa", output=tmp_path / "third")
    assert refused.returncode == 1
    assert "it is empty" in refused.stderr


def test_equal_names_from_two_folders(tmp_path: Path) -> None:
    """The result of one is never taken for that of the other: the second run is refused."""
    for folder in ("d1", "d2"):
        write(tmp_path / folder / "a.fa", name=folder)
    out = tmp_path / "out"
    assert run(tmp_path / "d1", output=out).returncode == 0
    before = results(out)
    refused = run(tmp_path / "d2", output=out)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "is the result of" in line
    kept = run(
        tmp_path / "d2", "--processor=tests.run_processors:SameNames", "--resume", output=out
    )
    assert kept.returncode == 1
    assert "a_chunked500.fa' is already the result of" in kept.stderr
    assert results(out) == before
    assert "1 skipped" in run(tmp_path / "d1", "--resume", output=out).stdout


def test_no_input_is_replaced(tmp_path: Path) -> None:
    """Neither a suffix nor names of our own may replace an input, whatever path leads to it."""
    folder = tmp_path / "h"
    write(folder / "a")
    write(folder / "a_chunked500.fa")
    (tmp_path / "link").symlink_to(folder)
    inputs = [folder / "a", tmp_path / "link" / "a_chunked500.fa"]
    for suffix, *words in (
        ["_chunked500.fa", "--", "cp", "{input}", "{output}"],
        [".out", "--chunk-size=500"],
    ):
        refused = run(*inputs, f"--output-suffix={suffix}", *words, output=tmp_path / "link")
        assert refused.returncode == 2
        assert "would overwrite the input" in refused.stderr
    assert set(results(folder)) == {b"a", b"a_chunked500.fa"}


def test_results_are_no_inputs(tmp_path: Path) -> None:
    """A shell's pattern in the output folder, and an output folder within an input folder."""
    folder = tmp_path / "h"
    write(folder / "a.fa")
    for done in ("1 files done", "0 files done, 0 failed, 1 skipped"):
        words = sorted(folder.glob("*.fa"))
        assert done in run(*words, output=folder).stdout
    write(tmp_path / "n" / "a.fa")
    assert "1 files done" in run(tmp_path / "n", output=tmp_path / "n" / "one").stdout
    other = run(tmp_path / "n", "--chunk-size=300", output=tmp_path / "n" / "two")
    assert "1 files done" in other.stdout
    assert "results of another run" in other.stderr


def test_folders_as_results_and_very_many_of_them(tmp_path: Path) -> None:
    """A folder is replaced when its file is done again; a thousand results of a file are kept."""
    write(tmp_path / "in" / "a.fa")
    script = "mkdir $1 && echo hi > $1/r && cd $(dirname $1) && touch $(seq -f %0200g 1200)"
    words: list[str | Path] = [tmp_path / "in", "--", "sh", "-c", script, "sh", "{output}"]
    for sequence in ("AC", "ACGT", "ACGT"):
        write(tmp_path / "in" / "a.fa", sequence=sequence)
        assert run(*words, output=tmp_path / "out").returncode == 0
    assert len(results(tmp_path / "out")) == 1200
    assert (tmp_path / "out" / "a.fa.out" / "r").read_text() == "hi\n"


def test_a_pipe_in_a_folder_does_not_hang(tmp_path: Path) -> None:
    """It is left out and told, and the others are done; named outright it is refused."""
    write(tmp_path / "in" / "a.fa")
    os.mkfifo(tmp_path / "in" / "b.fa")
    done = run(tmp_path / "in", output=tmp_path / "out")
    assert done.returncode == 0
    assert "b.fa': a pipe" in done.stderr
    assert run(tmp_path / "in" / "b.fa", output=tmp_path / "out").returncode == 2


def test_one_file_spelled_in_many_ways(tmp_path: Path) -> None:
    """It is done once, whether the path is absolute or goes through a link."""
    write(tmp_path / "in" / "a.fa")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert "1 files done" in run(tmp_path / "in", output=tmp_path / "out").stdout
    again = run(tmp_path / "link", output=tmp_path / "out")
    assert "0 files done, 0 failed, 1 skipped" in again.stdout
