"""Run overview: is the run healthy, when will it end, and which GPU is the problem."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.common import SINCE_PROGRESS, WORKER_STATE
from grafana.frame import Shelf, assemble
from grafana.panels import PLAIN, Column, chart, dashed, named, stacked, stat, table, word
from grafana.queries import GPU, RUNNING, Query
from grafana.style import (
    BAD,
    CLEAR,
    GOOD,
    NEUTRAL,
    RUN_STATES,
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


def build() -> Dashboard:
    """The dashboard."""
    return assemble(
        "virnucpro-run",
        "VirNucPro / Run overview",
        "Is the run healthy, when will it end, and which GPU is the problem.",
        [
            _answers(),
            _problems(),
            _progress(),
            _shares(),
            _efficiency(),
            _work(),
            _identity(),
            _ended(),
        ],
    )


def _answers() -> Shelf:
    left = "max((virnucpro_run_estimated_completion_timestamp_seconds - time())"
    return Shelf(
        4,
        [
            word(
                "State",
                "The state of the run. Draining: it ends the files in process and starts no "
                "more. After the end it is shown for as long as the exporter lingers.",
                "sum by (job, instance, state) (virnucpro_run_state == 1)",
                "state",
                RUN_STATES,
                _NO_RUN,
            ),
            stat(
                "Progress",
                "Share of the work that is done, in the seconds that it is expected to take; of "
                "several runs, the mean.",
                Query("avg(virnucpro_run_progress_ratio)"),
                unit="percentunit",
                missing=_NO_RUN,
                decimals=1,
            ),
            stat(
                "Time left",
                "Expected time to the end; of several runs, the longest. It is known after "
                "the first progress, and grows when a GPU stalls.",
                Query(f"clamp_min({left} and {RUNNING}), 0)"),
                unit="s",
                missing="not known",
            ),
            stat(
                "Ends at",
                "When the run is expected to end; of several runs, the last.",
                Query(
                    "max(virnucpro_run_estimated_completion_timestamp_seconds"
                    f" and {RUNNING}) * 1000"
                ),
                unit="dateTimeAsLocalNoDateIfToday",
                missing="not known",
            ),
            stat(
                "Running for",
                "Time since the start; of several runs, the longest.",
                Query(f"max((time() - virnucpro_run_start_timestamp_seconds) and {RUNNING})"),
                unit="s",
                missing="nothing runs",
            ),
            stat(
                "Stalled GPUs",
                "Workers that have files and have made no progress for too long. Those of lost "
                "GPUs are not counted. Wanted: 0. The table below names them.",
                Query(
                    "sum(virnucpro_worker_stalled"
                    " unless on (job, instance, gpu) virnucpro_gpu_up == 0)"
                ),
                colours=_NONE_WANTED,
                missing=_NO_RUN,
            ),
            stat(
                "GPUs lost",
                "GPUs that do not answer. Wanted: 0. Look at nvidia-smi and the kernel log of "
                "that machine.",
                Query("sum(1 - virnucpro_gpu_up)"),
                colours=_NONE_WANTED,
                missing="no GPU seen",
            ),
            stat(
                "Failed files",
                "Files that were given up after all attempts. The run reports them with their "
                "errors at its end, and `virnucpro-exporter status` at any time.",
                Query('sum(virnucpro_run_files{state="failed"})'),
                colours=thresholds(GOOD, (1, WARNING)),
                missing=_NO_RUN,
            ),
        ],
    )


def _problems() -> Shelf:
    by = "sum by (job, instance, gpu)"
    columns = [
        Column("Series", "sum by (job, instance, gpu, name) (virnucpro_gpu_info)", hidden=True),
        Column("State", WORKER_STATE, states=WORKER_STATES),
        Column(
            "Since progress", SINCE_PROGRESS, "s", thresholds(CLEAR, (120, WARNING), (300, BAD))
        ),
        Column(
            "Busy",
            f"{by} (rate(virnucpro_worker_busy_seconds_total[$__rate_interval]))",
            "percentunit",
        ),
        Column(
            "Starved",
            f"{by} (rate(virnucpro_worker_starved_seconds_total[$__rate_interval]))",
            "percentunit",
            thresholds(CLEAR, (0.25, WARNING)),
        ),
        Column("Sequences/s", f"{by} (virnucpro_throughput_sequences_per_second)"),
        Column("Residues/s", f"{by} (virnucpro_throughput_residues_per_second)"),
        Column("Waiting", f"{by} (virnucpro_queue_depth_files)"),
        Column("Done", f"{by} (virnucpro_files_completed_total)"),
        Column("Parts done", f"{by} (virnucpro_parts_completed_total)"),
        Column(
            "Failed attempts",
            f"{by} (virnucpro_file_failures_total)",
            colours=thresholds(CLEAR, (1, WARNING)),
        ),
        Column(
            "Restarts",
            f"{by} (virnucpro_worker_restarts_total)",
            colours=thresholds(CLEAR, (1, WARNING)),
        ),
    ]
    alerts = (
        "sum by (job, instance, alertname, severity, gpu)"
        ' (ALERTS{alertname=~"Virnucpro.+", alertstate="firing"})'
    )
    return Shelf(
        8,
        [
            table(
                "Which GPU is the problem",
                "One row for each GPU. Look for a state that is not busy, a long time since "
                "progress while it has work (300 s is the default stall threshold), and "
                "time starved. Values are those of the last minutes; an empty cell is not "
                "known. A click on a GPU shows it in detail.",
                columns,
                {"instance": "Instance", "gpu": "GPU", "name": "Model", "job": ""},
                missing="no worker seen",
                links={"GPU": ("This GPU in detail", _GPU_URL)},
            ),
            table(
                "Firing alerts",
                "Alerts of the rules in prometheus/rules that fire now. An empty table says "
                "that all is well only if Prometheus has these rules loaded.",
                [Column("Series", alerts, hidden=True)],
                {
                    "severity": "Severity",
                    "alertname": "Alert",
                    "gpu": "GPU",
                    "instance": "Instance",
                    "job": "",
                },
                missing="none fires, or the rules are not loaded",
            ),
        ],
        widths=(17, 7),
    )


def _progress() -> Shelf:
    rate = "rate(virnucpro_sequences_processed_total[$__rate_interval])"
    return Shelf(
        8,
        [
            dashed(
                chart(
                    "Sequences per second",
                    "By GPU, and in total. A line at zero while others are high is a GPU that "
                    "stalls or starves.",
                    Query(f"sum by (job, instance) ({rate})", "total @ {{instance}}"),
                    Query(f"sum by (job, instance, gpu) ({rate})", GPU),
                    missing=_NO_RUN,
                ),
                "/^total/",
            ),
            stacked(
                named(
                    chart(
                        "Files by state",
                        "All input files. Completed grows, queued shrinks; a flat stretch is a run "
                        "that does not advance.",
                        Query("sum by (state) (virnucpro_run_files)", "{{state}}"),
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
        "(virnucpro_queue_depth_residues and on (job, instance, gpu) virnucpro_worker_up == 1)"
    )
    return Shelf(
        8,
        [
            chart(
                "Share of time busy",
                "1 is a file in progress all the time. It says nothing about how hard the "
                "GPU works: see its utilisation.",
                Query("rate(virnucpro_worker_busy_seconds_total[$__rate_interval])", GPU),
                unit="percentunit",
                limits=(0, 1),
                missing=_NO_RUN,
            ),
            chart(
                "Share of time starved",
                "Idle while files waited in another queue. Above a quarter for minutes, work "
                "stealing does not keep up.",
                Query("rate(virnucpro_worker_starved_seconds_total[$__rate_interval])", GPU),
                unit="percentunit",
                colours=thresholds(NEUTRAL, (0.25, WARNING)),
                limits=(0, 1),
                missing=_NO_RUN,
            ),
            dashed(
                chart(
                    "Queue imbalance",
                    "Waiting residues of the fullest queue, in times the mean. 1 is even. High "
                    "values are harmless while nobody starves. The flags are 1 while the queue "
                    "depths in files, or the times at which the GPUs would end, count as "
                    "imbalanced.",
                    Query(
                        f"max by (job, instance) ({waiting})"
                        f" / (avg by (job, instance) ({waiting}) > 0)",
                        "fullest / mean @ {{instance}}",
                    ),
                    Query(
                        "max by (job, instance) (virnucpro_load_imbalanced)",
                        "flag, files @ {{instance}}",
                    ),
                    Query(
                        "max by (job, instance) (virnucpro_work_imbalanced)",
                        "flag, time @ {{instance}}",
                    ),
                    colours=thresholds(NEUTRAL, (2, WARNING)),
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
    residues = (
        "sum by (job, instance, gpu) (rate(virnucpro_residues_processed_total[$__rate_interval]))"
    )
    return Shelf(
        8,
        [
            dashed(
                chart(
                    "Steals per second",
                    "Files taken from another queue, and of those the ones that had been taken "
                    "before. Many of the latter are files that move to and fro.",
                    Query(
                        "sum by (job, instance) (rate(virnucpro_steals_total[$__rate_interval]))",
                        "steals @ {{instance}}",
                    ),
                    Query(
                        "rate(virnucpro_file_resteals_total[$__rate_interval])",
                        "stolen again @ {{instance}}",
                    ),
                    missing=_NO_RUN,
                ),
                "/^stolen again/",
            ),
            chart(
                "Residues per joule",
                "Work done for the energy drawn. Compare GPUs of one model: a low one is "
                "throttled, shared, or waits for its input.",
                Query(f"{residues} / ({energy} > 0)", GPU),
                missing="no energy counter seen",
            ),
            dashed(
                chart(
                    "Failed attempts and restarts",
                    "Attempts that ended in an error, and workers that had to be replaced, over "
                    "the time between two points.",
                    Query(
                        "sum by (job, instance, gpu)"
                        " (increase(virnucpro_file_failures_total[$__rate_interval]))",
                        GPU,
                    ),
                    Query(
                        "sum by (job, instance, gpu)"
                        " (increase(virnucpro_worker_restarts_total[$__rate_interval]))",
                        f"{GPU}, restarts",
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
                        "Work done and left, counted or estimated. A flat stretch is a run that "
                        "does not advance.",
                        Query("sum by (state) (virnucpro_run_residues)", "{{state}}"),
                        missing=_NO_RUN,
                    ),
                    {"left": NEUTRAL, "done": GOOD},
                )
            ),
            chart(
                "Age of the file in process",
                "How long each GPU has been at its present file. A line that rises for much "
                "longer than files take is a file that does not end.",
                Query("sum by (job, instance, gpu) (virnucpro_worker_file_seconds)", GPU),
                unit="s",
                missing="no file in process",
            ),
            dashed(
                chart(
                    "Stalled, retries, held",
                    "Share of time that GPUs were stalled, attempts that followed a failure, and "
                    "a flag that is 1 while a disk that is full or fails holds all work.",
                    Query(
                        "sum by (job, instance, gpu)"
                        " (rate(virnucpro_worker_stalled_seconds_total[$__rate_interval]))",
                        GPU,
                    ),
                    Query(
                        "increase(virnucpro_file_retries_total[$__rate_interval])",
                        "retries @ {{instance}}",
                    ),
                    Query(
                        "max by (job, instance) (virnucpro_run_held)",
                        "held @ {{instance}}",
                    ),
                    missing=_NO_RUN,
                ),
                "/^(retries|held)/",
            ),
        ],
        title="Work",
    )


def _ended() -> Shelf:
    by = "sum by (job, instance, run)"
    return Shelf(
        6,
        [
            table(
                "Runs that ended",
                "How each of them ended, and what it had done. Vanished: it was killed, or its "
                "machine was. The exporter of a machine shows them for a day.",
                [
                    Column(
                        "Series",
                        "sum by (job, instance, run, result) (virnucpro_run_result == 1)",
                        hidden=True,
                    ),
                    Column(
                        "Ended",
                        f"{by} (virnucpro_run_end_timestamp_seconds) * 1000",
                        "dateTimeAsLocal",
                    ),
                    Column(
                        "Done by earlier runs",
                        f"{by} (virnucpro_run_files_skipped and on (job, instance, run)"
                        " virnucpro_run_end_timestamp_seconds)",
                    ),
                    Column(
                        "Failed files",
                        f'{by} (virnucpro_run_files{{state="failed"}} and on (job, instance, run)'
                        " virnucpro_run_end_timestamp_seconds)",
                        colours=thresholds(CLEAR, (1, WARNING)),
                    ),
                ],
                {"instance": "Instance", "run": "Run", "result": "Result", "job": ""},
                missing="none is remembered",
            ),
        ],
    )


def _identity() -> Shelf:
    by = "sum by (job, instance)"
    return Shelf(
        6,
        [
            table(
                "Runs",
                "Which runs these are, one row each, and how far each of them is.",
                [
                    Column(
                        "Series",
                        "sum by (job, instance, run_id, processor, balancer) (virnucpro_run_info)",
                        hidden=True,
                    ),
                    Column(
                        "Started",
                        f"{by} (virnucpro_run_start_timestamp_seconds) * 1000",
                        "dateTimeAsLocal",
                    ),
                    Column("Files", f"{by} (virnucpro_run_files)"),
                    Column("Parts of shared files", f"{by} (virnucpro_run_parts)"),
                    Column("Progress", f"{by} (virnucpro_run_progress_ratio)", "percentunit"),
                    Column(
                        "Time left",
                        f"{by} ((virnucpro_run_estimated_completion_timestamp_seconds"
                        f" - time()) and {RUNNING})",
                        "s",
                        PLAIN,
                    ),
                ],
                {
                    "instance": "Instance",
                    "run_id": "Run",
                    "processor": "Processor",
                    "balancer": "Balancer",
                    "job": "",
                },
                missing=_NO_RUN,
            ),
        ],
    )
