"""Whole runs on a Dask cluster, of files that begin and end as the test wants it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.dask_cluster import DaskCluster
from tests.run_program import PROGRAM, QUIET, ROOT, TELLING

WAITING = ["--processor=tests.run_processors:waiting", "--log-level=info"]

Word = str | Path


def command(cluster: DaskCluster, *words: Word, output: Path) -> list[Word]:
    """The command line of a run on a cluster."""
    file = f"--dask-scheduler-file={cluster.file}"
    return [*PROGRAM, "run", *QUIET, file, "--output", output, *words]


def start(
    cluster: DaskCluster,
    *words: Word,
    output: Path,
    errors: int | IO[str] = subprocess.PIPE,
    enter: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start a run on a cluster and return at once."""
    return subprocess.Popen(
        [*enter, *command(cluster, *words, output=output)],
        cwd=ROOT,
        env={**os.environ, **TELLING},
        text=True,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


def inputs_of(tmp_path: Path, count: int) -> Path:
    """A folder of so many inputs, `0.fa` and so on, which one worker takes in this order."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.fa").write_text(f">{number}\nA{'CGT' * (count - number)}\n")
    return folder


def begun(folder: Path) -> dict[str, int]:
    """How often each input was begun, by its name."""
    marks = folder.glob("*.begun")
    return {mark.stem: len(mark.read_text().splitlines()) for mark in marks}


def let_end(inputs: Path, most: int) -> None:
    """Let files that were begun end, so many in all; the others wait, so that a run cannot end."""
    for name in sorted(begun(inputs)):
        if len(list(inputs.glob("*.go"))) < most:
            (inputs / f"{name}.go").touch()


def forget(inputs: Path, *names: str) -> None:
    """Have these files, which a run that was killed had begun, neither begun nor let end."""
    for name in names:
        (inputs / f"{name}.begun").unlink(missing_ok=True)
        (inputs / f"{name}.go").unlink(missing_ok=True)


def whole(inputs: Path) -> dict[bytes, bytes]:
    """What `waiting` makes of the inputs, by the name of the output."""
    return {f"{p.name}.out".encode(): p.read_bytes()[::-1] for p in inputs.glob("*.fa")}


def fault(stderr: str) -> str:
    """The one line in which a run told why it failed."""
    lines = [line for line in stderr.splitlines() if line.startswith("virnucpro-exporter: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]
