"""Whole runs: the same results however many workers, however often the run was killed."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.dask_runs import WAITING, begun, forget, let_end, whole
from tests.run_program import (
    PROGRAM,
    READS,
    call,
    processes_of,
    results,
    run,
    start,
    told,
    until,
)
from tests.slow_files import slowed

FILES = 30
SHORT = 3000
MANY = 300
KILLS = 3


def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    """One worker and two leave the same bytes, and nothing is left over."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(READS, output=one, workers=1).returncode == 0
    assert run(READS, output=two, workers=2).returncode == 0
    assert len(results(one)) == 3 * len(list(READS.iterdir()))
    assert results(one) == results(two)
    assert not list((two / ".virnucpro" / "attempts").iterdir())


def holds(folder: Path, number: int) -> bool:
    return folder.exists() and len(results(folder)) >= number


def may_hold(inputs: Path, folder: Path, number: int) -> bool:
    """Whether there are so many results, of files that may end; others wait to be let end."""
    let_end(inputs, number)
    return holds(folder, number)


def workers_of(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])  # those that have just ended have none
    lines = ((process, " ".join(process.info["cmdline"] or ())) for process in found)
    return [process for process, line in lines if "boot.py" in line and str(folder) in line]


def test_killed_run_is_resumed_to_the_same_results(tmp_path: Path) -> None:
    """However often the parent is killed, each file ends up whole and done, exactly once."""
    inputs, output = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for i in range(FILES):
        (inputs / f"f{i}.fa").write_text(f">s{i}\n{'ACGT' * i}\n")
    words: list[str | Path] = [inputs, *WAITING]
    moments = random.Random(20)
    seen = 0
    for _ in range(KILLS):
        goal = seen + moments.randrange(1, FILES // KILLS // 2)
        with start(*words, output=output) as process:
            until(partial(may_hold, inputs, output, goal))
            process.send_signal(signal.SIGKILL)
            process.wait()
            until(lambda: not processes_of(output))
        now = results(output)
        assert all(now[name] == (inputs / name.decode()[:-4]).read_bytes()[::-1] for name in now)
        seen = len(now)
        assert seen == goal
        forget(inputs, *(name for name in begun(inputs) if f"{name}.out".encode() not in now))
        status = call([*PROGRAM, "status", output])
        assert status.returncode == 137
        assert "interrupted" in status.stdout
    (inputs / "go").touch()
    last = run(*words, output=output)
    assert last.returncode == 0
    assert results(output) == whole(inputs)
    again = run(*words, output=output)
    assert again.returncode == 0
    assert f"0 files done, 0 failed, {FILES} skipped" in again.stdout


def stop_a_worker_and_kill(words: list[str | Path], output: Path, before: int) -> None:
    """Run, stop a worker after some of the files, and kill the run after more of them.

    A busy machine may see neither before all files are done.
    """
    with start(*words, output=output) as process:

        def have(share: int) -> bool:
            return holds(output, before + SHORT // share) or process.poll() is not None

        until(lambda: workers_of(output) or process.poll() is not None)
        until(lambda: have(20))
        for worker in workers_of(output)[:1]:
            with suppress(psutil.NoSuchProcess):
                worker.suspend()
        until(lambda: have(10))
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not processes_of(output))


@pytest.mark.campaign
def test_very_short_files_that_workers_move_are_done_once(tmp_path: Path) -> None:
    """A worker is stopped, and the run killed, while outputs are moved: no result is replaced."""
    inputs, output = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for i in range(SHORT):
        (inputs / f"f{i}.fa").write_text(">s\nACGT\n")
    words: list[str | Path] = [inputs, "--processor", "tests.run_processors:numbered"]
    before: dict[bytes, bytes] = {}
    for _ in range(KILLS):
        if len(before) > SHORT // 2:  # a busy machine may be late with a kill
            break
        stop_a_worker_and_kill(words, output, len(before))
        now = results(output)
        assert before.items() <= now.items()
        before = now
    assert run(*words, output=output).returncode == 0
    with closing(sqlite3.connect(output / ".virnucpro" / "journal.sqlite")) as journal:
        decided = journal.execute("SELECT outputs, attempt FROM files").fetchall()
    found = {name.decode(): content.decode() for name, content in results(output).items()}
    assert found == {json.loads(names)[0]: str(attempt) for names, attempt in decided}
    assert len(found) == SHORT
    assert before.items() <= results(output).items()


def test_results_of_another_processor_are_not_taken_for_finished(tmp_path: Path) -> None:
    """Other settings are refused in a line; --resume keeps what is there, --fresh does it again."""
    words: list[str | Path] = [READS / "lambda_reads_11.fa"]
    assert run(*words, output=tmp_path).returncode == 0
    other = [*words, "--chunk-size", "300"]
    refused = run(*other, output=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "by translate (chunk_size 500), but this run uses translate (chunk_size 300)" in line
    assert "1 skipped" in run(*other, "--resume", output=tmp_path).stdout
    assert "1 files done" in run(*other, "--fresh", output=tmp_path).stdout
    assert "1 skipped" in run(*other, output=tmp_path).stdout


def test_run_killed_while_it_looks_at_its_files_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work has begun by then, every view knows of all files, and each of them is done once."""
    inputs, output = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for i in range(MANY):
        (inputs / f"f{i}.fa").write_text(f">s{i}\n{'ACGT' * i}\n")
    words: list[str | Path] = [inputs, "--processor", "tests.run_processors:reverse"]
    with monkeypatch.context() as patch:
        for name, value in slowed(tmp_path, inputs, 0.02).items():
            patch.setenv(name, value)
        process = start(*words, output=output)
    with process:
        told(process, "more are being examined")
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not processes_of(output))
    status = call([*PROGRAM, "status", "--json", output])
    assert sum(json.loads(status.stdout)["files"].values()) == MANY
    assert run(*words, output=output).returncode == 0
    status = call([*PROGRAM, "status", "--json", output])
    assert json.loads(status.stdout)["files"] == {"completed": MANY}
    found = results(output)
    assert len(found) == MANY
    assert all(found[n] == (inputs / n.decode()[:-4]).read_bytes()[::-1] for n in found)
