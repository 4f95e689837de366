"""Nodes on two hosts, and a cable between them that is pulled out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dask_cluster import DaskCluster
from tests.dask_runs import WAITING, begun, inputs_of, start, whole
from tests.run_program import DEADLINE, results, until
from tests.two_hosts import TwoHosts


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    try:
        with TwoHosts() as hosts:
            yield hosts
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")


def test_a_node_that_is_cut_off_loses_its_file_and_may_return(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    """The others go on without it; when the cable is in again, it gets work again."""
    inputs, output, log = inputs_of(tmp_path, 6), tmp_path / "out", tmp_path / "log"
    words = [*WAITING, "--dask-timeout=4", "--max-attempts=1"]
    with DaskCluster(hosts.near.address, hosts.near.enter) as cluster, log.open("w") as errors:
        cluster.add_worker("near", host=hosts.near.address, enter=hosts.near.enter)
        cluster.add_worker("far", host=hosts.far.address, enter=hosts.far.enter)
        going = start(cluster, inputs, *words, output=output, errors=errors, enter=hosts.near.enter)
        until(lambda: len(begun(inputs)) >= 2)
        hosts.cut()
        until(lambda: "far/cpu0 is given up: its node has not answered" in log.read_text())
        for name in begun(inputs):
            (inputs / f"{name}.go").touch()
        until(lambda: len(begun(inputs)) >= 3)
        hosts.mend()
        until(lambda: len(begun(inputs)) >= 4)
        (inputs / "go").touch()
        out, _ = going.communicate(timeout=DEADLINE)
    assert (going.returncode, "6 files done, 0 failed" in out) == (0, True), log.read_text()
    assert "Traceback" not in log.read_text()
    assert results(output) == whole(inputs)
