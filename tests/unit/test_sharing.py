"""What `--dry-run` says about files that workers could share."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from virnucpro_exporter.app.sharing import sharing_text
from virnucpro_exporter.config import Scheduling

TRANSLATE = {"kind": "translate", "chunk_size": 500}
COMMAND = {"kind": "command", "argv": ["cat", "{input}", "{output}"], "output_suffix": ".out"}
OWN = {"kind": "python", "target": "a:B", "output_suffix": ".out"}


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """One that can be shared, one that cannot, an empty one, and one that is not there."""
    content = b">a\nAC\n"
    (tmp_path / "a.fa").write_bytes(content)
    (tmp_path / "b.fa.bz2").write_bytes(bz2.compress(content))
    (tmp_path / "c.fa").touch()
    return [str(tmp_path / name) for name in ("a.fa", "b.fa.bz2", "c.fa", "d.fa", "e.fa")]


def test_files_that_cannot_be_entered_are_named(paths: list[str]) -> None:
    """Some of them, with the reason; the others are counted."""
    told = sharing_text(TRANSLATE, Scheduling(), paths)
    assert told.startswith(f"1 of 5 files can be shared by idle workers, except {paths[1]!r}, ")
    assert told.endswith(
        " and 1 more: empty, bzip2 and xz files and those on "
        "servers without range requests cannot be split"
    )
    all_of_them = sharing_text(TRANSLATE, Scheduling(), paths[:1])
    assert all_of_them == "1 of 1 file can be shared by idle workers"
    own = sharing_text(OWN, Scheduling(), paths[:1])
    assert own.endswith("if a:B defines how results are joined (seen when workers start)")


def test_why_files_are_done_whole(paths: list[str]) -> None:
    """By the user's wish, or because the results of parts would not make one."""
    never = sharing_text(TRANSLATE, Scheduling(split="never"), paths)
    assert never == "files are not split: --split never"
    static = sharing_text(TRANSLATE, Scheduling(balancer="static"), paths)
    assert static == "files are not split: --balancer static"
    command = sharing_text(COMMAND, Scheduling(), paths)
    assert command.endswith("commands process parts of files only with --split SIZE or --join")
    joined = sharing_text({**COMMAND, "joins": "concatenate"}, Scheduling(), paths)
    assert joined.startswith("1 of 5 files")
