"""Whole runs of one file that all workers share: killed, drained and left alone."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.run_program import processes_of, results, run, start, until

RECORDS = 600
WORDS = ("--processor", "tests.run_processors:Names")


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    """Enough records for some seconds."""
    path = tmp_path / "in.fa"
    path.write_text("".join(f">r{n} x\n{'ACGT' * (n % 50)}\n" for n in range(RECORDS)))
    return path


def expected() -> dict[bytes, bytes]:
    """What one worker writes."""
    return {b"in.fa.out": b"".join(b"r%d\n" % n for n in range(RECORDS))}


def parts(output: Path, state: str) -> list[int]:
    """The attempts of the parts in a state, as the journal knows them."""
    path = output / ".virnucpro" / "journal.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        try:
            rows = database.execute("SELECT attempt FROM parts WHERE state = ?", (state,))
            return [attempt for (attempt,) in rows]
        except sqlite3.OperationalError:  # it is just being made
            return []


def test_one_file_is_shared_by_all_workers(one_file: Path, tmp_path: Path) -> None:
    """Both workers do parts of it, the log says so, and the result is that of one worker."""
    output = tmp_path / "out"
    done = run(one_file, *WORDS, output=output)
    assert done.returncode == 0, done.stderr
    assert "gives" in done.stderr
    assert results(output) == expected()
    assert len(parts(output, "completed")) > 1
    assert not list((output / ".virnucpro" / "attempts").iterdir())
    whole = run(one_file, *WORDS, "--split", "never", output=tmp_path / "whole")
    assert results(tmp_path / "whole") == expected()
    assert "gives" not in whole.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_goes_on_within_a_file(one_file: Path, tmp_path: Path, how: signal.Signals) -> None:
    """After a kill or a drain, parts that are done are not done again."""
    one_file.write_text(one_file.read_text() * 3)  # so that a drain does not await the end
    output = tmp_path / "out"
    with start(one_file, *WORDS, output=output) as process:
        until(lambda: parts(output, "processing") and parts(output, "queued") == [])
        if how is signal.SIGKILL:
            until(lambda: parts(output, "completed"))
        process.send_signal(how)
        process.communicate()
        until(lambda: not processes_of(output))
    before = parts(output, "completed")
    assert before
    assert results(output) == {}
    resumed = run(one_file, *WORDS, output=output)
    assert resumed.returncode == 0, resumed.stderr
    assert set(before) <= set(parts(output, "completed"))
    assert results(output) == {b"in.fa.out": expected()[b"in.fa.out"] * 3}
