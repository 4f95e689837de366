"""Whole runs whose workers are silent: well, stuck, or loading for too long."""

from __future__ import annotations

import re
from pathlib import Path

from tests.run_program import processes_of, results, run

WORK = 'case "$1" in *quiet*) sleep 2;; *busy*) timeout 6 sh -c "while :; do :; done";; esac'
COMMAND = ["--", "sh", "-c", f'{WORK}; cp "$1" "$2"', "sh", "{input}", "{output}"]


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.fa").write_text(">a\nACGT\n")
    return folder


def test_commands_that_are_silent_and_well_are_neither_stalled_nor_killed(tmp_path: Path) -> None:
    """One waits longer than the threshold, one computes for several; both end in one attempt."""
    inputs = fill(tmp_path / "in", "quiet", "busy")
    words = ["--stall-threshold", "1.5", "--on-stall", "restart"]
    done = run(inputs, *words, *COMMAND, output=tmp_path / "out")
    assert "2 files done, 0 failed, 0 skipped, 0 left; 0 retries" in done.stdout
    assert "stalled" not in done.stderr
    assert len(results(tmp_path / "out")) == 2


def test_a_stuck_command_is_noticed_and_killed(tmp_path: Path) -> None:
    """Without a sign of life it stalls, and its file is done again.

    On a busy machine another one may wait for that long, too.
    """
    inputs = fill(tmp_path / "in", "stuck", "a", "b")
    script = (
        'case "$1" in *stuck*) [ -e "$3" ] || { touch "$3"; sleep 1000; } ;; esac; cp "$1" "$2"'
    )
    command = ["--", "sh", "-c", script, "sh", "{input}", "{output}", str(tmp_path / "once")]
    words = ["--stall-threshold", "0.5", "--on-stall", "restart"]
    done = run(inputs, *words, *command, output=tmp_path / "out", workers=1)
    assert "stalled: no progress for" in done.stderr
    assert re.search("3 files done, 0 failed, 0 skipped, 0 left; [1-9] retr", done.stdout)
    assert len(results(tmp_path / "out")) == 3


def test_a_processor_that_is_never_set_up_is_given_up_in_one_line(tmp_path: Path) -> None:
    """Loading has a limit of its own; a worker that exceeds it twice is given up."""
    inputs = fill(tmp_path / "in", "a")
    words = ["--processor", "tests.run_processors:Slow", "--setup-timeout", "1"]
    done = run(inputs, *words, "--stall-threshold", "0.2", output=tmp_path / "out", workers=1)
    assert done.returncode == 2
    assert "the processor was not set up within 1 s (--setup-timeout)" in done.stderr
    assert "stalled" not in done.stderr
    assert not processes_of(tmp_path)
