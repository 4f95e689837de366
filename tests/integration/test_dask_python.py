"""Runs on the Dask cluster that a Python program has at hand."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tests.dask_runs import WAITING, begun, whole
from tests.run_program import DEADLINE, PROGRAM, QUIET, READS, ROOT, TELLING, results, run, until
from virnucpro_exporter import run_files
from virnucpro_exporter.errors import UsageError

# The first question of a run makes a Dask worker load the program, as slowly as over a network.
LOADING_SLOWLY = """
import pkgutil, time

def resolve_slowly(name, resolve_name=pkgutil.resolve_name):
    time.sleep(2)
    return resolve_name(name)

pkgutil.resolve_name = resolve_slowly
"""


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    """A cluster that speaks TLS with certificates that only it has."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="tls://127.0.0.1",
        security=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    ) as cluster:
        yield cluster


def test_a_client_or_a_cluster_is_all_that_a_run_needs(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is spoken to as its owner does, and afterwards is as it was."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    level = logging.getLogger("distributed.core").level
    with Client(local) as client:
        by_client = run_files([str(READS)], str(tmp_path / "client"), dask=client)
        by_cluster = run_files([str(READS)], str(tmp_path / "cluster"), dask=local)
        assert client.submit(sum, [1, 2]).result() == 3
        assert client.status == "running"
    assert {len(run.workers) for run in (by_client, by_cluster)} <= {1, 2}
    assert run(READS, output=tmp_path / "here").returncode == 0
    here = results(tmp_path / "here")
    assert results(tmp_path / "client") == results(tmp_path / "cluster") == here != {}
    assert logging.getLogger("distributed.core").level == level
    for wrong, why in ((client, "the Client is closed"), (3, "a cluster, not a int")):
        with pytest.raises(UsageError, match=why):
            run_files([str(READS)], str(tmp_path / "none"), dask=wrong)


@pytest.mark.campaign
def test_a_cluster_that_adapts_grows_for_files_that_wait(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From no worker to its maximum, and back when the run is over.

    What a worker has to load before it does anything takes longer than Dask keeps one idle.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        preload=[LOADING_SLOWLY],
    ) as cluster:
        cluster.adapt(minimum=0, maximum=3, interval="100ms", target_duration="500ms")
        address = [f"--dask={cluster.scheduler_address}", f"--dask-timeout={DEADLINE}"]
        going = subprocess.Popen(  # it ends with the cluster
            [*PROGRAM, "run", *QUIET, *WAITING, *address, "--output", tmp_path / "out", inputs],
            cwd=ROOT,
            env={**os.environ, **TELLING},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        until(lambda: len(begun(inputs)) >= 3)
        assert set(begun(inputs).values()) == {1}
        (inputs / "go").touch()
        out, errors = going.communicate(timeout=DEADLINE)
        assert (going.returncode, "4 files done, 0 failed" in out) == (0, True), (out, errors)
        assert results(tmp_path / "out") == whole(inputs)
        scheduler = cluster.scheduler
        until(lambda: not (scheduler.tasks or scheduler.workers))
