"""Whole runs on a Dask scheduler and Dask workers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from tests import events as said
from tests.dask_cluster import DaskCluster
from tests.dask_runs import WAITING, begun, command, fault, inputs_of, start
from tests.facts import start as start_attempt
from tests.run_program import DEADLINE, PROGRAM, QUIET, READS, ROOT, call, results, run, until
from virnucpro_exporter.cluster.connect import existing
from virnucpro_exporter.cluster.looks import Look
from virnucpro_exporter.cluster.nodes import NodeGpus
from virnucpro_exporter.errors import ClusterError
from virnucpro_exporter.scheduling.events import (
    Event,
    WorkerJoined,
    WorkerLost,
    WorkerReady,
)
from virnucpro_exporter.scheduling.files import SequenceFile

E = TypeVar("E", WorkerJoined, WorkerLost)


def test_outputs_are_those_of_one_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    """Whoever did the files, wherever: the same bytes."""
    cluster.add_worker("one")
    cluster.add_worker("two")
    done = call(command(cluster, READS, output=tmp_path / "dask"))
    assert done.returncode == 0, done.stderr
    assert run(READS, output=tmp_path / "here").returncode == 0
    assert results(tmp_path / "dask") == results(tmp_path / "here") != {}


def test_the_gpus_of_every_node_are_seen(cluster: DaskCluster, tmp_path: Path) -> None:
    """Each as `node/index`, and down when its node has left."""
    cluster.add_worker("one")
    leaving = cluster.add_worker("two")
    gpus = NodeGpus()
    pool = cluster.pool({}, tmp_path, gpus=gpus)
    try:
        until(
            lambda: [(d.gpu, d.up) for d in gpus.latest().devices] == [("one/0", 1), ("two/0", 1)]
        )
        leaving.kill()
        until(
            lambda: [(d.gpu, d.up) for d in gpus.latest().devices] == [("one/0", 1), ("two/0", 0)]
        )
        assert gpus.latest().health.success
    finally:
        pool.close()


class Asked(NodeGpus):
    """Notes who has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: set[str] = set()

    def take(self, node: str, worker: str, look: Look) -> None:
        self.workers.add(worker)
        super().take(node, worker, look)


