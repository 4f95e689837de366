from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from virnucpro_exporter.metrics import GpuCollector, MetricsServer, RunCollector
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot

PATIENCE = 40.0  # seconds until a test gives up
GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = """
scrape_configs:
  - job_name: virnucpro
    scrape_interval: 500ms
    scrape_timeout: 500ms
    static_configs: [{{targets: ["{address}"]}}]
"""
Series = dict[tuple[tuple[str, str], ...], float]


def program(name: str) -> str:
    """The path of a program of Prometheus, which tests cannot do without."""
    found = shutil.which(name)
    assert found, f"{name} is missing: install the package prometheus, or put it on PATH"
    return found


class Prometheus:
    """A Prometheus that scrapes one address twice a second.

    Args:
        folder: For its configuration and its data.
        target: What it scrapes.
    """

    def __init__(self, folder: Path, target: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(address=target))
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self._address}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, **query: str) -> Any:
        """What its API answers; None while it does not."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                return json.load(response)["data"]
        except OSError:
            assert self._process.poll() is None, self._log.seek(0) or self._log.read()
            return None

    def series(self) -> Series:
        """The newest value of every series of ours, the labels of the target aside."""
        data = self.get("query", query='{__name__=~"virnucpro_.*"}') or {"result": []}
        return {
            tuple(
                sorted((k, v) for k, v in item["metric"].items() if k not in ("instance", "job"))
            ): (float(item["value"][1]))
            for item in data["result"]
        }

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._log.close()


def held(run: RunSnapshot, gpus: GpuSnapshot) -> Series:
    """The series that follow from two snapshots."""
    collectors = (RunCollector(Latest(run)), GpuCollector(Latest(gpus)))
    return {
        tuple(sorted({**sample.labels, "__name__": sample.name}.items())): sample.value
        for collector in collectors
        for family in collector.collect()
        for sample in family.samples
    }


def of_snapshots(series: Series) -> Series:
    """Without the series about the exporter itself."""
    own = ("virnucpro_collector_", "virnucpro_build_info")
    return {
        key: value for key, value in series.items() if not dict(key)["__name__"].startswith(own)
    }


def until_it_holds(prometheus: Prometheus, wanted: Series) -> None:
    """Wait until Prometheus holds these series, with these values, and no others."""
    deadline = time.monotonic() + PATIENCE
    while (found := of_snapshots(prometheus.series())) != wanted:
        if time.monotonic() > deadline:
            assert found == wanted
        time.sleep(0.2)


@pytest.fixture
def run() -> Latest[RunSnapshot]:
    """A run that goes on now."""
    return Latest(builders.running(now=time.time()))


@pytest.fixture
def gpus() -> Latest[GpuSnapshot]:
    """GPUs that all answer."""
    return Latest(builders.gpus_up(now=time.time()))


@pytest.fixture
def prometheus(
    tmp_path: Path, run: Latest[RunSnapshot], gpus: Latest[GpuSnapshot]
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a server of the run and the GPUs."""
    with MetricsServer(run, gpus, listen=["127.0.0.1:0"]) as server:
        started = Prometheus(tmp_path, server.addresses[0])
        yield started
        started.stop()


def test_prometheus_holds_what_the_snapshots_hold(
    prometheus: Prometheus, run: Latest[RunSnapshot], gpus: Latest[GpuSnapshot]
) -> None:
    """Every value, through a lost GPU whose series vanish, to the end of the run."""
    until_it_holds(prometheus, held(run.latest(), gpus.latest()))
    run.publish(builders.lost_worker(now=time.time()))
    gpus.publish(builders.gpu_lost(now=time.time()))
    until_it_holds(prometheus, held(run.latest(), gpus.latest()))
    run.publish(replace(builders.finished(now=time.time()), run_id='odd "id"\n\\ \udcff'))
    deadline = time.monotonic() + PATIENCE
    odd = 'virnucpro_run_info{run_id="odd \\"id\\"\\n\\\\ \\\\udcff"}'
    while not (prometheus.get("query", query=odd) or {}).get("result"):
        assert time.monotonic() < deadline, prometheus.get("targets")
        time.sleep(0.2)


def test_prometheus_keeps_the_names_of_slow_files(prometheus: Prometheus) -> None:
    """The exemplars of the duration histogram arrive."""
    deadline = time.monotonic() + PATIENCE
    query = {"query": "virnucpro_file_duration_seconds_bucket", "start": str(builders.NOW)}
    while True:
        series = prometheus.get("query_exemplars", end=str(time.time() + 60), **query) or []
        files = {e["labels"]["file"] for item in series for e in item["exemplars"]}
        if files == {"reads_00.fa", "reads_01.fa"}:
            return
        assert time.monotonic() < deadline, series
        time.sleep(0.2)


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("scrape_*.txt")), ids=lambda path: path.stem)
def test_promtool_finds_nothing(golden: Path) -> None:
    """`promtool check metrics` has no complaint about any scrape."""
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=golden.read_text(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
