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
from tests.nvml_stub.stub import NvmlStub
from tests.run_program import PROGRAM, ROOT, address, ask

# Two nodes on one machine: each has an address of its own, and they have the same port.
HOSTS = {"one": "127.0.0.2", "two": "127.0.0.3"}
# Dask, too, would ask the stand-in for the NVIDIA library, and things that it does not know.
WITHOUT_NVML = {"DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"}
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
    """The exporter of a node."""
    words = ["serve", f"--web-listen-address={host}:{port}"]
    with subprocess.Popen([*PROGRAM, *words], cwd=ROOT, text=True, stderr=subprocess.PIPE) as node:
        try:
            yield node
        finally:
            node.kill()


@contextlib.contextmanager
def running(
    cluster: DaskCluster, port: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run that does not end by itself, and its address."""
    words = ["--web", "--web-listen-address=127.0.0.1:0", f"--dask-exporter-port={port}"]
    inputs = inputs_of(folder, 3)
    with start(cluster, inputs, *WAITING, *words, output=folder / "out") as run:
        try:
            yield run, address(run)
        finally:
            run.kill()


ABOUT_GPUS = {
    ("virnucpro", "one", "one/0"),
    ("virnucpro", "two", "two/0"),
    ("virnucpro-node", "one", "0"),
    ("virnucpro-node", "two", "0"),
}


def told(prometheus: Prometheus) -> set[tuple[str, str, str]]:
    """The job, the node and the id of each GPU that is up."""
    up = "virnucpro_gpu_info and on (job, instance, gpu) virnucpro_gpu_up == 1"
    return {(labels["job"], labels["node"], labels["gpu"]) for labels, _ in prometheus.query(up)}


def test_prometheus_scrapes_the_nodes_of_a_run(
    tmp_path: Path, nvml_stub: NvmlStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that joins late is found, and one that is gone is a target that is down.

    Each has one GPU. The run and its own exporter call the node alike. After the run, Prometheus
    goes on with the last list.
    """
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(nvml_stub.library).parent))
    with (
        serving(HOSTS["one"]) as exporter,
        DaskCluster(**WITHOUT_NVML) as cluster,
    ):
        port = address(exporter).rpartition(":")[2]
        gone = cluster.add_worker("one", host=HOSTS["one"])
        with (
            serving(HOSTS["two"], port),
            running(cluster, port, tmp_path) as (run, where),
            Prometheus(tmp_path / "prometheus", {}, jobs=jobs_of(CONFIGS[-1], where)) as prometheus,
        ):

            def up() -> dict[str, tuple[str, float]]:
                found = prometheus.query('up{job="virnucpro-node"}')
                return {labels["node"]: (labels["instance"], value) for labels, value in found}

            both = {node: (f"{host}:{port}", 1.0) for node, host in HOSTS.items()}
            eventually(lambda: up() == {"one": both["one"]}, up)
            cluster.add_worker("two", host=HOSTS["two"])
            eventually(lambda: up() == both, up)
            eventually(lambda: told(prometheus) == ABOUT_GPUS, lambda: told(prometheus))
            listed = ask(where, "/sd")
            assert [group["labels"]["node"] for group in json.loads(listed[1])] == ["one", "two"]

            gone.kill()
            exporter.kill()
            eventually(lambda: prometheus.query('virnucpro_worker_up{gpu="one/cpu0"} == 0'))
            assert ask(where, "/sd") == listed
            one_down = {**both, "one": (both["one"][0], 0.0)}
            eventually(lambda: up() == one_down, up)

            run.kill()
            failed = rb"\nprometheus_sd_http_failures_total [1-9]"
            eventually(lambda: re.search(failed, prometheus.fetch("/metrics")))
            assert up() == one_down