@pytest.mark.campaign
def test_a_silent_worker_does_not_hide_the_gpus_of_its_node(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    """Where another one sees them, that one is asked."""
    gpus = Asked()
    stopped = cluster.add_worker("here")
    pool = cluster.pool({}, tmp_path, gpus=gpus)
    try:
        pool.wait_for_workers()
        cluster.add_worker("here")
        until(lambda: any(isinstance(event, WorkerJoined) for event in pool.poll(0.05)))
        until(lambda: gpus.workers == {"here/cpu0"})
        stopped.send_signal(signal.SIGSTOP)
        until(lambda: gpus.workers == {"here/cpu0", "here/cpu1"})
        assert [(d.gpu, d.up) for d in gpus.latest().devices] == [("here/0", True)]
    finally:
        stopped.send_signal(signal.SIGCONT)
        pool.close()


def test_a_worker_that_joins_late_gets_work(cluster: DaskCluster, tmp_path: Path) -> None:
    """It takes files that wait for others."""
    cluster.add_worker("one")
    inputs = inputs_of(tmp_path, 4)
    going = start(cluster, inputs, *WAITING, output=tmp_path / "out")
    until(lambda: len(begun(inputs)) >= 1)
    cluster.add_worker("two")
    until(lambda: len(begun(inputs)) >= 2)
    (inputs / "go").touch()
    out, err = going.communicate(timeout=DEADLINE)
    assert (going.returncode, "4 files done" in out) == (0, True), err
    assert "two/cpu0" in out


@pytest.mark.parametrize(("name", "gpu"), [("compute", ""), ("sleep", "0")])
def test_a_silent_worker_shows_signs_of_life(
    cluster: DaskCluster, tmp_path: Path, name: str, gpu: str
) -> None:
    """What its processes and its GPU do there is known here."""
    cluster.add_worker("one", TEST_GPU=gpu)
    pool = cluster.pool({}, tmp_path)

    def wait(event: Event) -> None:
        until(lambda: event in pool.poll(0.1))

    try:
        (joined,) = pool.wait_for_workers()
        worker = joined.worker_id
        pool.spawn(worker)
        wait(WorkerReady(worker))
        pool.start(worker, [start_attempt(worker, 1, SequenceFile(name))])
        wait(said.alive(worker, 1))
    finally:
        pool.close()


def test_a_node_without_the_output_folder_is_named(cluster: DaskCluster, tmp_path: Path) -> None:
    """One line tells which node does not see the folder."""
    cluster.add_worker("blind")
    (tmp_path / "here").mkdir()
    pool = cluster.pool({}, tmp_path, probe=str(tmp_path / "there" / ".virnucpro" / "probe"))
    try:
        with pytest.raises(ClusterError, match=r"node blind: it has no access to '.*there'"):
            pool.wait_for_workers()
    finally:
        pool.close()


def test_a_scheduler_that_hangs_is_told(cluster: DaskCluster, tmp_path: Path) -> None:
    """It takes the connection and never answers: the run ends, and says so."""
    cluster.scheduler.send_signal(signal.SIGSTOP)
    done = call(command(cluster, READS, "--dask-timeout=1", output=tmp_path / "out"))
    assert done.returncode == 1
    assert fault(done.stderr).endswith("cannot be reached: it does not answer")


def test_nothing_of_a_client_is_under_way_when_it_is_closed(cluster: DaskCluster) -> None:
    """Also where the scheduler closes the connection first; an event loop may end at once."""

    async def connect() -> bool:
        async with existing(None, str(cluster.file)) as client:
            sender = client.scheduler_comm
        return bool(sender.stopped.is_set())

    assert asyncio.run(connect())


def test_a_cluster_of_its_own(tmp_path: Path) -> None:
    """`--dask-local` needs no scheduler, and leaves no process behind."""
    words: list[str | Path] = ["run", *QUIET, "--dask-local=2", "--output", tmp_path / "out"]
    done = call([*PROGRAM, *words, READS])
    assert done.returncode == 0, done.stderr
    assert "12 files done, 0 failed" in done.stdout
    assert os.uname().nodename.partition(".")[0] + "/cpu1" in done.stdout


def test_a_cluster_of_its_own_cannot_be_reached_from_outside(tmp_path: Path) -> None:
    """All sockets listen on loopback, and other users of the machine have no certificate."""
    inputs = inputs_of(tmp_path, 2)
    words: list[str | Path] = ["run", *QUIET, "--dask-local=2", "--output", tmp_path / "out"]
    with subprocess.Popen(
        [*PROGRAM, *words, *WAITING, inputs],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as going:
        until(lambda: len(begun(inputs)) >= 2)
        program = psutil.Process(going.pid)
        processes = [program, *program.children(recursive=True)]
        sockets = [c for p in processes for c in p.net_connections("inet")]
        listening = [c.laddr for c in sockets if c.status == psutil.CONN_LISTEN]
        assert len(listening) >= 7  # a scheduler, two nannies and two workers, most with a page
        assert {place.ip for place in listening} == {"127.0.0.1"}
        assert not any(speaks_dask(place.port) for place in listening)
        (inputs / "go").touch()


def speaks_dask(port: int) -> bool:
    """Whether a stranger's connection is greeted with more than an error, as Dask does over TCP."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as stranger:
        stranger.sendall(b"not TLS\r\n\r\n")
        try:
            return b"compression" in stranger.recv(4096)
        except ConnectionResetError:
            return False


def test_ctrl_c_ends_a_cluster_of_its_own_after_the_files_in_process(tmp_path: Path) -> None:
    """All processes of the terminal are sent it; the files in process end well all the same."""
    inputs = inputs_of(tmp_path, 6)
    words: list[str | Path] = ["run", *QUIET, "--dask-local=2", "--output", tmp_path / "out"]
    going = subprocess.Popen(
        [*PROGRAM, *words, *WAITING, inputs],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: len(begun(inputs)) >= 2)
    os.killpg(going.pid, signal.SIGINT)
    time.sleep(1)  # whoever dies of it is then dead, and the test can fail
    (inputs / "go").touch()
    out, err = going.communicate(timeout=DEADLINE)
    assert going.returncode == 130, err
    assert "2 files done, 0 failed, 0 skipped, 4 left; 0 retries" in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--dask=tcp://127.0.0.1:1", "--dask-timeout=1"], "tcp://127.0.0.1:1 cannot be reached"),
        (["--dask=nowhere"], "missing port number"),
        (["--dask-scheduler-file=/nowhere.json"], "/nowhere.json"),
        (["--dask-local=2", "--dask=x"], "use one of them"),
        (["--dask=tcp://127.0.0.1:1", "--gpus=0"], "--gpus is for this machine"),
        (["--dask-exporter-port=9878"], "--dask-exporter-port needs a Dask cluster"),
        (["--dask-timeout=5"], "--dask-timeout needs a Dask cluster"),
    ],
)
def test_what_cannot_be_a_cluster(options: list[str | Path], fault: str, tmp_path: Path) -> None:
    """One line says what is wrong."""
    done = call([*PROGRAM, "run", *QUIET, *options, "--output", tmp_path / "out", READS])
    lines = [line for line in done.stderr.splitlines() if line.startswith("virnucpro-exporter: ")]
    assert done.returncode in (1, 2)
    assert len(lines) == 1, done.stderr
    assert fault in lines[0]
