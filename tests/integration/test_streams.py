"""Standard streams that are closed, full or gone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.run_program import DEADLINE, PROGRAM

READS = Path(__file__).parents[2] / "examples" / "lambda_phage.fa"
COMMANDS = {
    "run": (f"run {READS} --gpus cpu:1 --no-web --no-dashboard --log-level error --output", 0),
    "gpus": ("gpus --simulate-gpus 2", 1),
    "help": ("--help", 1),
}


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of the program, within a shell that redirects its streams."""
    program = " ".join(map(str, PROGRAM))
    words = ["bash", "-o", "pipefail", "-c", command.replace("PROGRAM", program)]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    """On a full device a run keeps its own status, and what only prints fails."""
    words, status = COMMANDS[name]
    out = " out" if words.endswith("--output") else ""
    done = shell(f"PROGRAM {words}{out} > /dev/full", tmp_path)
    assert done.stderr == (
        "virnucpro-exporter: standard output cannot be written: No space left on device\n"
    )
    assert done.returncode == status
    assert (tmp_path / "out").exists() is (name == "run")


def test_closed_streams_disturb_nothing(tmp_path: Path) -> None:
    """No file of the run gets the number of a stream, and nothing is printed into one."""
    words, _ = COMMANDS["run"]
    assert shell(f"PROGRAM {words} out <&- >&- 2>&-", tmp_path).returncode == 0
    assert len(list((tmp_path / "out").glob("lambda_phage*"))) == 3
    assert shell("PROGRAM status out", tmp_path).returncode == 0
    assert shell("PROGRAM gpus --simulate-gpus 1 >&-", tmp_path).returncode == 0


def test_errors_that_cannot_be_printed_keep_their_status(tmp_path: Path) -> None:
    """Where standard error is full, the exit status says what it can."""
    assert shell("PROGRAM status nowhere 2> /dev/full", tmp_path).returncode == 2
    assert shell("PROGRAM gpus --simulate-gpus 1 2> /dev/full", tmp_path).returncode == 0


def test_dashboard_that_cannot_be_drawn_costs_no_result(tmp_path: Path) -> None:
    """The terminal may be gone, or its file full: the run goes on."""
    words = f"run {READS} --gpus cpu:1 --no-web --dashboard --output out"
    assert shell(f"PROGRAM {words} 2> /dev/full", tmp_path).returncode == 0
    assert len(list((tmp_path / "out").glob("lambda_phage*"))) == 3


def test_reader_that_left_is_no_error(tmp_path: Path) -> None:
    """As with other programs in a pipe, the status tells and nothing is printed."""
    done = shell("PROGRAM gpus --simulate-gpus 2 | true", tmp_path)
    assert (done.returncode, done.stderr) == (141, "")


def test_faults_on_the_command_line_are_one_line(tmp_path: Path) -> None:
    """Those that click finds, and our own."""
    for words in ("run x --linger soon", "run x --output ''"):
        done = shell(f"PROGRAM {words}", tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("virnucpro-exporter: These options cannot be used: ")
        assert done.stderr.count("\n") == 1
