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

# One process runs them all, so that their programs are started once.
pytestmark = pytest.mark.xdist_group("dashboards")

SHOWN = 3600.0  # seconds
# Batches of some seconds, one after the other: all that can happen happens again and again.
RUNS: list[tuple[str, ...]] = [
    (
        *("--forever", "--gpus=3", "--files=12", "--speed=300", f"--scenario={scenario}"),
        *("--gpu-links", "--gpu-processes"),
    )
    for scenario in ("stall", "lost-gpu")
] + [("--gpus=2", "--files=4", "--speed=1000")]  # one that ends
ALERT = """
groups:
  - name: test
    rules:
      - alert: VirnucproTest
        expr: virnucpro_build_info
        labels: {severity: info}
"""


# As if all GPUs were those of a node of a cluster: `node/index`, and the node where they are told.
NODE = "gpu-07.a"
OF_MANY_MACHINES = [
    {"source_labels": [label], "target_label": label, "regex": "(.+)", "replacement": f"{NODE}/$1"}
    for label in ("gpu", "victim", "thief")
] + [
    {
        "source_labels": ["__name__"],
        "regex": "virnucpro_gpu_info",
        "target_label": "node",
        "replacement": NODE,
    }
]


class Seen(NamedTuple):
    """Two Prometheus that scrape the same runs."""

    as_it_is: Prometheus
    as_of_many_machines: Prometheus


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A run with a GPU that hangs, and one with a GPU that is lost."""
    folder = tmp_path_factory.mktemp("dashboards")
    rules = folder / "rules.yml"
    rules.write_text(ALERT)
    with contextlib.ExitStack() as parts:
        runs = [
            parts.enter_context(Simulated(folder / str(number), *options))
            for number, options in enumerate(RUNS)
        ]
        addresses = [run.wait() for run in runs]

        def seeing(name: str, **more: object) -> Prometheus:
            job = {"job_name": "virnucpro", "static_configs": [{"targets": addresses}], **more}
            started = Prometheus(folder / name, {}, jobs=[job], rules=[rules])
            parts.enter_context(started)
            eventually(lambda: len(started.query("virnucpro_build_info")) == len(runs))
            return started

        yield Seen(seeing("one"), seeing("many", metric_relabel_configs=OF_MANY_MACHINES))


@pytest.fixture
def prometheus(seen: Seen) -> Prometheus:
    """The one that sees them as they are."""
    return seen.as_it_is


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
    return values | {"run": ".*"} | ({"instance": ".*", "gpu": ".*"} if everything else {})


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
    found = {
        (target.instant, expr): Asked(target, expr)
        for target, whole in sent
        for expr in (whole, *map("".join, selectors(whole)))
    }
    return [*found.values()]


@pytest.mark.parametrize("everything", [True, False], ids=["all", "chosen"])
def test_every_query_returns_data(prometheus: Prometheus, everything: bool) -> None:
    """With All in every variable, and with values chosen one by one."""
    all_return_data(prometheus, everything=everything)


@pytest.mark.campaign
def test_every_query_returns_data_of_many_machines(seen: Seen) -> None:
    """With GPUs called `node/index`, chosen one by one; the table of identities has the node."""
    prometheus = seen.as_of_many_machines
    all_return_data(prometheus, everything=False)
    (identity,) = [
        as_sent(target, variables(prometheus, everything=False), SHOWN)
        for target in targets()
        if target.panel == "Identity"
    ]
    found = prometheus.query(identity)
    assert {labels["node"] for labels, _ in found} == {NODE}
    assert all(labels["gpu"].startswith(f"{NODE}/") for labels, _ in found)


def all_return_data(prometheus: Prometheus, *, everything: bool) -> None:
    """Wait until each query has data, with the variables as `variables` fills them."""
    missing = asked(variables(prometheus, everything=everything))

    def complete() -> bool:
        missing[:] = [one for one in missing if not answered(prometheus, *one)]
        return not missing

    eventually(complete, lambda: "\n".join(f"{target}\n  {expr}" for target, expr in missing))


def test_no_metric_can_go_unseen(prometheus: Prometheus) -> None:
    """Each metric of the catalogue is asked for by itself, so that others cannot stand for it."""
    alone = {expr for _, expr in asked(variables(prometheus, everything=True))}
    for metric in CATALOG:
        by_itself = re.compile(rf"{metric.name}(?:_bucket|_sum)?\{{[^{{}}]*\}}")
        assert any(by_itself.fullmatch(expr) for expr in alone), metric.name
