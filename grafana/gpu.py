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
        "What each GPU does, what slows it, and how work moves between them.",
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
                "GPUs that are known; one that a run and `serve` both see counts once.",
                Query(GPUS_ONCE),
                missing=_NO_GPU,
            ),
            stat(
                "Lost",
                "GPUs that do not answer, each counted once. Where the sampler knows nothing of "
                "any GPU, none is lost: they are not known. Wanted: 0.",
                Query(LOST_OR_NONE),
                colours=none_wanted,
                missing="no GPU is known",
            ),
            warning_stat(
                "Held down",
                "GPUs whose clocks are held down by heat or the power brake. A power cap is normal "
                "under load and does not count.",
                Query(f"sum(max by (job, instance, gpu) ({HELD_DOWN}))"),
                missing="not known",
            ),
            stat(
                "Hottest",
                "The highest temperature of a die.",
                Query("max(virnucpro_gpu_temperature_celsius)"),
                unit="celsius",
                missing="not known",
            ),
            stat(
                "Slowest of its like",
                "Learned speed of the slowest GPU over the median of the GPUs of its model in the "
                "same run. Below one half VirnucproGpuStraggler will fire.",
                Query(f"min({RELATIVE_SPEED})"),
                unit="percentunit",
                colours=thresholds(WARNING, (limit("GpuStraggler"), GOOD)),
                missing="nothing learned yet",
                decimals=0,
            ),
            stat(
                "XID errors",
                "That the driver reported in the time shown. The table below has them by GPU.",
                Query("sum(increase(virnucpro_gpu_xid_errors_total[$__range]))"),
                colours=thresholds(GOOD, (0.5, WARNING)),
                missing="none since the start",
                decimals=0,
            ),
            stat(
                "Uncorrected memory errors",
                "That ECC found in the time shown.",
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
                "Busy: a file in process. Idle: nothing to do. Slow: less than half as fast as the "
                "GPUs of its model. Stalled: has files and makes no progress. GPU lost: the driver "
                "no longer answers for it. A gap is a time without data.",
                Query(WORKER_STATE, WORKER),
                WORKER_STATES,
                _NO_WORKER,
            ),
            timeline(
                "GPU state",
                "Whether the driver answers for each GPU. Not known: the sampler has heard of none "
                "for too long.",
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
                    "Since the last file start, progress report or file end, of workers that have "
                    "files. Above the dashed threshold a worker counts as stalled; one that never "
                    "reports progress may be silent for longer. Workers without files are not "
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
                "Stalls that began in the time shown.",
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
                "Files in the queue of each GPU, without the one in process. Queues that end "
                "at the same time are balanced, not queues of the same length.",
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
                "Where in its file",
                "The range of its file that is in process, and how far it is done. A whole file "
                "goes from 0 to 1; a part of one begins where another GPU stops.",
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
                "Share of time in which a kernel ran. A GPU that hangs may show 100 %: look "
                "at the time since progress, too.",
                Query("virnucpro_gpu_utilization_ratio", GPU),
                missing=_NO_GPU,
            ),
            share(
                "Memory in use",
                "Of the memory installed. A loaded model fills memory, and that is normal.",
                Query("virnucpro_gpu_memory_used_bytes / virnucpro_gpu_memory_size_bytes", GPU),
                colours=thresholds(NEUTRAL, (0.98, WARNING)),
                missing=_NO_GPU,
            ),
            dashed(
                chart(
                    "Power against limit",
                    "Power drawn; dashed is the limit that is enforced.",
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
                "Of the die. Most data centre GPUs slow down between 80 and 90 degrees.",
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
                "The gravest reason for which clocks are held down. A power cap is normal "
                "under load; heat and the power brake are not: check cooling and supply.",
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
                "What the driver knows about errors. Uncorrected errors, rows that could not be "
                "replaced and an action that is asked for need a person. Counts are since the "
                "driver was loaded, but for those of the GPU's life. An empty cell is a value that "
                "the GPU does not have.",
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
                    Column("Asks for", f"max by (job, instance, gpu) ({actions})", states=RECOVERY),
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
                "Of the memory, which is slowed down at about 95 degrees on data centre GPUs.",
                Query("virnucpro_gpu_memory_temperature_celsius", GPU),
                unit="celsius",
                colours=thresholds(NEUTRAL, (90, WARNING), (100, BAD)),
                missing="not known",
            ),
            share(
                "Memory traffic",
                "Share of the time in which memory was read or written. Near 100 % the memory, not "
                "the compute units, is the limit.",
                Query("virnucpro_gpu_memory_copy_ratio", GPU),
                missing="not known",
            ),
            share(
                "Clocks over the highest",
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
                "Fan speed over the highest one (left at 0 while it stands), and the P-state over "
                "15, the slowest: 0 is the fastest.",
                Query("virnucpro_gpu_fan_ratio", f"{GPU}, fan"),
                Query("virnucpro_gpu_performance_state / 15", f"{GPU}, P-state"),
                unit="percentunit",
                missing="not known",
            ),
            chart(
                "Time held down",
                "Share of the time for which a policy held the clocks down.",
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
                "Transfers over PCIe that were repeated, and errors of NVLink. A steady rate is a "
                "bad slot, riser or bridge.",
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
                "Files taken in this run: rows lost them, columns took them. One dark column "
                "is a fast GPU; one dark row is a slow or stalled one. Up to 16 GPUs.",
                Query('sum by (victim, thief) (virnucpro_steals_total{victim!=""})'),
                "victim",
                "thief",
                "no steals seen: there is no run, or it has one GPU, or more than 16",
            ),
            chart(
                "Net residues moved",
                "Residues that a GPU took, less those taken from it, since the run began. "
                "Rising lines take work over, falling ones give it away.",
                Query(f"{by} ({gained}) - {by} (virnucpro_residues_stolen_from_total)", WORKER),
                missing="no steals seen",
                limits=(None, None),
            ),
            dashed(
                share(
                    "Steal success",
                    "Share of the requests with an empty queue that got a file. Dashed are the "
                    "shares of all requests that got none: empty, as nothing waited, which is how "
                    "a run ends; declined, as a faster GPU would end the file sooner.",
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
                    missing="nobody asked for work",
                ),
                "/^all GPUs/",
            ),
            chart(
                "Time left",
                "Expected time until a GPU has done what it holds and what is queued for it.",
                Query(f"sum by ({BY_WORKER}) (virnucpro_worker_left_seconds)", WORKER),
                unit="s",
                missing="nothing learned yet",
            ),
            chart(
                "Speed of its like",
                "Learned speed over the median of the GPUs of its model in the same run. Below one "
                "half for long, VirnucproGpuStraggler fires.",
                Query(RELATIVE_SPEED, WORKER, least=True),
                unit="percentunit",
                colours=thresholds(WARNING, (limit("GpuStraggler"), NEUTRAL)),
                missing="nothing learned yet",
            ),
            chart(
                "Learned speed",
                "Residues per second, as seen so far: files are given out by it.",
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
                    "Files that an idle GPU did again because it would end them sooner: won if "
                    "it did, lost if it did not, over the time between two points.",
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
                "Files that others stole from the queue of a GPU, over the time between two "
                "points. One that keeps giving is slower than was believed, or stalled.",
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
                "Compute processes on a GPU that the run did not start. They slow it down and "
                "take memory; nvidia-smi names them.",
                Query("virnucpro_gpu_foreign_processes", GPU),
                unit=COUNT,
                colours=thresholds(NEUTRAL, (1, WARNING)),
                missing="not known",
            ),
            chart(
                "Errors of the NVIDIA library",
                "Queries that the driver refused, by the name of the code. A GPU that lacks "
                "a value is no error.",
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
                    "Median, and dashed the 95th percentile, of the files that ended. Different "
                    "sizes of files and speeds of GPUs both show here.",
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
                "How many files took how long. Dots are single files with their names; they "
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
                "Which GPU is which: the id is the one of nvidia-smi, for a slice of a GPU the "
                "slice follows the colon, and in a run on many machines the node stands before it.",
                [Column("State", answers, states=GPU_STATES)],
                {name: Label(title) for name, title in labels.items()},
                missing=_NO_GPU,
            ),
        ],
    )
