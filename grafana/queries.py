"""Queries, and how the variables of a dashboard get into them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from virnucpro_exporter.metrics.catalog import CATALOG, PROCESS_METRICS, Metric

GPU = "GPU {{gpu}} @ {{instance}}"  # the legend of a series about one GPU
WORKER = f"{GPU} {{{{run}}}}"  # of one about a GPU in a run; `serve` alone has runs with names
INSTANCE = "{{instance}}"
RUN = "{{run}} @ {{instance}}"
BY_RUN = "job, instance, run"
BY_WORKER = f"{BY_RUN}, gpu"
RUNNING = f'on ({BY_RUN}) virnucpro_run_state{{state=~"starting|running|draining"}} == 1'

# So many series at most does a chart by GPU show.
SERIES = 16

# What Prometheus itself adds: about its targets, and about its alerts.
TARGET_METRICS = ("up", "scrape_duration_seconds", "scrape_samples_scraped")
ALERTS = "ALERTS"

_SUFFIXES = ("_bucket", "_count", "_sum")
_KNOWN = (*TARGET_METRICS, ALERTS, *PROCESS_METRICS)
_SELECTOR = re.compile(rf"\b(virnucpro_\w+|{'|'.join(_KNOWN)})\b(?:\{{([^}}]*)\}})?")
_BY_NAME = {metric.name: metric for metric in CATALOG}
_OF_RUNS = {"Run", "Work by GPU", "Workers", "Work stealing"}  # sections of the catalogue
_OF_EXPORTERS = {"virnucpro_build_info"}  # in spite of its section


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, without the matchers of the variables.
        legend: How a series is called.
        interval: At least this long is the time between two points, and so `$__rate_interval`.
        least: Of more series than a chart shows, those with the least values are the ones to see.
        is_many: It gives a series for each machine or run, and so more than a chart shows, as
            those by GPU do.
        rank: By which value those to see are chosen, where not by their own in the time shown:
            that is dear where points are far apart and each takes long to compute.
    """

    expr: str
    legend: str = INSTANCE
    interval: str = ""
    least: bool = False
    is_many: bool = False
    rank: str = ""

    def bounded(self) -> str:
        """The expression; of many series by GPU the most relevant ones of the time shown."""
        if not (self.is_many or self.legend.startswith(GPU)):
            return self.expr
        if self.rank:
            return f"({self.expr}) and on ({BY_WORKER}) topk({SERIES}, {self.rank})"
        choose, over = ("bottomk", "min") if self.least else ("topk", "max")
        extreme = f"{over}_over_time(({self.expr})[$__range:$__interval] @ end())"
        return f"({self.expr}) and {choose}({SERIES}, {extreme})"


def scoped(expr: str, variables: Collection[str]) -> str:
    """The expression, limited to what the variables of its dashboard choose.

    Args:
        expr: PromQL.
        variables: Those that the dashboard has besides `job` and `instance`: `run`, `gpu`.

    Raises:
        KeyError: There is no such metric in the catalogue.
    """

    def limit(found: re.Match[str]) -> str:
        matchers = [found[2]] if found[2] else []
        matchers += ['job=~"$job"', 'instance=~"$instance"']
        if found[1] not in _KNOWN:
            metric = _metric(found[1])
            if "run" in variables and is_of_runs(metric):
                matchers.append('run=~"$run"')
            if "gpu" in variables and "gpu" in metric.labels:
                matchers.append('gpu=~"$gpu"')
        return f"{found[1]}{{{', '.join(matchers)}}}"

    return _SELECTOR.sub(limit, expr)


def is_of_runs(metric: Metric) -> bool:
    """Whether its series have the label `run` where one target shows several."""
    return metric.section in _OF_RUNS and metric.name not in _OF_EXPORTERS


def _metric(name: str) -> Metric:
    """The entry of the catalogue; a histogram is found by the names of its series."""
    for suffix in _SUFFIXES:
        base = _BY_NAME.get(name.removesuffix(suffix))
        if base is not None and base.kind == "histogram":
            return base
    return _BY_NAME[name]
