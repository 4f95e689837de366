"""Every query of every dashboard, sent to a real Prometheus that scrapes simulated runs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.monitoring.dashboards import Target, as_sent, chosen, selectors, targets
from tests.monitoring.programs import Prometheus, eventually
from tests.monitoring.simulated import Simulated
from virnucpro_exporter.metrics.catalog import CATALOG

SHOWN = 3600.0  # seconds
# Batches of some seconds, one after the other: all that can happen happens again and again.
RUNS = [
    ("--forever", "--gpus=3", "--files=12", "--speed=300", f"--scenario={scenario}")
    for scenario in ("stall", "lost-gpu")
]
ALERT = """
groups:
  - name: test
    rules:
      - alert: VirnucproTest
        expr: virnucpro_build_info
        labels: {severity: info}
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a run with a GPU that hangs, and one with a GPU that is lost."""
    folder = tmp_path_factory.mktemp("dashboards")
    rules = folder / "rules.yml"
    rules.write_text(ALERT)
    with contextlib.ExitStack() as parts:
        runs = [
            parts.enter_context(Simulated(folder / str(number), *options))
            for number, options in enumerate(RUNS)
        ]
        jobs = {"virnucpro": [run.wait() for run in runs]}
        started = parts.enter_context(Prometheus(folder / "prometheus", jobs, rules=[rules]))
        eventually(lambda: len(started.query("virnucpro_build_info")) == len(runs))
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
