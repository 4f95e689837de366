"""Nodes that are not as they should be: each is told in one line, and the others do the work."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.dask_cluster import DaskCluster, family
from tests.dask_runs import WAITING, Word, begun, command, fault, inputs_of, start, whole
from tests.run_program import DEADLINE, READS, call, results, until
from virnucpro_exporter.scheduling.events import LossCause, WorkerLost

# Dask runs such a text when a worker starts.
OTHER_VERSION = "import virnucpro_exporter as program; program.__version__ = '0.0.1'"
NOT_INSTALLED = "import sys; sys.modules['virnucpro_exporter'] = None"
# Breaks the first connection after a run has come, as one that takes too long breaks.
REFUSING = """
from distributed.comm.core import Listener
from virnucpro_exporter.cluster.post import Leaving

def refuse_once(setup, on_connection):
    due = []
    def setup_first(*arguments, **named):
        due.append(True)
        setup(*arguments, **named)
    async def refuse(listener, comm, *arguments):
        if due:
            due.clear()
            comm.abort()
        else:
            await on_connection(listener, comm, *arguments)
    Leaving.setup, Listener.on_connection = setup_first, refuse

def dask_setup(_):
    refuse_once(Leaving.setup, Listener.on_connection)
"""
# A scheduler that tells of no worker.
SILENT = "from distributed.broker import Broker; Broker.subscribe = lambda *_: None"
IMPATIENT = "from virnucpro_exporter.workers import starts; starts._SYSTEM_PATIENCE = 1.0"


def test_a_node_that_cannot_set_the_processor_up_is_left_out(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """Its reason is told at once and at the end, and the files are done by the others."""
    cluster.add_worker("good")
    words: list[Word] = [inputs, "--processor=tests.run_processors:Picky", "--log-level=info"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        going = start(cluster, *words, output=tmp_path / "out", errors=errors)
    until(lambda: len(begun(inputs)) >= 1)  # alone, the bad one would end the run
    cluster.add_worker("bad")
    why = "bad/cpu0 is given up: processor setup failed: ValueError: no model here"
    until(lambda: why in log.read_text())
    (inputs / "go").touch()
    out, _ = going.communicate(timeout=DEADLINE)
    assert "4 files done, 0 failed, 0 skipped, 0 left; 0 retries" in out
    assert log.read_text().splitlines()[-1].startswith("virnucpro-exporter: given up: bad/cpu0 (")
    assert log.read_text().count(why) == 1


@pytest.mark.parametrize(
    ("preload", "why"),
    [(OTHER_VERSION, "has version 0.0.1 of this program, not "), (NOT_INSTALLED, "cannot be used")],
)
def test_a_node_without_this_version_is_told_and_left_out(
    cluster: DaskCluster, tmp_path: Path, preload: str, why: str
) -> None:
    """Beside others it is logged once; alone it is the reason why the run cannot start."""
    cluster.add_worker("old", DASK_DISTRIBUTED__WORKER__PRELOAD=preload)
    cluster.wait(1)
    alone = call(command(cluster, READS, output=tmp_path / "out"))
    assert alone.returncode == 1
    assert why in fault(alone.stderr)
    cluster.add_worker("new")
    cluster.wait(2)
    done = call(command(cluster, READS, output=tmp_path / "out"))
    assert "12 files done, 0 failed" in done.stdout, done.stderr
    assert len([line for line in done.stderr.splitlines() if why in line]) == 1


def test_a_dask_worker_that_cannot_be_reached_once_joins_all_the_same(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """A connection to a busy node may take too long: it is tried again."""
    cluster.add_worker("one")
    cluster.add_worker("busy", DASK_DISTRIBUTED__WORKER__PRELOAD=REFUSING)
    going = start(cluster, inputs, *WAITING, output=tmp_path / "out")
    until(lambda: len(begun(inputs)) >= 2)
    (inputs / "go").touch()
    out, errors = going.communicate(timeout=DEADLINE)
    assert "4 files done, 0 failed, 0 skipped, 0 left; 0 retries" in out, errors
    assert "cannot be" not in errors


def test_a_dask_worker_joins_that_no_event_has_told_of(inputs: Path, tmp_path: Path) -> None:
    """An event is lost while a client subscribes, or is connected anew: the list has them all."""
    with DaskCluster(DASK_DISTRIBUTED__SCHEDULER__PRELOAD=SILENT) as cluster:
        cluster.add_worker("one")
        going = start(cluster, inputs, *WAITING, output=tmp_path / "out")
        until(lambda: begun(inputs))
        cluster.add_worker("two")
        until(lambda: len(begun(inputs)) >= 2)
        (inputs / "go").touch()
        out, errors = going.communicate(timeout=DEADLINE)
        assert "4 files done, 0 failed, 0 skipped, 0 left; 0 retries" in out, errors


def test_a_dask_worker_with_several_threads_is_told(cluster: DaskCluster, tmp_path: Path) -> None:
    """It does one file at a time; its user may have thought otherwise."""
    cluster.add_worker("one", threads=4)
    done = call(command(cluster, READS, output=tmp_path / "out"))
    assert "12 files done, 0 failed" in done.stdout, done.stderr
    assert (
        "the Dask worker of one/cpu0 has 4 threads but processes one file at a time" in done.stderr
    )


def test_of_two_dask_workers_with_one_gpu_one_is_used(
    cluster: DaskCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other is told, and takes its place when it leaves."""
    first = cluster.add_worker("one", TEST_GPU="3")
    cluster.wait(1)
    pool = cluster.pool({}, tmp_path)

    try:
        pool.wait_for_workers()
        cluster.add_worker("one", TEST_GPU="3")
        told = "several Dask workers use GPU one/3; start one"
        until(lambda: (pool.poll(0.05), told in caplog.text)[1])
        first.kill()
        # The lone worker's place was taken: that its process is another is all there is to tell.
        until(
            lambda: any(
                isinstance(event, WorkerLost) and event.cause.is_worth_a_restart
                for event in pool.poll(1)
            )
        )
    finally:
        pool.close()


