"""Runs on Dask that were cut off: the same command goes on, on whatever there is."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import run_program
from tests.dask_cluster import DaskCluster, family
from tests.dask_runs import WAITING, begun, command, fault, start, whole
from tests.run_program import DEADLINE, call, processes_of, results, until

pytestmark = pytest.mark.campaign  # whole clusters, one after the other


@pytest.fixture(autouse=True)
def one(cluster: DaskCluster) -> None:
    """All of them begin with one worker."""
    cluster.add_worker("one")


def finish(inputs: Path, output: Path, number: int) -> None:
    """Let a file end, and wait until the next one is in process."""
    (inputs / f"{number}.fa.go").touch()
    until(lambda: f"{number + 1}.fa" in begun(inputs) and len(results(output)) == number + 1)


def cut_off(cluster: DaskCluster, inputs: Path, output: Path) -> str:
    """Start a run, kill its scheduler after the first file, and return what it told."""
    going = start(cluster, inputs, *WAITING, output=output)
    finish(inputs, output, 0)
    cluster.scheduler.kill()
    _, errors = going.communicate(timeout=DEADLINE)
    assert going.returncode == 1, errors
    return fault(errors)


def go_on(inputs: Path, output: Path) -> str:
    """Let the same command do all that is left, on another cluster; return its summary."""
    (inputs / "go").touch()
    with DaskCluster() as another:
        another.add_worker("one")
        done = call(command(another, inputs, *WAITING, output=output))
    assert results(output) == whole(inputs), done.stderr
    return done.stdout


def test_another_cluster_goes_on_where_a_scheduler_was_killed(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """The run ends with one line; what was done stays, and the rest is done on the next cluster."""
    output = tmp_path / "out"
    told = cut_off(cluster, inputs, output)
    assert "is gone; the same command resumes the run" in told
    assert "3 files done, 0 failed, 1 skipped, 0 left" in go_on(inputs, output)
    assert begun(inputs) == {"0.fa": 1, "1.fa": 2, "2.fa": 1, "3.fa": 1}


def test_a_run_moves_from_dask_to_one_machine_and_back(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """Each goes on where the other was cut off, and each file is done once."""
    output = tmp_path / "out"
    cut_off(cluster, inputs, output)
    with run_program.start(inputs, *WAITING, output=output, workers=1) as here:
        finish(inputs, output, 1)
        here.kill()
        here.communicate(timeout=DEADLINE)
    until(lambda: not processes_of(output))
    assert "2 files done, 0 failed, 2 skipped, 0 left" in go_on(inputs, output)


def test_the_processes_of_a_killed_run_end_by_themselves(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """The Dask worker is free again when it has heard nothing for the time that was set."""
    output = tmp_path / "out"
    going = start(cluster, inputs, *WAITING, "--dask-timeout=2", output=output)
    until(lambda: len(begun(inputs)) >= 1)
    worker = cluster.workers[0].pid
    assert len(family(worker)) > 1
    going.kill()
    going.communicate(timeout=DEADLINE)
    until(lambda: len(family(worker)) == 1)
    (inputs / "go").touch()
    done = call(command(cluster, inputs, *WAITING, output=output))
    assert "4 files done, 0 failed" in done.stdout, done.stderr
    assert results(output) == whole(inputs)


def test_the_next_run_takes_the_dask_workers_of_a_killed_one(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """It waits for nothing: the processes of the killed run are killed, and their files done."""
    output = tmp_path / "out"
    going = start(cluster, inputs, *WAITING, "--dask-timeout=3600", output=output)
    finish(inputs, output, 0)
    _, *before = family(cluster.workers[0].pid)
    going.send_signal(signal.SIGKILL)
    going.communicate(timeout=DEADLINE)
    assert before
    assert all(process.is_running() for process in before)
    (inputs / "go").touch()
    done = call(command(cluster, inputs, *WAITING, output=output))
    assert "3 files done, 0 failed, 1 skipped" in done.stdout, done.stderr
    assert not any(process.is_running() for process in before)
    assert results(output) == whole(inputs)
