"""Runs on the Dask cluster that a Python program has at hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tests.run_program import READS, results, run
from virnucpro_exporter import run_files
from virnucpro_exporter.errors import UsageError


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
    for wrong, why in ((client, "the Client is closed"), (3, "is wanted, not a int")):
        with pytest.raises(UsageError, match=why):
            run_files([str(READS)], str(tmp_path / "none"), dask=wrong)
