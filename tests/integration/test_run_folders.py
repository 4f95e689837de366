"""What a run does with folders that earlier runs have used."""

from __future__ import annotations

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
