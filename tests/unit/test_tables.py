"""Runs and files for programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from virnucpro_exporter.app.tables import as_tsv, eta, percent, run_object
from virnucpro_exporter.journal.files_table import FileRow
from virnucpro_exporter.journal.status import RunStatus


def row(name: str, state: str, **values: Any) -> FileRow:
    """A file of a hundred residues."""
    fields: dict[str, Any] = dict.fromkeys(FileRow._fields)
    fields |= {"path": name, "state": state, "attempts": 0, "outputs": (), "residues": 100}
    return FileRow(**{**fields, **values})


def status(*files: FileRow, is_active: bool = True) -> RunStatus:
    """A run with these files that began at 1,000."""
    counts = {file.state: sum(f.state == file.state for f in files) for file in files}
    return RunStatus(is_active, "r", "running", 1000.0, None, {}, counts, (), (), 0)


def test_share_and_time_left_follow_residues() -> None:
    """By the pace of what is completed; a file in process counts for what should be left of it."""
    files = [
        row("a", "completed", gpu="0", started=1000.0, seconds=10.0),
        row("b", "processing", gpu="0", started=1010.0),
        row("c", "queued"),
    ]
    assert percent(status(*files), files) == pytest.approx(33.3)
    assert eta(status(*files), files, 1015.0) == 15.0
    assert eta(status(*files, is_active=False), files, 1015.0) is None
    assert eta(status(*files[1:]), files[1:], 1015.0) is None
    files[2] = row("c", "queued", residues=None)
    assert percent(status(*files), files) == pytest.approx(33.3)  # of the files
    assert eta(status(*files), files, 1015.0) is None
    assert percent(status(files[0]), files[:1]) == 100.0


def test_each_row_of_the_table_is_a_sample_to_multiqc() -> None:
    """Lines with `#` are its header, and a name that it has seen replaces the row before."""
    paths = ["A/final.fa", "B/final.fa", "C/#x.fa", "only.fa", "/final.fa", "D/line\nbreak.fa"]
    lines = as_tsv([row(path, "completed") for path in paths]).splitlines()
    header = yaml.safe_load("\n".join(line[1:] for line in lines if line.startswith("#")))
    assert header["plot_type"] == "table"
    cells = [line.split("\t") for line in lines if not line.startswith("#")]
    assert len({len(row) for row in cells}) == 1
    names = ["A/final.fa", "B/final.fa", "./#x.fa", "only.fa", "/final.fa", "line\\nbreak.fa"]
    assert [row[0] for row in cells] == ["file", *names]


def test_paths_can_be_opened_by_programs(tmp_path: Path) -> None:
    """Also those that are no UTF-8, after a way through JSON."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.fa")
    Path(name).write_text(">a\n")
    file = row(name, "failed", error="no")
    found = json.loads(json.dumps(run_object(status(file), [file], 1001.0)))["per_file"][0]
    with open(found["path"]) as stream:  # noqa: PTH123 - as programs do
        assert stream.read() == ">a\n"
    assert found["path_base64"]
