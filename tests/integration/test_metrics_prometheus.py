from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from tests.monitoring.programs import PATIENCE, Prometheus, eventually, program
from virnucpro_exporter.metrics import GpuCollector, RunCollector
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot
from virnucpro_exporter.web import MetricsServer

GOLDEN = Path(__file__).parents[1] / "golden"
Series = dict[tuple[tuple[str, str], ...], float]


def series(prometheus: Prometheus) -> Series:
    """The newest value of every series of ours, the labels of the target aside."""
    return {
        tuple(sorted((k, v) for k, v in labels.items() if k not in ("instance", "job"))): value
        for labels, value in prometheus.query('{__name__=~"virnucpro_.*"}')
    }


def held(run: RunSnapshot, gpus: GpuSnapshot) -> Series:
    """The series that follow from two snapshots."""
    collectors = (RunCollector(Latest(run)), GpuCollector(Latest(gpus)))
    return {
        # To Prometheus a label without a value is no label.
        tuple(
            sorted(
                {"__name__": sample.name, **{k: v for k, v in sample.labels.items() if v}}.items()
            )
        ): sample.value
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
    eventually(
        lambda: of_snapshots(series(prometheus)) == wanted,
        lambda: set(of_snapshots(series(prometheus)).items()) ^ set(wanted.items()),
    )


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
    with (
        MetricsServer(run, gpus, listen=["127.0.0.1:0"]) as server,
        Prometheus(tmp_path, {"virnucpro": server.addresses}, interval="500ms") as started,
    ):
        yield started


def test_prometheus_holds_what_the_snapshots_hold(
    prometheus: Prometheus, run: Latest[RunSnapshot], gpus: Latest[GpuSnapshot]
) -> None:
    """Every value, through a lost GPU whose series vanish, to the end of the run."""
    until_it_holds(prometheus, held(run.latest(), gpus.latest()))
    run.publish(builders.lost_worker(now=time.time()))
    gpus.publish(builders.gpu_lost(now=time.time()))
    until_it_holds(prometheus, held(run.latest(), gpus.latest()))
    run.publish(replace(builders.finished(now=time.time()), run_id='odd "id"\n\\ \udcff'))
    odd = 'virnucpro_run_info{run_id="odd \\"id\\"\\n\\\\ \\\\udcff"}'
    eventually(lambda: prometheus.query(odd), lambda: prometheus.get("targets"))


def test_prometheus_keeps_the_names_of_slow_files(prometheus: Prometheus) -> None:
    """The exemplars of the duration histogram arrive."""
    query = {"query": "virnucpro_file_duration_seconds_bucket", "start": str(builders.NOW)}

    def files() -> set[str]:
        found = prometheus.get("query_exemplars", end=str(time.time() + 60), **query)
        return {e["labels"]["file"] for item in found for e in item["exemplars"]}

    eventually(lambda: files() == {"reads_00.fa", "reads_01.fa"}, files)


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
