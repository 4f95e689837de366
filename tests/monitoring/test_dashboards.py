from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest

from tests import builders
from tests.monitoring.dashboards import Target, as_sent, chosen, selectors, targets
from tests.monitoring.programs import Prometheus, eventually
from virnucpro_exporter.metrics import MetricsServer
from virnucpro_exporter.metrics.catalog import CATALOG
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot

SHOWN = 3600.0  # seconds
ALERT = """
groups:
  - name: test
    rules:
      - alert: VirnucproTest
        expr: virnucpro_gpu_up == 0
        labels: {severity: critical}
"""


class Going:
    """A run that goes on: everything that can be counted grows with the time."""

    def __init__(self) -> None:
        self._start = time.time()

    def latest(self) -> RunSnapshot:
        now = time.time()
        run = builders.stalled(now=now)
        more = int(10 * (now - self._start))
        workers = tuple(
            replace(
                w,
                files_completed=more,
                sequences_processed=more,
                residues_processed=more,
                steal_attempts=more,
                busy_seconds=float(more),
                durations=builders.durations(*[8.0] * more, now=now),
            )
            for w in run.workers
        )
        return replace(run, workers=workers)


class Measured:
    """GPUs of which one is lost; the other uses energy."""

    def __init__(self) -> None:
        self._start = time.time()

    def latest(self) -> GpuSnapshot:
        now = time.time()
        gpus = builders.gpu_lost(now=now)
        first = gpus.devices[0]
        assert first.sample
        used = replace(first.sample, energy_joules=100 * (now - self._start))
        return replace(gpus, devices=(replace(first, sample=used), *gpus.devices[1:]))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a run in which all goes wrong, and one that has ended."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = folder / "rules.yml"
    rules.write_text(ALERT)
    with (
        MetricsServer(Going(), Measured(), listen=["127.0.0.1:0"]) as going,
        MetricsServer(Latest(builders.finished()), listen=["127.0.0.1:0"]) as ended,
        Prometheus(
            folder, {"virnucpro": [*going.addresses, *ended.addresses]}, rules=[rules]
        ) as started,
    ):
        eventually(lambda: started.query("virnucpro_gpu_up"))
        yield started


def variables(prometheus: Prometheus, *, everything: bool) -> dict[str, str]:
    """What Grafana puts in place of the variables.

    Args:
        prometheus: Where the values come from.
        everything: All is chosen in each; otherwise, all values one by one.
    """
    listed = (("job", "virnucpro_build_info"), ("instance", "up"), ("gpu", "virnucpro_gpu_up"))
    values = {
        name: chosen(sorted({labels[name] for labels, _ in prometheus.query(metric)}))
        for name, metric in listed
    }
    return values | ({"instance": ".*", "gpu": ".*"} if everything else {})


def answered(prometheus: Prometheus, target: Target, expr: str) -> bool:
    """Whether Grafana would get at least one value."""
    if target.instant:
        return bool(prometheus.query(expr))
    end = time.time()
    query = {"query": expr, "start": str(end - 60), "end": str(end), "step": "15"}
    return any(series["values"] for series in prometheus.get("query_range", **query)["result"])


class Asked(NamedTuple):
    """A query, or one selector of it: a part of an `or` can be missing and nobody would see."""

    target: Target
    expr: str


def asked(values: dict[str, str]) -> list[Asked]:
    """Everything that must return data."""
    sent = [(target, as_sent(target, values, SHOWN)) for target in targets()]
    return [
        Asked(target, expr)
        for target, whole in sent
        for expr in (whole, *map("".join, selectors(whole)))
    ]


@pytest.mark.parametrize("everything", [True, False], ids=["all", "chosen"])
def test_every_query_returns_data(prometheus: Prometheus, everything: bool) -> None:
    """With All in every variable, and with values chosen one by one."""
    missing = asked(variables(prometheus, everything=everything))

    def complete() -> bool:
        missing[:] = [one for one in missing if not answered(prometheus, *one)]
        return not missing

    eventually(complete, lambda: "\n".join(f"{target}\n  {expr}" for target, expr in missing))


def test_no_metric_can_go_unseen(prometheus: Prometheus) -> None:
    """Without any one metric of the catalogue, the test above would fail for what shows it."""
    values = variables(prometheus, everything=True)
    for metric in CATALOG:
        gone = re.compile(rf"\b{metric.name}(?:_bucket)?\b")
        shown = [(target, expr) for target, expr in asked(values) if gone.search(expr)]
        empty = [
            target
            for target, expr in shown
            if not answered(prometheus, target, gone.sub("gone", expr))
        ]
        assert {str(target) for target in empty} == {str(target) for target, _ in shown} != set()
