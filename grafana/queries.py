"""Queries, and how the variables of a dashboard get into them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from virnucpro_exporter.metrics.catalog import CATALOG, PROCESS_METRICS, Metric

GPU = "GPU {{gpu}} @ {{instance}}"  # the legend of a series about one GPU
INSTANCE = "{{instance}}"
RUNNING = 'on (job, instance) virnucpro_run_state{state=~"starting|running|draining"} == 1'

# What Prometheus itself adds: about its targets, and about its alerts.
TARGET_METRICS = ("up", "scrape_duration_seconds", "scrape_samples_scraped")
ALERTS = "ALERTS"

_SUFFIXES = ("_bucket", "_count", "_sum")
_KNOWN = (*TARGET_METRICS, ALERTS, *PROCESS_METRICS)
_SELECTOR = re.compile(rf"\b(virnucpro_\w+|{'|'.join(_KNOWN)})\b(?:\{{([^}}]*)\}})?")
_BY_NAME = {metric.name: metric for metric in CATALOG}


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, without the matchers of the variables.
        legend: How a series is called.
        interval: At least this long is the time between two points, and so `$__rate_interval`.
    """

    expr: str
    legend: str = INSTANCE
    interval: str = ""


def scoped(expr: str, *, per_gpu: bool) -> str:
    """The expression, limited to what the variables of its dashboard choose.

    Args:
        expr: PromQL.
        per_gpu: Whether the dashboard has the variable `gpu`, too.

    Raises:
        KeyError: There is no such metric in the catalogue.
    """

    def limit(found: re.Match[str]) -> str:
        matchers = [found[2]] if found[2] else []
        matchers += ['job=~"$job"', 'instance=~"$instance"']
        if per_gpu and found[1] not in _KNOWN and "gpu" in _metric(found[1]).labels:
            matchers.append('gpu=~"$gpu"')
        return f"{found[1]}{{{', '.join(matchers)}}}"

    return _SELECTOR.sub(limit, expr)


def _metric(name: str) -> Metric:
    """The entry of the catalogue; a histogram is found by the names of its series."""
    for suffix in _SUFFIXES:
        base = _BY_NAME.get(name.removesuffix(suffix))
        if base is not None and base.kind == "histogram":
            return base
    return _BY_NAME[name]
