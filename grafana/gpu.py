"""GPUs and balance: what each GPU does, what slows it, and how work moves between them."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.common import (
    GPU_STATE,
    GPUS_ONCE,
    HELD_DOWN,
    LOST_OR_NONE,
    RELATIVE_SPEED,
    SINCE_PROGRESS,
    WORKER_STATE,
)
from grafana.frame import Shelf, assemble
from grafana.limits import limit
from grafana.panels import (
    COUNT,
    Column,
    Label,
    chart,
    dashed,
    durations,
    matrix,
    named,
    share,
    stat,
    table,
    timeline,
    warning_stat,
)
from grafana.queries import BY_WORKER, GPU, WORKER, Query
from grafana.style import (
    BAD,
    CLEAR,
    GOOD,
    GPU_STATES,
    NEUTRAL,
    PENDING,
    RECOVERY,
    THROTTLING,
    WARNING,
    WORKER_STATES,
    thresholds,
)
from virnucpro_exporter.snapshot import RECOVERY_ACTIONS

_NO_GPU = "no GPU seen"
_NO_WORKER = "no worker seen"
_LONG = "10m"  # files take minutes: shorter ranges hold too few of them


def build() -> Dashboard:
    """The dashboard."""
    return assemble(
        "virnucpro-gpu",
        "VirNucPro / GPUs and balance",
        "State and bottlenecks of each GPU, and how work moves between GPUs.",
        [
            _answers(),
            _states(),
            _progress(),
            _queues(),
            _load(),
            _limits(),
            _health(),
            _clocks(),
            _links(),
            _stealing(),
            _moves(),
            _files(),
            _identity(),
        ],
        variables=["run", "gpu"],
    )


def _answers() -> Shelf:
    none_wanted = thresholds(GOOD, (1, BAD))
    uncorrected = 'virnucpro_gpu_ecc_errors_total{type="uncorrected"}'
    return Shelf(
        4,
        [
            stat(
                "GPUs",
                "Known GPUs; a GPU that both a run and `serve` report counts once.",
                Query(GPUS_ONCE),
                missing=_NO_GPU,
            ),
            stat(
                "Lost",
                "GPUs that do not answer, each counted once. If no GPU can be sampled at all, "
                "they are unknown, not lost. Should be 0.",
                Query(LOST_OR_NONE),
                colours=none_wanted,
                missing="no GPU is known",
            ),
            warning_stat(
                "Throttled",
                "GPUs throttled by heat or the power brake. A power cap is normal under load and "
                "does not count.",
                Query(f"sum(max by (job, instance, gpu) ({HELD_DOWN}))"),
                missing="not known",
            ),
            stat(
                "Hottest",
                "The highest temperature of a GPU die.",
                Query("max(virnucpro_gpu_temperature_celsius)"),
                unit="celsius",
                missing="not known",
            ),
            stat(
                "Min. relative speed",
                "Measured speed of the slowest GPU relative to the median of the GPUs of its "
                "model in the same run. Below 0.5, VirnucproGpuStraggler fires.",
                Query(f"min({RELATIVE_SPEED})"),
                unit="percentunit",
                colours=thresholds(WARNING, (limit("GpuStraggler"), GOOD)),
                missing="nothing learned yet",
                decimals=0,
            ),
            stat(
                "XID errors",
                "Reported by the driver in the time range. The table below shows them by GPU.",
                Query("sum(increase(virnucpro_gpu_xid_errors_total[$__range]))"),
                colours=thresholds(GOOD, (0.5, WARNING)),
                missing="none since the start",
                decimals=0,
            ),
            stat(
                "Uncorrected memory errors",
                "Found by ECC in the time range.",
                Query(f"sum(increase({uncorrected}[$__range]))"),
                colours=thresholds(GOOD, (0.5, BAD)),
                missing="no GPU has ECC",
                decimals=0,
            ),
        ],
        widths=(3, 3, 3, 3, 4, 4, 4),
    )


def _states() -> Shelf:
    return Shelf(
        9,
        [
            timeline(
                "Worker state",
                "Busy: a file in process. Idle: nothing to do. Slow: less than half as fast as "
                "the GPUs of its model. Stalled: has files and makes no progress. GPU lost: the "
                "driver no longer answers for it. Gaps are times without data.",
                Query(WORKER_STATE, WORKER),
                WORKER_STATES,
                _NO_WORKER,
            ),
            timeline(
                "GPU state",
                "Whether the driver answers for each GPU. Not known: no GPU could be sampled for "
                "too long.",
                Query(GPU_STATE, GPU),
                GPU_STATES,
                _NO_GPU,
            ),
        ],
        widths=(14, 10),
    )


def _progress() -> Shelf:
    return Shelf(
        7,
        [
            dashed(
                chart(
                    "Time since progress",
                    "Time since the last file start, progress report or file end of workers with "
                    "files. Above the dashed threshold a worker counts as stalled; without "
                    "progress reports the threshold is longer. Workers without files are not "
                    "shown.",
                    Query(SINCE_PROGRESS, WORKER),
                    Query("max(virnucpro_worker_stall_threshold_seconds)", "stall threshold"),
                    Query(
                        "max(virnucpro_worker_stall_deadline_timestamp_seconds"
                        " - virnucpro_worker_last_progress_timestamp_seconds)",
                        "longest silence allowed",
                    ),
                    unit="s",
                    missing="no worker has files",
                ),
                "/^(stall threshold|longest silence allowed)$/",
            ),
            stat(
                "Stalls",
                "Stalls that began in the time range.",
                Query("sum(increase(virnucpro_worker_stalls_total[$__range]))"),
                colours=thresholds(GOOD, (0.5, WARNING)),
                missing=_NO_WORKER,
                decimals=0,
            ),
        ],
        widths=(19, 5),
    )


def _queues() -> Shelf:
    return Shelf(
        8,
        [
            chart(
                "Waiting files",
                "Files in the queue of each GPU, without the one in process. Queues are balanced "
                "if they end at the same time, not if they have the same length.",
                Query("virnucpro_queue_depth_files", WORKER),
                unit=COUNT,
                missing=_NO_WORKER,
            ),
            chart(
                "Waiting residues",
                "Bases or amino acids of the waiting files: the estimate of the work left.",
                Query("virnucpro_queue_depth_residues", WORKER),
                missing=_NO_WORKER,
            ),
            share(
                "Position in file",
                "The range of the file in process, and its progress. A whole file goes from 0 to "
                "1; a part begins where another GPU stops.",
                Query(
                    'virnucpro_worker_range_ratio{edge="begin"}', "begin of {{gpu}}", is_many=True
                ),
                Query('virnucpro_worker_range_ratio{edge="end"}', "end of {{gpu}}", is_many=True),
                Query("virnucpro_worker_range_done_ratio", "done of {{gpu}}", is_many=True),
                missing="no file is in process",
            ),
        ],
    )


def _load() -> Shelf:
    return Shelf(
        8,
        [
            share(
                "Utilisation",
                "Share of time in which a kernel ran. A hung GPU may show 100 %: also check the "
                "time since progress.",
                Query("virnucpro_gpu_utilization_ratio", GPU),
                missing=_NO_GPU,
            ),
            share(
                "Memory in use",
                "Share of the installed memory. A loaded model fills memory, which is normal.",
                Query("virnucpro_gpu_memory_used_bytes / virnucpro_gpu_memory_size_bytes", GPU),
                colours=thresholds(NEUTRAL, (0.98, WARNING)),
                missing=_NO_GPU,
            ),
            dashed(
                chart(
                    "Power against limit",
                    "Power drawn; dashed: the enforced limit.",
                    Query("virnucpro_gpu_power_watts", GPU),
                    Query("virnucpro_gpu_power_limit_watts", f"{GPU}, limit"),
                    unit="watt",
                    missing=_NO_GPU,
                ),
                "/limit$/",
            ),
        ],
        title="Hardware",
    )


def _limits() -> Shelf:
    reason = "virnucpro_gpu_throttled{reason="
    throttled = (
        "max by (job, instance, gpu) ("
        f'{reason}"sw_power_cap"}}'
        f' or {reason}"sw_thermal_slowdown"}} * 2'
        f' or {reason}"hw_thermal_slowdown"}} * 3'
        f' or {reason}"hw_power_brake_slowdown"}} * 4'
        f' or {reason}"hw_slowdown"}} * 5'
        f' or {reason}"sync_boost"}} * 6'
        f' or {reason}"applications_clocks_setting"}} * 7'
        f' or {reason}"display_clock_setting"}} * 8'
        ")"
    )
    return Shelf(
        8,
        [
            chart(
                "Temperature",
                "Of the GPU die. Most data centre GPUs throttle between 80 and 90 degrees.",
                Query("virnucpro_gpu_temperature_celsius", GPU),
                unit="celsius",
                colours=thresholds(NEUTRAL, (80, WARNING), (90, BAD)),
                missing=_NO_GPU,
            ),
            chart(
                "SM clock",
                "Clock of the streaming multiprocessors. A fall under load goes with throttling.",
                Query("virnucpro_gpu_sm_clock_hertz", GPU),
                unit="hertz",
                missing=_NO_GPU,
            ),
            timeline(
                "Throttling",
                "The most serious throttle reason. A power cap is normal under load; heat and the "
                "power brake are not: check cooling and power supply.",
                Query(throttled, GPU),
                THROTTLING,
                _NO_GPU,
            ),
        ],
    )


def _health() -> Shelf:
    by = "sum by (job, instance, gpu)"
    wrong = thresholds(CLEAR, (1, BAD))
    odd = thresholds(CLEAR, (1, WARNING))
    actions = " or ".join(
        f'virnucpro_gpu_recovery_action{{action="{action}"}} * {number}'
        for number, action in enumerate(RECOVERY_ACTIONS)
    )
    ecc = "virnucpro_gpu_ecc_errors_total"
    lifetime = "virnucpro_gpu_ecc_lifetime_errors_total"
    return Shelf(
        8,
        [
            table(
                "Health of the hardware",
                "Errors reported by the driver. Uncorrected errors, rows that could not be "
                "remapped and a recommended action need attention. Counts are since the driver "
                "was loaded, except those over the lifetime of the GPU. Empty cells are values "
                "that the GPU does not have.",
                [
                    Column("XID errors", f"{by} (virnucpro_gpu_xid_errors_total)", colours=odd),
                    Column(
                        "Last XID",
                        "1000 * max by (job, instance, gpu)"
                        " (virnucpro_gpu_xid_last_timestamp_seconds)",
                        unit="dateTimeFromNow",
                    ),
                    Column("ECC uncorrected", f'{by} ({ecc}{{type="uncorrected"}})', colours=wrong),
                    Column("ECC corrected", f'{by} ({ecc}{{type="corrected"}})'),
                    Column("ECC uncorrected, life", f'{by} ({lifetime}{{type="uncorrected"}})'),
                    Column("Rows replaced", f"{by} (virnucpro_gpu_remapped_rows)"),
                    Column(
                        "Row pending", f"{by} (virnucpro_gpu_row_remap_pending)", states=PENDING
                    ),
                    Column("Rows failed", f"{by} (virnucpro_gpu_row_remap_failed)", colours=wrong),
                    Column("Pages retired", f"{by} (virnucpro_gpu_retired_pages)"),
                    Column(
                        "Pages pending",
                        f"{by} (virnucpro_gpu_retired_pages_pending)",
                        states=PENDING,
                    ),
                    Column(
                        "Recovery action",
                        f"max by (job, instance, gpu) ({actions})",
                        states=RECOVERY,
                    ),
                ],
                {"gpu": Label("GPU", 60), "instance": Label("Instance", 150)},
                missing=_NO_GPU,
            ),
        ],
        title="Health",
    )


def _clocks() -> Shelf:
    return Shelf(
        8,
        [
            chart(
                "Memory temperature",
                "Of the GPU memory, which throttles at about 95 degrees on data centre GPUs.",
                Query("virnucpro_gpu_memory_temperature_celsius", GPU),
                unit="celsius",
                colours=thresholds(NEUTRAL, (90, WARNING), (100, BAD)),
                missing="not known",
            ),
            share(
                "Memory traffic",
                "Share of time in which memory was read or written. Near 100 %, memory limits the "
                "speed, not the compute units.",
                Query("virnucpro_gpu_memory_copy_ratio", GPU),
                missing="not known",
            ),
            share(
                "Clocks relative to maximum",
                "Of the streaming multiprocessors (SM) and the memory.",
                Query(
                    "virnucpro_gpu_sm_clock_hertz / virnucpro_gpu_sm_clock_max_hertz", f"{GPU}, SM"
                ),
                Query(
                    "virnucpro_gpu_memory_clock_hertz / virnucpro_gpu_memory_clock_max_hertz",
                    f"{GPU}, memory",
                ),
                missing="not known",
            ),
            chart(
                "Fans and performance state",
                "Fan speed relative to its maximum, and the P-state divided by 15: 0 is the "
                "fastest.",
                Query("virnucpro_gpu_fan_ratio", f"{GPU}, fan"),
                Query("virnucpro_gpu_performance_state / 15", f"{GPU}, P-state"),
                unit="percentunit",
                missing="not known",
            ),
            chart(
                "Time throttled",
                "Share of time in which a policy throttled the clocks.",
                Query(
                    "sum by (job, instance, gpu, policy)"
                    " (rate(virnucpro_gpu_throttled_seconds_total[$__rate_interval]))",
                    f"{GPU}, {{{{policy}}}}",
                ),
                unit="percentunit",
                missing="not known",
            ),
        ],
        widths=(5, 5, 5, 5, 4),
    )


def _links() -> Shelf:
    optional = "asked for with --gpu-links"
    return Shelf(
        8,
        [
            chart(
                "PCIe traffic",
                "Bytes per second to and from the GPU, over 20 ms in every ten samples.",
                Query("virnucpro_gpu_pcie_bytes_per_second", f"{GPU}, {{{{direction}}}}"),
                unit="Bps",
                missing=optional,
            ),
            chart(
                "NVLink traffic",
                "Bytes per second over all links.",
                Query(
                    "sum by (job, instance, gpu, direction)"
                    " (rate(virnucpro_gpu_nvlink_bytes_total[$__rate_interval]))",
                    f"{GPU}, {{{{direction}}}}",
                ),
                unit="Bps",
                missing=optional,
            ),
            chart(
                "Link errors",
                "PCIe replays and NVLink errors. A steady rate indicates a bad slot, riser or "
                "bridge.",
                Query(
                    "sum by (job, instance, gpu)"
                    " (increase(virnucpro_gpu_pcie_replays_total[$__rate_interval]))",
                    f"{GPU}, PCIe replays",
                ),
                Query(
                    "sum by (job, instance, gpu, type)"
                    " (increase(virnucpro_gpu_nvlink_errors_total[$__rate_interval]))",
                    f"{GPU}, NVLink {{{{type}}}}",
                ),
                missing=optional,
            ),
            table(
                "Processes",
                "The compute processes on the GPUs with their memory and owner.",
                [
                    Column(
                        "Memory",
                        "sum by (job, instance, gpu, pid, process, user)"
                        " (virnucpro_gpu_process_memory_bytes)",
                        unit="bytes",
                    )
                ],
                {
                    "gpu": Label("GPU", 60),
                    "process": Label("Program"),
                    "user": Label("User", 90),
                    "pid": Label("PID", 80),
                    "instance": Label("Instance", 140),
                },
                missing="asked for with --gpu-processes",
            ),
        ],
        widths=(5, 5, 5, 9),
    )


def _stealing() -> Shelf:
    gained = 'label_replace(virnucpro_stolen_residues_total, "gpu", "$1", "thief", "(.+)")'
    by = f"sum by ({BY_WORKER})"
    return Shelf(
        8,
        [
            matrix(
                "Steals, victim to thief",
                "Files stolen in this run: from the GPUs in rows, by the GPUs in columns. A dark "
                "column is a fast GPU; a dark row is a slow or stalled one. Up to 16 GPUs.",
                Query('sum by (victim, thief) (virnucpro_steals_total{victim!=""})'),
                "victim",
                "thief",
                "no steals seen: there is no run, or it has one GPU, or more than 16",
            ),
            chart(
                "Net residues moved",
                "Residues stolen by a GPU minus those stolen from it, since the run began. Rising "
                "lines take work, falling lines give it away.",
                Query(f"{by} ({gained}) - {by} (virnucpro_residues_stolen_from_total)", WORKER),
                missing="no steals seen",
                limits=(None, None),
            ),
            dashed(
                share(
                    "Steal success",
                    "Share of steal attempts that got a file. Dashed: shares of all attempts "
                    "without a file: empty, because no file was waiting, which is normal at the "
                    "end of a run; declined, because a faster GPU would finish the file sooner.",
                    Query(
                        f"1 - {by} (rate(virnucpro_steal_failures_total[$__rate_interval]))"
                        f" / ({by} (rate(virnucpro_steal_attempts_total[$__rate_interval])) > 0)",
                        WORKER,
                        least=True,
                    ),
                    Query(
                        "sum by (reason)"
                        " (rate(virnucpro_steal_failures_total[$__rate_interval]))"
                        " / on () group_left ()"
                        " (sum(rate(virnucpro_steal_attempts_total[$__rate_interval])) > 0)",
                        "all GPUs, {{reason}}",
                    ),
                    missing="no steal attempts",
                ),
                "/^all GPUs/",
            ),
            chart(
                "Time left",
                "Expected time until a GPU has finished its current and queued files.",
                Query(f"sum by ({BY_WORKER}) (virnucpro_worker_left_seconds)", WORKER),
                unit="s",
                missing="nothing learned yet",
            ),
            chart(
                "Relative speed",
                "Measured speed relative to the median of the GPUs of its model in the same run. "
                "Below 0.5 for 15 minutes, VirnucproGpuStraggler fires.",
                Query(RELATIVE_SPEED, WORKER, least=True),
                unit="percentunit",
                colours=thresholds(WARNING, (limit("GpuStraggler"), NEUTRAL)),
                missing="nothing learned yet",
            ),
            chart(
                "Measured speed",
                "Residues per second so far, used to assign files.",
                Query(f"sum by ({BY_WORKER}) (virnucpro_worker_speed_residues_per_second)", WORKER),
                missing="nothing learned yet",
            ),
        ],
        widths=(5, 4, 4, 4, 4, 3),
        title="Work stealing",
    )


def _moves() -> Shelf:
    return Shelf(
        7,
        [
            named(
                chart(
                    "Second attempts",
                    "Second attempts by an idle GPU at files in process elsewhere, between two "
                    "points: won if it finished first, else lost.",
                    Query(
                        "sum by (outcome)"
                        " (increase(virnucpro_second_attempts_total[$__rate_interval]))",
                        "{{outcome}}",
                    ),
                    Query(
                        "sum(increase(virnucpro_late_results_total[$__rate_interval]))",
                        "late results dropped",
                    ),
                    Query(
                        "sum(increase(virnucpro_attempts_moved_total[$__rate_interval]))",
                        "running files taken back",
                    ),
                    Query(
                        "sum(increase(virnucpro_plan_changes_total[$__rate_interval]))",
                        "changes of the plan",
                    ),
                    missing=_NO_WORKER,
                ),
                {"won": GOOD, "lost": WARNING, "late results dropped": NEUTRAL},
            ),
            chart(
                "Files given away",
                "Files stolen from the queue of a GPU between two points. A GPU that keeps losing "
                "files is slower than expected, or stalled.",
                Query(
                    f"sum by ({BY_WORKER})"
                    " (increase(virnucpro_files_stolen_from_total[$__rate_interval]))",
                    WORKER,
                ),
                unit=COUNT,
                missing=_NO_WORKER,
            ),
            chart(
                "Foreign processes",
                "Compute processes on a GPU that the run did not start. They slow it down and use "
                "memory; nvidia-smi lists them.",
                Query("virnucpro_gpu_foreign_processes", GPU),
                unit=COUNT,
                colours=thresholds(NEUTRAL, (1, WARNING)),
                missing="not known",
            ),
            chart(
                "Errors of the NVIDIA library",
                "Failed driver queries by error code. Values that a GPU does not support are not "
                "errors.",
                Query(
                    "sum by (job, instance, gpu, code)"
                    " (increase(virnucpro_gpu_errors_total[$__rate_interval]))",
                    f"{GPU}, {{{{code}}}}",
                ),
                missing="none reported, or no data",
            ),
        ],
    )


def _files() -> Shelf:
    bucket = "rate(virnucpro_file_duration_seconds_bucket[$__rate_interval])"
    by = f"sum by ({BY_WORKER}, le)"
    spent = (
        f"sum by ({BY_WORKER}) (increase(virnucpro_file_duration_seconds_sum[$__range] @ end()))"
    )
    return Shelf(
        9,
        [
            dashed(
                chart(
                    "Time per file",
                    "Median and (dashed) 95th percentile of finished files. Depends on the sizes "
                    "of files and the speeds of GPUs.",
                    Query(
                        f"histogram_quantile(0.5, {by} ({bucket}))",
                        f"{WORKER}, p50",
                        _LONG,
                        rank=spent,
                    ),
                    Query(
                        f"histogram_quantile(0.95, {by} ({bucket}))",
                        f"{WORKER}, p95",
                        _LONG,
                        rank=spent,
                    ),
                    unit="s",
                    missing="no file has ended",
                ),
                "/p95$/",
            ),
            durations(
                "Files by duration",
                "Distribution of processing times. Dots are single files with their names; they "
                "need exemplar storage in Prometheus.",
                Query(
                    "sum by (le)"
                    " (increase(virnucpro_file_duration_seconds_bucket[$__rate_interval]))",
                    "{{le}}",
                ),
                "no file has ended",
            ),
        ],
        title="Files",
    )


def _identity() -> Shelf:
    labels = {
        "instance": "Instance",
        "gpu": "GPU",
        "node": "Node",
        "name": "Model",
        "uuid": "UUID",
        "pci_bus_id": "PCI bus id",
        "driver_version": "Driver",
        "cuda_version": "CUDA",
        "mig_profile": "MIG profile",
        "persistence": "Persistence",
        "ecc": "ECC",
    }
    known = f"sum by (job, {', '.join(labels)}) (virnucpro_gpu_info)"
    answers = f"{known} * on (job, instance, gpu) group_left () {GPU_STATE}"
    return Shelf(
        7,
        [
            table(
                "Identity",
                "Identity of each GPU: the id is that of nvidia-smi; a MIG slice follows a colon, "
                "and in a run on a Dask cluster the node precedes it.",
                [Column("State", answers, states=GPU_STATES)],
                {name: Label(title) for name, title in labels.items()},
                missing=_NO_GPU,
            ),
        ],
    )
