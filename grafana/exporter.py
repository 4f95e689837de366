"""Exporter health: whether the numbers of the other dashboards can be trusted."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.frame import Shelf, assemble
from grafana.limits import limit
from grafana.panels import (
    COUNT,
    Column,
    Label,
    chart,
    stat,
    table,
    timeline,
    warning_stat,
)
from grafana.queries import INSTANCE, Query
from grafana.style import BAD, GOOD, NEUTRAL, SUCCEEDS, UP, WARNING, thresholds

_NO_EXPORTER = "no exporter seen"
_COLLECTOR = "{{collector}} @ {{instance}}"


def build() -> Dashboard:
    """The dashboard."""
    return assemble(
        "virnucpro-exporter",
        "VirNucPro / Exporter health",
        "Whether the data of the other dashboards is current and complete.",
        [_answers(), _states(), _collectors(), _scrapes(), _versions()],
    )


def _answers() -> Shelf:
    none_wanted = thresholds(GOOD, (1, BAD))
    return Shelf(
        4,
        [
            stat(
                "Targets up",
                "Exporters whose latest scrape succeeded.",
                Query("sum(up)"),
                missing=_NO_EXPORTER,
            ),
            warning_stat(
                "Targets down",
                "Exporters that Prometheus cannot scrape. The exporter of a run ends with the run.",
                Query("sum(1 - up)"),
                missing=_NO_EXPORTER,
            ),
            stat(
                "Collectors failing",
                "Collectors whose latest pass failed. Should be 0.",
                Query("sum(1 - virnucpro_collector_success)"),
                colours=none_wanted,
                missing=_NO_EXPORTER,
            ),
            stat(
                "Oldest data",
                "Longest time since the last successful pass of a collector.",
                Query("max(time() - virnucpro_collector_last_success_timestamp_seconds)"),
                unit="s",
                colours=thresholds(GOOD, (limit("CollectorStale"), WARNING), (300, BAD)),
                missing="no pass has succeeded",
            ),
            stat(
                "Failed passes",
                "Of all collectors, in the time range.",
                Query("sum(increase(virnucpro_collector_failures_total[$__range]))"),
                colours=thresholds(GOOD, (0.5, WARNING)),
                missing=_NO_EXPORTER,
                decimals=0,
            ),
        ],
        widths=(5, 5, 5, 5, 4),
    )


def _states() -> Shelf:
    return Shelf(
        7,
        [
            timeline(
                "Targets",
                "Whether each exporter could be scraped.",
                Query("up", INSTANCE),
                UP,
                _NO_EXPORTER,
            ),
            timeline(
                "Collectors",
                "Whether the latest pass of each collector succeeded. The exporter's log gives "
                "the reason for a failure.",
                Query("virnucpro_collector_success", _COLLECTOR),
                SUCCEEDS,
                _NO_EXPORTER,
            ),
        ],
    )


def _collectors() -> Shelf:
    return Shelf(
        8,
        [
            chart(
                "Age of the data",
                "Time since the last successful pass. A rising line indicates a collector that "
                "hangs or fails.",
                Query("time() - virnucpro_collector_last_success_timestamp_seconds", _COLLECTOR),
                unit="s",
                colours=thresholds(NEUTRAL, (limit("CollectorStale"), WARNING)),
                missing="no pass has succeeded",
            ),
            chart(
                "Duration of a pass",
                "Duration of the latest pass of each collector. A slow driver is visible here; it "
                "does not delay scrapes.",
                Query("virnucpro_collector_duration_seconds", _COLLECTOR),
                unit="s",
                colours=thresholds(NEUTRAL, (1, WARNING)),
                missing=_NO_EXPORTER,
            ),
            chart(
                "Failed passes per second",
                "Should be 0. The values of a failing collector are absent.",
                Query("rate(virnucpro_collector_failures_total[$__rate_interval])", _COLLECTOR),
                missing=_NO_EXPORTER,
            ),
        ],
    )


def _scrapes() -> Shelf:
    return Shelf(
        8,
        [
            chart(
                "Scrape duration",
                "Measured by Prometheus, network included.",
                Query("scrape_duration_seconds"),
                unit="s",
                colours=thresholds(NEUTRAL, (1, WARNING)),
                missing=_NO_EXPORTER,
            ),
            chart(
                "Time the endpoint stays",
                "Maximum time that the endpoint of a run stays up after the end for a final "
                "scrape. 0: the end may be missed, and no alert fires when the run no longer "
                "answers.",
                Query("virnucpro_endpoint_linger_seconds", INSTANCE),
                unit="s",
                missing="no run with an endpoint of its own",
            ),
            chart(
                "Samples per scrape",
                "Depends on the number of GPUs. A drop means that a GPU or collector is gone.",
                Query("scrape_samples_scraped"),
                unit=COUNT,
                missing=_NO_EXPORTER,
            ),
            chart(
                "CPU",
                "Cores that the exporter's process uses; in a run that is the coordinator, "
                "without the workers.",
                Query("rate(process_cpu_seconds_total[$__rate_interval])"),
                missing=_NO_EXPORTER,
            ),
            chart(
                "Memory",
                "Resident memory of the exporter's process.",
                Query("process_resident_memory_bytes"),
                unit="bytes",
                missing=_NO_EXPORTER,
            ),
        ],
        widths=(5, 5, 5, 5, 4),
        title="The process",
    )


def _versions() -> Shelf:
    build = "job, instance, version, python_version, nvitop_version"
    return Shelf(
        6,
        [
            table(
                "Versions",
                "Version of each exporter, and the source of its GPU values.",
                [
                    Column("Series", f"sum by ({build}) (virnucpro_build_info)", hidden=True),
                    Column(
                        "Monitor",
                        "sum by (job, instance, backend) (virnucpro_gpu_monitor_info)",
                        hidden=True,
                    ),
                    Column(
                        "Started",
                        "sum by (job, instance) (process_start_time_seconds) * 1000",
                        "dateTimeAsLocal",
                    ),
                ],
                {
                    "instance": Label("Instance"),
                    "version": Label("Version"),
                    "python_version": Label("Python"),
                    "nvitop_version": Label("nvitop"),
                    "backend": Label("GPU values from"),
                },
                missing=_NO_EXPORTER,
            ),
        ],
    )
