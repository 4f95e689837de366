from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests import facts
from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.files.lock import Holder, RunLock, holder
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.schema import Committed
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.files import SequenceFile

FILES = [InputFile(f"in/{number}.fa", 1, 1) for number in range(400)]

# Processes every file that is left; one line on stdout for each file processed.
RUN = """
import runpy, sys
runpy.run_path(sys.argv[1])["run"](sys.argv[2])
"""
HOLD = """
import sys
from pathlib import Path
from virnucpro_exporter.files.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
FILL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
runpy.run_path(sys.argv[1])["fill"](sys.argv[2])
"""


def outputs_of(file: SequenceFile) -> tuple[str, ...]:
    return f"{file.name}.fa", f"{file.name}.faa"


def run(folder: str) -> None:
    """What a parent does, without workers."""
    outputs = Outputs(folder)
    outputs.prepare()
    with closing(RunLock(outputs.lock)), closing(Journal(outputs)) as journal:
        done = journal.plan(FILES).done
        left = [file.path for file in FILES if file.path not in done]
        attempt = journal.next_attempt()
        while left:
            batch, left = left[:5], left[5:]
            numbered = list(enumerate(map(SequenceFile, batch), attempt))
            journal.record([facts.started("cpu0", n, file) for n, file in numbered], now=0.0)
            for number, file in numbered:
                outputs.attempt_folder(number).mkdir()
                for suffix in ("fa", "faa"):
                    path = outputs.attempt_folder(number) / f"{file.name}.{suffix}"
                    path.write_text(f"{number}\n" * 100)
            results = [
                facts.completed("cpu0", number, file, 0.0, outputs_of(file))
                for number, file in numbered
            ]
            journal.record(results, now=0.0)
            sys.stdout.writelines(f"{n} {file.name}\n" for n, file in numbered)
            sys.stdout.flush()
            for number, file in numbered:
                outputs.commit(number, outputs_of(file))
            journal.record([Committed(file.path) for _, file in numbered], now=0.0)
            attempt += len(batch)


def fill(folder: str) -> None:
    """Add files to a journal until the limit of the process stops it."""
    outputs = Outputs(folder)
    outputs.prepare()
    with closing(Journal(outputs)) as journal:
        for start in range(0, 1_000_000, 100):
            journal.plan([InputFile(f"{number}", 1, 1) for number in range(start, start + 100)])


def start_child(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_random_moments_no_file_is_lost_or_done_twice(tmp_path: Path) -> None:
    """However often the run is killed, each file has one result, and that one whole."""
    moments = random.Random(1)
    decided: list[str] = []
    for _ in range(12):
        with start_child(RUN, __file__, tmp_path) as child:
            assert child.stdout
            lines = [child.stdout.readline() for _ in range(moments.randrange(1, 40))]
            child.kill()
            lines += child.stdout.readlines()
            decided += [line.strip() for line in lines if line.endswith("\n")]
    with start_child(RUN, __file__, tmp_path) as child:
        output, errors = child.communicate(timeout=100)
        assert (child.returncode, errors) == (0, "")
    decided += output.splitlines()
    names = [line.split()[1] for line in decided]
    assert len(names) == len(set(names))  # none was decided twice
    outputs = Outputs(tmp_path)
    expected = {f"{Path(f.path).name}.{suffix}" for f in FILES for suffix in ("fa", "faa")}
    assert outputs.names() == {*expected, ".virnucpro"}
    for line in decided:
        attempt, name = line.split()
        for suffix in ("fa", "faa"):
            assert (tmp_path / f"{name}.{suffix}").read_text() == f"{attempt}\n" * 100
    with closing(Journal(outputs)) as journal:
        assert journal.plan(FILES).done == {file.path for file in FILES}


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    """The lock names its holder, and goes with it even by SIGKILL."""
    lock = tmp_path / "lock"
    assert holder(lock) is None
    with start_child(HOLD, lock) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        assert holder(lock) == Holder(str(child.pid), os.uname().nodename)
        with pytest.raises(OutputError, match=rf"process {child.pid}\b"):
            RunLock(lock)
        child.kill()
    assert holder(lock) is None
    RunLock(lock).close()


def test_a_program_started_meanwhile_does_not_hold_the_lock(tmp_path: Path) -> None:
    """A worker that outlives the run does not keep the next one out."""
    lock = RunLock(tmp_path / "lock")
    program = subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    )
    with program:
        assert program.stdin
        assert program.stdout
        program.stdin.write(b"up\n")
        program.stdin.flush()
        assert program.stdout.readline() == b"up\n"
        lock.close()
        assert holder(tmp_path / "lock") is None


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    """A transaction that cannot be written leaves the journal as it was, and usable."""
    with start_child(FILL, __file__, tmp_path) as child:
        _, errors = child.communicate(timeout=100)
    assert child.returncode == 1
    assert f"{JournalError.__name__}: The journal of the run cannot be written" in errors
    with closing(Journal(Outputs(tmp_path))) as journal:
        assert not journal.plan(FILES).done
