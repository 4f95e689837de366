"""Run overview: does it go well, when does it end, which GPU is the problem, and which file."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.common import (
    LOST_OR_NONE,
    OF_SILENCE_ALLOWED,
    RELATIVE_SPEED,
    RUN_STATE,
    SINCE_PROGRESS,
    STARVED,
    WORKER_STATE,
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
    dashed,
    named,
    share,
    stacked,
    stat,
    table,
    warning_stat,
)
from grafana.queries import BY_RUN, BY_WORKER, RUNNING, WORKER, Query
from grafana.style import (
    BAD,
    CLEAR,
    GOOD,
    NEUTRAL,
    RUN_STATES,
    VERDICTS,
    WARNING,
    WORKER_STATES,
    thresholds,
)

_NO_RUN = "no run seen"
_NONE_WANTED = thresholds(GOOD, (1, BAD))
_GPU_URL = (
    "/d/virnucpro-gpu?${datasource:queryparam}&${job:queryparam}"
    "&var-instance=${__data.fields.Instance}&var-gpu=${__data.fields.GPU}&${__url_time_range}"
)
_RUN_URL = (
    "/d/virnucpro-run?${datasource:queryparam}&${job:queryparam}"
    "&var-instance=${__data.fields.Instance}&var-run=${__data.fields.Run}&${__url_time_range}"
)
# What was known of runs that can no longer be seen is looked for at these steps, in seconds. An end
# is seen from one scrape to the next at least, and those are so far apart in our configuration.
_STEP = 15
_REMEMBERED = "24h"


def build() -> Dashboard:
    """The dashboard."""
    return assemble(
        "virnucpro-run",
        "VirNucPro / Run overview",
        "Does the run go well, when does it end, which GPU is the problem, and which file.",
        [
            _answers(),
            _problems(),
            _alerts(),
            _progress(),
            _shares(),
            _efficiency(),
            _work(),
        ],
        variables=["run"],
    )


def _answers() -> Shelf:
    ends = f"max(virnucpro_run_estimated_completion_timestamp_seconds and {RUNNING})"
    return Shelf(
        4,
        [
            stat(
                "Run health",
                "The worst state of the chosen runs: a failed run, a full disk, a lost, stalled "
                "or starved GPU, or failed files. The tables below show where.",
                Query(verdict()),
                states=VERDICTS,
                missing=_NO_RUN,
            ),
            stat(
                "Progress",
                "Completed share of the work, weighted by expected processing time; with several "
                "runs, the mean of the active ones.",
                Query(
                    f"avg(virnucpro_run_progress_ratio and {RUNNING})"
                    " or avg(virnucpro_run_progress_ratio)"
                ),
                unit="percentunit",
                missing=_NO_RUN,
                decimals=1,
            ),
            stat(
                "Time left",
                "Expected time to the end; with several runs, the longest. Known after the first "
                "progress; grows when a GPU stalls.",
                Query(f"clamp_min({ends} - time(), 0)"),
                unit="s",
                missing="not known",
            ),
            stat(
                "Ends at",
                "Estimated end of the run; with several runs, of the last one.",
                Query(f"{ends} * 1000"),
                unit="dateTimeAsLocalNoDateIfToday",
                missing="not known",
            ),
            stat(
                "Stalled GPUs",
                "Workers that have files and have made no progress for longer than their run "
                "allows. Workers of lost GPUs are not counted. Should be 0.",
                Query(
                    "sum(virnucpro_worker_stalled"
                    " unless on (job, instance, gpu) virnucpro_gpu_up == 0)"
                ),
                colours=_NONE_WANTED,
                missing=_NO_RUN,
            ),
            stat(
                "GPUs lost",
                "GPUs that do not answer, each counted once. Should be 0. Check nvidia-smi and "
                "the kernel log of the machine.",
                Query(LOST_OR_NONE),
                colours=_NONE_WANTED,
                missing="no GPU is known",
            ),
            warning_stat(
                "Failed files",
                "Files given up after all attempts. The run lists them with their errors at its "
                "end, `virnucpro-exporter status` at any time.",
                Query('sum(virnucpro_run_files{state="failed"})'),
                missing=_NO_RUN,
            ),
        ],
        widths=(5, 3, 3, 4, 3, 3, 3),
    )


def _problems() -> Shelf:
    by = f"sum by ({BY_WORKER})"
    # Counters outlive their run where `serve` shows how it ended.
    there = f"and on ({BY_WORKER}) virnucpro_worker_up"
    info = "virnucpro_gpu_info"
    columns = [
        Column("State", WORKER_STATE, states=WORKER_STATES, width=110),
        Column(
            "Model",
            f"sum by ({BY_WORKER}, name) ({by} (virnucpro_worker_up)"
            f" * on (job, instance, gpu) group_left (name)"
            f" max by (job, instance, gpu, name) ({info}))",
            hidden=True,
        ),
        Column("File", f"{by[:-1]}, file) (virnucpro_worker_file_info)", hidden=True),
        Column("In file", f"{by} (virnucpro_worker_file_seconds)", "s", width=85),
        Column("No progress", SINCE_PROGRESS, "s", width=85),
        Column(
            "Stall limit used",
            OF_SILENCE_ALLOWED,
            "percentunit",
            thresholds(CLEAR, (0.5, WARNING), (1, BAD)),
            width=130,
            decimals=0,
        ),
        Column("Done in", f"{by} (virnucpro_worker_left_seconds)", "s", width=85),
        Column(
            "Busy",
            f"{by} (rate(virnucpro_worker_busy_seconds_total[$__rate_interval]) {there})",
            "percentunit",
            width=70,
            decimals=0,
        ),
        Column(
            "Starved",
            f"{by} ({STARVED} {there})",
            "percentunit",
            thresholds(CLEAR, (limit("LoadImbalance"), WARNING)),
            width=75,
            decimals=0,
        ),
        Column("Residues/s", f"{by} (virnucpro_throughput_residues_per_second)", RATE, width=95),
        Column(
            "Relative speed",
            RELATIVE_SPEED,
            "percentunit",
            thresholds(WARNING, (limit("GpuStraggler"), CLEAR)),
            width=110,
            decimals=0,
        ),
        Column("Waiting", f"{by} (virnucpro_queue_depth_files)", width=70),
        Column("Done", f"{by} (virnucpro_files_completed_total {there})", width=65),
        Column("Parts", f"{by} (virnucpro_parts_completed_total {there})", width=60),
        bad_count("Failed attempts", f"{by} (virnucpro_file_failures_total {there})", 115),
        bad_count("Restarts", f"{by} (virnucpro_worker_restarts_total {there})", 75),
        bad_count(
            "Short of memory", f"{by} (virnucpro_worker_memory_shortages_total {there})", 120
        ),
    ]
    return Shelf(
        11,
        [
            table(
                "GPUs, worst first",
                "One row per GPU of a run, problems first. Slow: measured speed below half the "
                "median of the GPUs of its model in the run. The file is shown once it takes "
                "long. Stall limit used: time without progress as a share of the worker's stall "
                "limit; at 100 % it is stalled. Done in: expected time to finish its current and "
                "queued files. Empty cells are unknown. Click a GPU for details.",
                columns,
                {
                    "gpu": Label("GPU", 60, ("This GPU in detail", _GPU_URL)),
                    "file": Label("File"),
                    "name": Label("Model", 190),
                    "run": Label("Run", 100),
                    "instance": Label("Instance", 140),
                },
                missing="no worker seen",
                first="State",
            ),
        ],
    )


def _alerts() -> Shelf:
    alerts = (
        "sum by (job, instance, run, alertname, severity, gpu)"
        ' (ALERTS{alertname=~"Virnucpro.+", alertstate="firing"})'
    )
    return Shelf(
        7,
        [
            _runs(),
            table(
                "Firing alerts",
                "Alerts of the rules in prometheus/rules that fire now. An empty table means no "
                "problems only if Prometheus has these rules loaded.",
                [Column("Series", alerts, hidden=True)],
                {
                    "severity": Label("Severity", 80),
                    "alertname": Label("Alert"),
                    "gpu": Label("GPU", 60),
                    "run": Label("Run", 80),
                    "instance": Label("Instance", 140),
                },
                missing="none fires, or the rules are not loaded",
            ),
        ],
        widths=(16, 8),
    )


def _of_run(expr: str) -> str:
    run = f"max by ({BY_RUN}, run_id, processor) (virnucpro_run_info)"
    return f"({expr}) * on ({BY_RUN}) group_left (run_id, processor) {run}"


def _before(expr: str, over: str = "last") -> str:
    """Of each run by its id, those that are no longer seen too."""
    return f"{over}_over_time(({_of_run(expr)})[$__range:{_STEP}s])"


def _known(expr: str) -> str:
    """What is known of each run, or was last known."""
    return f"{_of_run(expr)} or {_before(expr)}"


def _runs() -> Panel:
    by = f"sum by ({BY_RUN})"
    start = "virnucpro_run_start_timestamp_seconds"
    lasted = (
        f"({by} (virnucpro_run_end_timestamp_seconds)"
        f" or {by} (timestamp({start}))) - {by} ({start})"
    )
    unseen = f"{RUN_STATE} * 0 + 8"
    power = (
        f"{by} (virnucpro_worker_up * 0 + on (job, instance, gpu) group_left ()"
        f" max by (job, instance, gpu) (virnucpro_gpu_power_watts) and {RUNNING})"
    )
    joules = _before(power, "sum")
    return table(
        "Runs of the last day",
        "Active and finished runs that Prometheus has scraped: their result and work. Not seen "
        "any more: no end was scraped, because the exporter or its machine was gone or did not "
        "wait for a final scrape. Energy: power drawn by its GPUs during the run, sampled every "
        "15 s. Done before: files of earlier runs. Click a run to show it alone.",
        [
            Column(
                "State",
                f"{_of_run(RUN_STATE)} or {_before(f'{RUN_STATE} < 5')} or {_before(unseen)}",
                states=RUN_STATES,
                width=130,
            ),
            Column(
                "Started", f"1000 * ({_known(f'{by} ({start})')})", "dateTimeAsLocal", width=185
            ),
            Column("Took", _known(lasted), "s", width=85),
            Column("Files", _known(f"{by} (virnucpro_run_files)"), width=70),
            Column("Done", _known(f'{by} (virnucpro_run_files{{state="completed"}})'), width=70),
            Column(
                "Failed",
                _known(f'{by} (virnucpro_run_files{{state="failed"}})'),
                colours=thresholds(CLEAR, (1, WARNING)),
                width=65,
            ),
            Column("Done before", _known(f"{by} (virnucpro_run_files_skipped)"), width=100),
            Column(
                "Residues/s",
                _known(f"{by} (virnucpro_residues_processed_total) / ({lasted} > 0)"),
                RATE,
                width=95,
            ),
            Column("Energy", f"{joules} * {_STEP}", "joule", width=85),
        ],
        {
            "run": Label("Run", 110, ("This run alone", _RUN_URL)),
            "instance": Label("Instance", 140),
            "processor": Label("Processor"),
            "run_id": Label("Run id", 120),
        },
        missing="none was seen",
        first="State",
        sort="Started",
        falling=True,
        time_from=_REMEMBERED,
    )


def _progress() -> Shelf:
    rate = "rate(virnucpro_sequences_processed_total[$__rate_interval])"
    return Shelf(
        8,
        [
            dashed(
                chart(
                    "Sequences per second",
                    "By GPU, and in total. A line at zero while others are high indicates a "
                    "stalled or starved GPU.",
                    Query(f"sum by (job, instance, run) ({rate})", "total @ {{instance}} {{run}}"),
                    Query(
                        f"sum by ({BY_WORKER}) (virnucpro_throughput_sequences_per_second)",
                        WORKER,
                    ),
                    missing=_NO_RUN,
                ),
                "/^total/",
            ),
            stacked(
                named(
                    chart(
                        "Files by state",
                        "All input files. Completed grows, queued shrinks; flat lines mean no "
                        "progress.",
                        Query("sum by (state) (virnucpro_run_files)", "{{state}}"),
                        unit=COUNT,
                        missing=_NO_RUN,
                    ),
                    {
                        "queued": NEUTRAL,
                        "processing": WARNING,
                        "completed": GOOD,
                        "failed": BAD,
                    },
                )
            ),
        ],
        widths=(14, 10),
    )


def _shares() -> Shelf:
    waiting = (
        "(virnucpro_queue_depth_residues and on (job, instance, run, gpu) virnucpro_worker_up == 1)"
    )
    return Shelf(
        8,
        [
            share(
                "Share of time busy",
                "1: a file was in process all the time. For the load of the GPU, see its "
                "utilisation.",
                Query("rate(virnucpro_worker_busy_seconds_total[$__rate_interval])", WORKER),
                missing=_NO_RUN,
            ),
            share(
                "Share of time starved",
                "Idle while files waited in another queue. Above 0.25 for minutes, work stealing "
                "does not keep up.",
                Query("rate(virnucpro_worker_starved_seconds_total[$__rate_interval])", WORKER),
                colours=thresholds(NEUTRAL, (limit("LoadImbalance"), WARNING)),
                missing=_NO_RUN,
            ),
            dashed(
                chart(
                    "Queue imbalance",
                    "Waiting residues of the fullest queue relative to the mean; 1 is even. High "
                    "values are harmless while no GPU starves. The flags are 1 while the queue "
                    "depths in files, or the expected end times of the GPUs, are imbalanced.",
                    Query(
                        f"max by (job, instance, run) ({waiting})"
                        f" / (avg by (job, instance, run) ({waiting}) > 0)",
                        "fullest / mean @ {{instance}} {{run}}",
                    ),
                    Query(
                        "max by (job, instance, run) (virnucpro_load_imbalanced)",
                        "flag, files @ {{instance}} {{run}}",
                    ),
                    Query(
                        "max by (job, instance, run) (virnucpro_work_imbalanced)",
                        "flag, time @ {{instance}} {{run}}",
                    ),
                    colours=thresholds(NEUTRAL, (limit("QueueSkew"), WARNING)),
                    missing=_NO_RUN,
                ),
                "/^flag/",
            ),
        ],
        title="Balance",
    )


def _efficiency() -> Shelf:
    energy = (
        "sum by (job, instance, gpu) (rate(virnucpro_gpu_energy_joules_total[$__rate_interval]))"
    )
    residues = f"sum by ({BY_WORKER}) (rate(virnucpro_residues_processed_total[$__rate_interval]))"
    return Shelf(
        8,
        [
            dashed(
                chart(
                    "Steals per second",
                    "Files stolen from another queue, and those stolen before. Many of the latter "
                    "mean that files move back and forth.",
                    Query(
                        "sum by (job, instance, run) "
                        "(rate(virnucpro_steals_total[$__rate_interval]))",
                        "steals @ {{instance}} {{run}}",
                    ),
                    Query(
                        "rate(virnucpro_file_resteals_total[$__rate_interval])",
                        "stolen again @ {{instance}} {{run}}",
                    ),
                    missing=_NO_RUN,
                ),
                "/^stolen again/",
            ),
            chart(
                "Residues per joule",
                "Work per energy. Compare GPUs of one model: a low one is throttled, shared, or "
                "waits for input.",
                Query(
                    f"{residues} / on (job, instance, gpu) group_left () ({energy} > 0)",
                    WORKER,
                    least=True,
                ),
                missing="no energy counter seen",
            ),
            dashed(
                chart(
                    "Failed attempts and restarts",
                    "Failed attempts and worker restarts between two points.",
                    Query(
                        "sum by (job, instance, run, gpu)"
                        " (increase(virnucpro_file_failures_total[$__rate_interval]))",
                        WORKER,
                    ),
                    Query(
                        "sum by (job, instance, run, gpu)"
                        " (increase(virnucpro_worker_restarts_total[$__rate_interval]))",
                        f"{WORKER}, restarts",
                    ),
                    missing=_NO_RUN,
                ),
                "/restarts$/",
            ),
        ],
        title="Stealing, efficiency and failures",
    )


def _work() -> Shelf:
    return Shelf(
        8,
        [
            stacked(
                named(
                    chart(
                        "Residues",
                        "Work done and left, counted or estimated. Flat lines mean no progress.",
                        Query("sum by (state) (virnucpro_run_residues)", "{{state}}"),
                        missing=_NO_RUN,
                    ),
                    {"left": NEUTRAL, "done": GOOD},
                )
            ),
            stacked(
                chart(
                    "Parts of shared files",
                    "Parts of files shared by several workers, and the joins of their results. "
                    "Queued ones that remain are joins that wait for a slow part.",
                    Query("sum by (state) (virnucpro_run_parts)", "{{state}}"),
                    unit=COUNT,
                    missing=_NO_RUN,
                )
            ),
            chart(
                "Age of the file in process",
                "Time that each GPU has spent on its current file. A line that keeps rising far "
                "beyond the usual time per file indicates a file that does not end.",
                Query("sum by (job, instance, run, gpu) (virnucpro_worker_file_seconds)", WORKER),
                unit="s",
                missing="no file in process",
            ),
            dashed(
                chart(
                    "Stalled, retries, held",
                    "Share of time stalled, retries, and a flag that is 1 while a full or failing "
                    "disk holds all work.",
                    Query(
                        "sum by (job, instance, run, gpu)"
                        " (rate(virnucpro_worker_stalled_seconds_total[$__rate_interval]))",
                        WORKER,
                    ),
                    Query(
                        "increase(virnucpro_file_retries_total[$__rate_interval])",
                        "retries @ {{instance}} {{run}}",
                    ),
                    Query(
                        "max by (job, instance, run) (virnucpro_run_held)",
                        "held @ {{instance}} {{run}}",
                    ),
                    missing=_NO_RUN,
                ),
                "/^(retries|held)/",
            ),
        ],
        title="Work",
    )