def test_a_node_that_can_start_no_process_is_told(cluster: DaskCluster, tmp_path: Path) -> None:
    """Its worker is lost with the reason, for good, after it has been tried for a while."""
    cluster.add_worker("one", DASK_DISTRIBUTED__WORKER__PRELOAD=IMPATIENT)
    here = tmp_path / "here"
    here.mkdir()
    pool = cluster.pool({}, tmp_path, cwd=str(here))
    try:
        (joined,) = pool.wait_for_workers()
        here.rmdir()
        pool.spawn(joined.worker_id)
        (lost,) = pool.poll(DEADLINE)
        assert isinstance(lost, WorkerLost)
        assert lost.cause is LossCause.CANNOT_START
        assert str(here) in lost.reason
    finally:
        pool.close()


def test_two_runs_share_a_cluster(cluster: DaskCluster, inputs: Path, tmp_path: Path) -> None:
    """A second run gets half of the Dask workers, one by one, and the rest when the first is over.

    The first one ends what the worker has in process, and no file of either is done twice.
    """
    others = tmp_path / "others"
    others.mkdir()
    second_inputs = inputs_of(others, 6)
    cluster.add_worker("one")
    cluster.add_worker("two")
    log = tmp_path / "log"
    words = [*WAITING, "--dask-timeout=20"]
    with log.open("w") as file:
        going = start(cluster, inputs, *words, output=tmp_path / "out", errors=file)
    until(lambda: len(begun(inputs)) >= 2)
    second = start(cluster, second_inputs, *WAITING, output=tmp_path / "other")
    until(lambda: "leaves: another run gets its Dask worker" in log.read_text())
    for name in begun(inputs):
        (inputs / f"{name}.go").touch()
    until(lambda: len(begun(second_inputs)) >= 1)
    (inputs / "go").touch()
    out, _ = going.communicate(timeout=DEADLINE)
    assert "4 files done, 0 failed, 0 skipped, 0 left; 0 retries" in out, log.read_text()
    until(lambda: len(begun(second_inputs)) >= 2)
    (second_inputs / "go").touch()
    out, errors = second.communicate(timeout=DEADLINE)
    assert "6 files done, 0 failed, 0 skipped, 0 left; 0 retries" in out, errors
    assert "another run uses Dask workers of node" in errors
    assert set(begun(inputs).values()) == set(begun(second_inputs).values()) == {1}


def test_a_run_that_was_stopped_for_long_goes_on(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """Its processes have ended meanwhile; it takes its Dask workers anew, and blames no file."""
    worker = cluster.add_worker("one")
    words = [*WAITING, "--dask-timeout=2", "--max-attempts=1"]
    going = start(cluster, inputs, *words, output=tmp_path / "out")
    until(lambda: begun(inputs))
    going.send_signal(signal.SIGSTOP)
    until(lambda: len(family(worker.pid)) == 1)
    going.send_signal(signal.SIGCONT)
    until(lambda: begun(inputs)["0.fa"] >= 2)
    (inputs / "go").touch()
    out, errors = going.communicate(timeout=DEADLINE)
    assert "4 files done, 0 failed" in out, errors
    assert results(tmp_path / "out") == whole(inputs)
