"""The exporters of the nodes of a run on Dask, as a real Prometheus finds them."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dask_cluster import DaskCluster
from tests.dask_runs import WAITING, inputs_of, start
from tests.monitoring.programs import Prometheus, eventually, tool
from tests.run_program import PROGRAM, ROOT, address, ask

# Two nodes on one machine: each has an address of its own, and they have the same port.
HOSTS = {"one": "127.0.0.2", "two": "127.0.0.3"}
PAGE = (ROOT / "docs" / "endpoint.md").read_text()
CONFIGS = re.findall(r"```yaml\n(scrape_configs:.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("config", CONFIGS)
def test_prometheus_accepts_what_the_page_shows(config: str, tmp_path: Path) -> None:
    """A configuration can be copied from docs/endpoint.md."""
    (tmp_path / "prometheus.yml").write_text(config)
    checked = tool("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout


def jobs_of(config: str, run: str) -> list[dict[str, Any]]:
    """The jobs of a configuration of the page, for a run at this address and impatient people."""
    here = config.replace("node1:9878", run).replace("15s", "1s")
    assert here.count(run) == 2
    jobs: list[dict[str, Any]] = yaml.safe_load(here)["scrape_configs"]
    return jobs


@contextlib.contextmanager
def serving(host: str, port: str = "0") -> Iterator[subprocess.Popen[str]]:
    """The exporter of a node with one GPU."""
    words = ["serve", "--simulate-gpus=1", f"--web-listen-address={host}:{port}"]
    with subprocess.Popen([*PROGRAM, *words], cwd=ROOT, text=True, stderr=subprocess.PIPE) as node:
        try:
            yield node
        finally:
            node.kill()


@contextlib.contextmanager
def running(cluster: DaskCluster, port: str, folder: Path) -> Iterator[str]:
    """The address of a run that does not end by itself."""
    words = ["--web", "--web-listen-address=127.0.0.1:0", f"--dask-exporter-port={port}"]
    inputs = inputs_of(folder, 3)
    with start(cluster, inputs, *WAITING, *words, output=folder / "out") as run:
        try:
            yield address(run)
        finally:
            run.kill()


def test_prometheus_scrapes_the_nodes_of_a_run(tmp_path: Path) -> None:
    """A node that joins late is found, and one that is gone is a target that is down."""
    with (
        serving(HOSTS["one"]) as exporter,
        DaskCluster() as cluster,
    ):
        port = address(exporter).rpartition(":")[2]
        gone = cluster.add_worker("one", host=HOSTS["one"])
        with (
            serving(HOSTS["two"], port),
            running(cluster, port, tmp_path) as run,
            Prometheus(tmp_path / "prometheus", {}, jobs=jobs_of(CONFIGS[-1], run)) as prometheus,
        ):

            def up() -> dict[str, tuple[str, float]]:
                found = prometheus.query('up{job="virnucpro-node"}')
                return {labels["node"]: (labels["instance"], value) for labels, value in found}

            both = {node: (f"{host}:{port}", 1.0) for node, host in HOSTS.items()}
            eventually(lambda: up() == {"one": both["one"]}, up)
            cluster.add_worker("two", host=HOSTS["two"])
            eventually(lambda: up() == both, up)
            gpus = 'count by (node) (virnucpro_gpu_up{job="virnucpro-node"} == 1)'
            eventually(lambda: len(prometheus.query(gpus)) == 2)
            listed = ask(run, "/sd")
            assert [group["labels"]["node"] for group in json.loads(listed[1])] == ["one", "two"]

            gone.kill()
            exporter.kill()
            eventually(lambda: prometheus.query('virnucpro_worker_up{gpu="one/cpu0"} == 0'))
            assert ask(run, "/sd") == listed
            eventually(lambda: up() == {**both, "one": (both["one"][0], 0.0)}, up)
