from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro_exporter.errors import OutputError
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.workers.main import make_empty

NAMES = ["a b.fa", "quo'te\".fa", "new\nline.fa", "caf\udce9.fa"]


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    return outputs


def write(outputs: Outputs, attempt: int, names: list[str]) -> None:
    outputs.attempt_folder(attempt).mkdir()
    for name in names:
        (outputs.attempt_folder(attempt) / name).write_text(f"{attempt} {name!r}")


@pytest.mark.parametrize("below", [(), ("results",)])
def test_a_file_where_a_folder_is_wanted_is_named(tmp_path: Path, below: tuple[str, ...]) -> None:
    """Whether it is the output itself or on the way to it."""
    file = tmp_path / "a.fa"
    file.touch()
    with pytest.raises(OutputError, match=f"'{file}' is not a folder"):
        Outputs(file.joinpath(*below)).prepare()


def test_commit_moves_every_kind_of_name(outputs: Outputs) -> None:
    """Outputs of any name replace what was there, and leave the attempt's folder."""
    write(outputs, 1, NAMES)
    outputs.commit(1, NAMES)
    write(outputs, 2, NAMES)
    outputs.commit(2, NAMES)
    assert [(outputs.folder / name).read_text() for name in NAMES] == [f"2 {n!r}" for n in NAMES]
    assert not any(list(folder.iterdir()) for folder in outputs.attempts.iterdir())


@pytest.mark.parametrize("moved", range(4))
def test_commit_goes_on_where_it_was_killed(outputs: Outputs, moved: int) -> None:
    """A commit that was interrupted after any of its moves can be repeated."""
    write(outputs, 7, NAMES[:3])
    for name in NAMES[:moved]:
        (outputs.attempt_folder(7) / name).rename(outputs.folder / name)
    outputs.commit(7, NAMES[:3])
    outputs.commit(7, NAMES[:3])
    assert outputs.names() == {*NAMES[:3], ".virnucpro"}


def test_commit_of_nothing_written_is_an_error(outputs: Outputs) -> None:
    """An output in neither place is reported, not taken for done."""
    with pytest.raises(OutputError, match="vanished"):
        outputs.commit(1, ["a.fa"])


def test_clean_keeps_what_it_is_told(outputs: Outputs) -> None:
    """Left-over attempts go, apart from those that are kept."""
    for attempt in (1, 2, 3):
        write(outputs, attempt, ["a.fa"])
    outputs.clean(keep={2})
    assert outputs.left_attempts() == {2}


def test_claim_gives_a_name_to_one_input(outputs: Outputs) -> None:
    """No second input gets an output's name; its owner may ask again."""
    assert outputs.claim("a.fa", "x/a.fq") is None
    assert outputs.claim("a.fa", "x/a.fq") is None
    assert outputs.claim("a.fa", "y/a.fq") == "another input of this run also writes 'a.fa'"


def test_no_result_takes_a_name_that_is_needed(outputs: Outputs) -> None:
    """Inputs, also those in folders, the log with its rotated files and our own folder are kept."""
    outputs.reserve(outputs.folder / "gpu_metrics.log")
    for name in ("a.fa", "sub/b.fa"):
        path = outputs.folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        outputs.protect(str(path), f"./{name}")
    outputs.protect("/elsewhere/c.fa", "c.fa")
    refused = [
        "a.fa",
        "sub",
        "run.json",
        "gpu_metrics.log",
        "gpu_metrics.log.1",
        ".virnucpro",
        "x" * 256,
    ]
    assert [
        name for name in [*refused, "c.fa", "b.fa", "x" * 255] if outputs.refusal(name)
    ] == refused
    assert outputs.claim("a.fa", "x/a") == "its result would overwrite the input './a.fa'"


@pytest.mark.parametrize("before", ["file", "folder", "link"])
@pytest.mark.parametrize("after", ["file", "folder"])
def test_a_result_replaces_what_was_there(outputs: Outputs, before: str, after: str) -> None:
    """A folder replaces a file and the reverse; nothing of the old one is left."""
    target = outputs.folder / "r"
    make(target, before, "old")
    make(outputs.attempt_folder(1) / "r", after, "new")
    outputs.commit(1, ["r"])
    assert ((target / "inside") if after == "folder" else target).read_text() == "new"
    assert outputs.names() == {"r", ".virnucpro"}
    assert not outputs.replaced.exists()


def make(path: Path, kind: str, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if kind == "folder":
        path.mkdir()
        (path / "inside").write_text(text)
    elif kind == "link":
        path.symlink_to("/nowhere")
    else:
        path.write_text(text)


@pytest.mark.parametrize("inside", ["", "out"])
def test_a_file_in_the_way_is_one_clear_line(tmp_path: Path, inside: str) -> None:
    """An output folder that is a file, or lies under one, is refused."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"\A[^\n]*not a folder\Z"):
        Outputs(tmp_path / "file" / inside).prepare()


def test_the_folder_of_an_attempt_that_was_kept_serves_a_later_one(outputs: Outputs) -> None:
    """It is renamed, so the earlier attempt has none any more; nothing is left after `clean`."""
    write(outputs, 1, ["a"])
    outputs.commit(1, ["a"])
    outputs.provide(2)
    outputs.provide(3)
    assert outputs.left_attempts() == {2}
    make_empty(str(outputs.attempt_folder(2)))
    make_empty(str(outputs.attempt_folder(3)))
    assert outputs.left_attempts() == {2, 3}
    outputs.clean()
    outputs.provide(4)
    assert outputs.left_attempts() == set()


def test_a_folder_that_is_written_late_is_empty_for_the_next_attempt(outputs: Outputs) -> None:
    """What a left-behind process writes is no output of another attempt."""
    write(outputs, 1, ["a"])
    outputs.commit(1, ["a"])
    (outputs.attempt_folder(1) / "late").touch()
    outputs.provide(2)
    make_empty(str(outputs.attempt_folder(2)))
    assert list(outputs.attempt_folder(2).iterdir()) == []
