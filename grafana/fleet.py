"""Fleet: which of many machines and which run needs a person."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.common import (
    GPUS_ONCE,
    HELD_DOWN,
    LOST,
    LOST_OR_NONE,
    RELATIVE_SPEED,
    SINCE_PROGRESS,
    STARVED,
    UNKNOWN,
    verdict,
)
from grafana.frame import Shelf, assemble
from grafana.limits import limit
from grafana.panels import (
    COUNT,
    RATE,
    Column,
    Label,
    Panel,
    bad_count,
    chart,
    stat,
    table,
    warning_stat,
)
from grafana.queries import BY_RUN, GPU, RUN, RUNNING, WORKER, Query
from grafana.style import (
    BAD,
    CLEAR,
    GOOD,
    MACHINE_STATES,
    NEUTRAL,
    VERDICTS,
    WARNING,
    thresholds,
)

_NO_MACHINE = "no machine seen"
_NO_RUN = "no run seen"
_TO = "?${datasource:queryparam}&${job:queryparam}&var-instance=${__data.fields.Instance}"
_GPU_URL = f"/d/virnucpro-gpu{_TO}&${{__url_time_range}}"
_RUN_URL = f"/d/virnucpro-run{_TO}&var-run=${{__data.fields.Run}}&${{__url_time_range}}"
_ONE_WANTED = thresholds(CLEAR, (1, BAD))


def build() -> Dashboard:
    """The dashboard."""
    return assemble(
        "virnucpro-fleet",
        "VirNucPro / Fleet",
        "Machines and runs that need attention.",
        [_answers(), Shelf(10, [_machines()]), Shelf(9, [_runs()]), _work(), _worst(), _alerts()],
        variables=["run"],
    )


def _answers() -> Shelf:
    none_wanted = thresholds(GOOD, (1, BAD))
    return Shelf(
        4,
        [
            stat(
                "Exporters up",
                "Machines and runs whose latest scrape succeeded.",
                Query("sum(up)"),
                missing=_NO_MACHINE,
            ),
            warning_stat(
                "Exporters down",
                "Machines and runs that Prometheus cannot scrape. Finished runs count until their "
                "target is removed: Firing alerts shows which of them should be up.",
                Query("sum(1 - up)"),
                missing=_NO_MACHINE,
            ),
            stat(
                "Active runs",
                "Runs that have started and not ended.",
                Query('sum(virnucpro_run_state{state=~"starting|running|draining"})'),
                missing=_NO_RUN,
            ),
            stat(
                "Worst run",
                "The worst state of the runs shown.",
                Query(verdict()),
                states=VERDICTS,
                missing=_NO_RUN,
            ),
            stat(
                "GPUs",
                "Known GPUs; a GPU that both a run and `serve` report counts once.",
                Query(GPUS_ONCE),
                missing="no GPU seen",
            ),
            stat(
                "GPUs lost",
                "GPUs that do not answer, each counted once. Should be 0.",
                Query(LOST_OR_NONE),
                colours=none_wanted,
                missing="no GPU is known",
            ),
            stat(
                "Stalled GPUs",
                "Workers that have files and made no progress for too long. Should be 0.",
                Query("sum(virnucpro_worker_stalled)"),
                colours=none_wanted,
                missing=_NO_RUN,
            ),
        ],
        widths=(4, 3, 3, 5, 3, 3, 3),
    )


def _state() -> str:
    """A code for MACHINE_STATES: the worst of what holds."""
    found = (
        "up == 0",
        f"{LOST} + 1",
        f"{UNKNOWN} * 0 + 2",
        '(virnucpro_run_state{state="failed"} == 1) * 3',
        "(virnucpro_worker_stalled == 1) * 4",
        f"(virnucpro_worker_up == 0) + 5 and {RUNNING}",
        "(virnucpro_gpu_row_remap_failed == 1) * 6",
        '(increase(virnucpro_gpu_ecc_errors_total{type="uncorrected"}[$__range]) > 0) * 0 + 6',
        f"({HELD_DOWN} == 1) * 7",
        f"({STARVED} > {limit('LoadImbalance'):g}) * 0 + 8",
        "(virnucpro_worker_inflight_files > 0) * 0 + 9",
        "(up == 1) * 10",
    )
    return f"min by (job, instance) ({' or '.join(found)})"


def _machines() -> Panel:
    by = "by (job, instance)"
    unknown = f"unless on (job, instance) {UNKNOWN}"
    lost = (
        f"count {by} (count by (job, instance, uuid)"
        f" (virnucpro_gpu_info and on (job, instance, gpu) {LOST}))"
        f" or 0 * count {by} (virnucpro_gpu_up {unknown})"
    )
    return table(
        "Machines, worst first",
        "One row per exporter, problems first, with its worst state. Empty cells are unknown; for "
        "XID errors and alerts they mean none. Click an instance for its GPUs.",
        [
            Column("State", _state(), states=MACHINE_STATES, width=130),
            Column("GPUs", f"count {by} (virnucpro_gpu_up)", width=65),
            Column("Lost", lost, colours=_ONE_WANTED, width=60),
            Column(
                "Stalled", f"sum {by} (virnucpro_worker_stalled)", colours=_ONE_WANTED, width=75
            ),
            Column(
                "Active runs",
                f'sum {by} (virnucpro_run_state{{state=~"starting|running|draining"}})',
                width=105,
            ),
            Column(
                "Busy",
                f"avg {by} (rate(virnucpro_worker_busy_seconds_total[$__rate_interval]))",
                "percentunit",
                width=70,
                decimals=0,
            ),
            Column(
                "Utilisation",
                f"avg {by} (virnucpro_gpu_utilization_ratio)",
                "percentunit",
                width=90,
                decimals=0,
            ),
            Column(
                "Min. relative speed",
                f"min {by} ({RELATIVE_SPEED})",
                "percentunit",
                thresholds(WARNING, (limit("GpuStraggler"), CLEAR)),
                width=130,
                decimals=0,
            ),
            Column("Hottest", f"max {by} (virnucpro_gpu_temperature_celsius)", "celsius", width=85),
            bad_count("Throttled", f"sum {by} (max by (job, instance, gpu) ({HELD_DOWN}))", 90),
            Column("Power", f"sum {by} (virnucpro_gpu_power_watts)", "watt", width=85),
            bad_count("XID errors", f"sum {by} (virnucpro_gpu_xid_errors_total)", 90),
            bad_count("Foreign", f"sum {by} (virnucpro_gpu_foreign_processes)", 85),
            Column(
                "GPU data age",
                f"max {by} (time()"
                ' - virnucpro_collector_last_success_timestamp_seconds{collector="gpu"})',
                "s",
                thresholds(CLEAR, (limit("CollectorStale"), WARNING)),
                width=115,
                decimals=0,
            ),
            Column(
                "Alerts",
                f'count {by} (ALERTS{{alertname=~"Virnucpro.+", alertstate="firing"}})',
                colours=thresholds(CLEAR, (1, WARNING)),
                width=65,
            ),
        ],
        {
            "instance": Label("Instance", link=("The GPUs of this machine", _GPU_URL)),
            "job": Label("Job", 140),
        },
        missing=_NO_MACHINE,
        first="State",
    )


def _runs() -> Panel:
    by = f"sum by ({BY_RUN})"
    completion = "virnucpro_run_estimated_completion_timestamp_seconds"
    return table(
        "Runs, worst first",
        "One row per run, problems first. Click a run to open it. Runs that are no longer scraped "
        "are in the run overview.",
        [
            Column("Run health", verdict(BY_RUN), states=VERDICTS, width=130),
            Column(
                "Series",
                f"sum by ({BY_RUN}, processor, run_id) (virnucpro_run_info)",
                hidden=True,
            ),
            Column("Progress", f"{by} (virnucpro_run_progress_ratio)", "percentunit", width=90),
            Column("Time left", f"clamp_min({by} (({completion} - time()) and {RUNNING}), 0)", "s"),
            Column("Ends at", f"{by} ({completion} and {RUNNING}) * 1000", "dateTimeAsLocal"),
            Column("GPUs", f"{by} (virnucpro_worker_up)", width=70),
            Column("Stalled", f"{by} (virnucpro_worker_stalled)", colours=_ONE_WANTED, width=80),
            Column("Files", f"{by} (virnucpro_run_files)", width=80),
            Column(
                "Failed",
                f'{by} (virnucpro_run_files{{state="failed"}})',
                colours=thresholds(CLEAR, (1, WARNING)),
                width=80,
            ),
            Column(
                "Residues/s", f"{by} (virnucpro_throughput_residues_per_second)", RATE, width=100
            ),
        ],
        {
            "run": Label("Run", 130, ("This run", _RUN_URL)),
            "instance": Label("Instance", link=("This run", _RUN_URL)),
            "processor": Label("Processor"),
            "run_id": Label("Run id", 130),
        },
        missing=_NO_RUN,
        first="Run health",
        falling=True,
    )


def _work() -> Shelf:
    residues = "rate(virnucpro_residues_processed_total[$__rate_interval])"
    return Shelf(
        8,
        [
            chart(
                "Residues per second",
                "Per run; at most the sixteen fastest.",
                Query(f"sum by ({BY_RUN}) ({residues})", RUN, is_many=True),
                missing=_NO_RUN,
            ),
            chart(
                "Power",
                "Per machine; at most the sixteen with the highest power.",
                Query("sum by (job, instance) (virnucpro_gpu_power_watts)", is_many=True),
                unit="watt",
                missing="not known",
            ),
            chart(
                "GPUs in use",
                "GPUs with a file in process, and all GPUs of runs. The difference is idle.",
                Query("sum(virnucpro_worker_inflight_files > bool 0)", "processing"),
                Query(f"sum(virnucpro_worker_up and {RUNNING})", "assigned to runs"),
                unit=COUNT,
                missing=_NO_RUN,
            ),
        ],
        title="Work",
    )


def _worst() -> Shelf:
    return Shelf(
        8,
        [
            chart(
                "Longest without progress",
                "Workers with files; at most the sixteen longest without progress.",
                Query(SINCE_PROGRESS, WORKER),
                unit="s",
                missing="no worker has files",
            ),
            chart(
                "Lowest relative speeds",
                "Measured speed relative to the median of the GPUs of the model in the same run; "
                "at most the sixteen slowest.",
                Query(RELATIVE_SPEED, WORKER, least=True),
                unit="percentunit",
                colours=thresholds(WARNING, (limit("GpuStraggler"), NEUTRAL)),
                missing="nothing learned yet",
            ),
            chart(
                "Hottest",
                "Of the GPU dies; at most the sixteen hottest.",
                Query("virnucpro_gpu_temperature_celsius", GPU),
                unit="celsius",
                colours=thresholds(NEUTRAL, (80, WARNING), (90, BAD)),
                missing="not known",
            ),
        ],
        title="Outliers",
    )


def _alerts() -> Shelf:
    alerts = (
        "sum by (job, instance, run, alertname, severity, gpu)"
        ' (ALERTS{alertname=~"Virnucpro.+", alertstate="firing"})'
    )
    return Shelf(
        7,
        [
            table(
                "Firing alerts",
                "Alerts of the rules in prometheus/rules that fire now. An empty table means no "
                "problems only if Prometheus has these rules loaded.",
                [Column("Series", alerts, hidden=True)],
                {
                    "severity": Label("Severity", 100),
                    "alertname": Label("Alert"),
                    "instance": Label("Instance"),
                    "run": Label("Run"),
                    "gpu": Label("GPU", 80),
                },
                missing="none fires, or the rules are not loaded",
            ),
        ],
    )
