"""`run_files` as a script calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_program import DEADLINE, READS
from virnucpro_exporter import run_files
from virnucpro_exporter.errors import ProcessorError, UsageError

SCRIPT = """
from pathlib import Path
from virnucpro_exporter import run_files

class Count:
    def process(self, file, output, progress):
        output.write_text(str(file.stat().st_size))

if __name__ == "__main__":
    run = run_files(Path({reads!r}), Path("OUT"), Count, gpus="cpu:1", stall_threshold=60)
    print(run.files_completed, run.failures)
"""


def test_a_script_runs_its_own_class_over_one_file(tmp_path: Path) -> None:
    """Paths need no list, and a class of the script itself is found by the workers."""
    file = min(READS.iterdir())
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.format(reads=str(file)))
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stdout == "1 ()\n", done.stderr
    assert (tmp_path / "OUT" / f"{file.name}.out").read_text() == str(file.stat().st_size)


def test_what_cannot_be_meant_is_an_error_of_ours(tmp_path: Path) -> None:
    """Wrong types too: no error of pydantic's leaves the program."""
    with pytest.raises(UsageError, match="inputs: must be a list"):
        run_files(5, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_attempts: must be a whole number"):
        run_files(READS, tmp_path, max_attempts="two")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_attemps: there is no such option; did you mean"):
        run_files(READS, tmp_path, max_attemps=2)  # type: ignore[call-arg]
    with pytest.raises(ProcessorError, match="define it at the top level of a module"):
        run_files(READS, tmp_path, lambda *_: None)
    assert not list(tmp_path.iterdir())
