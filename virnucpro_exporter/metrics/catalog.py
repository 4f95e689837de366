"""Every metric, once: its name, type, meaning and labels.

The collectors, the reference in docs/metrics.md, the dashboards and the rules all start from here.
Names end in a base unit where the value has one, counters in `_total`, and no label is unbounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from virnucpro_exporter.snapshot import (
    DURATION_BUCKETS,
    ECC_KINDS,
    RECOVERY_ACTIONS,
    THROTTLE_POLICIES,
    THROTTLE_REASONS,
    RunResult,
    RunState,
)

PREFIX = "virnucpro_"
UNITS = ("seconds", "bytes", "ratio", "celsius", "watts", "joules", "hertz")
DIRECTIONS = ("receive", "transmit")
RUN_STATES = tuple(state.value for state in RunState)
RUN_RESULTS = tuple(result.value for result in RunResult)
FILE_STATES = ("queued", "processing", "completed", "failed")
PART_STATES = ("queued", "processing", "completed")
COLLECTORS = ("gpu", "run", "log")
# The metrics of prometheus_client itself about this process; served beside the catalogue.
PROCESS_METRICS = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "python_info",
)

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric family.

    Attributes:
        section: Under which heading it is documented.
        name: Full name, as in a query; a histogram's without `_bucket`, `_count` or `_sum`.
        kind: Its type.
        help: Its meaning in one sentence.
        labels: Label names, in the order in which values are given.
        values: The values of a label that is an enumeration.
    """

    section: str
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The name of the family in OpenMetrics: a counter's without `_total`."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """The base unit the name ends in, or an empty string where it has none."""
        last = self.family.rpartition("_")[2]
        return last if last in UNITS else ""


class _Section:
    """Enters metrics into `CATALOG` under one heading."""

    def __init__(self, title: str) -> None:
        self._title = title

    def _add(self, kind: Kind, name: str, text: str, labels: tuple[str, ...]) -> Metric:
        """Enter one metric; a label may carry its values, as in `state=queued,failed`."""
        split = [label.partition("=") for label in labels]
        values = {label: tuple(listed.split(",")) for label, _, listed in split if listed}
        names = tuple(label for label, _, _ in split)
        metric = Metric(self._title, PREFIX + name, kind, text, names, values)
        CATALOG.append(metric)
        return metric

    def gauge(self, name: str, text: str, *labels: str) -> Metric:
        return self._add("gauge", name, text, labels)

    def counter(self, name: str, text: str, *labels: str) -> Metric:
        return self._add("counter", name, text, labels)

    def histogram(self, name: str, text: str, *labels: str) -> Metric:
        return self._add("histogram", name, text, labels)


CATALOG: list[Metric] = []
BUCKETS = (*(str(bound) for bound in DURATION_BUCKETS), "+Inf")


def _enum(label: str, values: tuple[str, ...]) -> str:
    return f"{label}={','.join(values)}"


_run = _Section("Run")
BUILD_INFO = _run.gauge(
    "build_info",
    "Constant 1; versions of the exporter, Python and nvitop.",
    "version",
    "python_version",
    "nvitop_version",
)
RUN_INFO = _run.gauge(
    "run_info",
    "Constant 1; identity, processor and balancer of the run.",
    "run_id",
    "processor",
    "balancer",
)
RUN_STATE = _run.gauge(
    "run_state", "1 for the current state of the run, 0 for the others.", _enum("state", RUN_STATES)
)
RUN_START = _run.gauge("run_start_timestamp_seconds", "Unix time at which the run started.")
RUN_COMPLETION = _run.gauge(
    "run_estimated_completion_timestamp_seconds",
    "Estimated end of the run, Unix time; absent until the first progress.",
)
RUN_FILES = _run.gauge(
    "run_files", "Input files by state; the sum is all input files.", _enum("state", FILE_STATES)
)
RUN_PARTS = _run.gauge(
    "run_parts",
    "Parts of files shared by several workers, by state; the sum is all such parts.",
    _enum("state", PART_STATES),
)
RUN_SKIPPED = _run.gauge("run_files_skipped", "Completed files that an earlier run had finished.")
RUN_RESIDUES = _run.gauge(
    "run_residues",
    "Residues of the input files, counted or estimated; `left` is absent until all are known.",
    "state=done,left",
)
RUN_PROGRESS = _run.gauge(
    "run_progress_ratio",
    "Completed share of the work, weighted by expected processing time.",
)
RUN_HELD = _run.gauge(
    "run_held", "1 while the run starts no files because the disk is full or fails."
)
RUN_END = _run.gauge(
    "run_end_timestamp_seconds", "Unix time at which the run ended; absent before the end."
)
RUN_RESULT = _run.gauge(
    "run_result",
    "1 for the result of the run, 0 for the others; absent before the end. Vanished: killed.",
    _enum("result", RUN_RESULTS),
)
LOAD_IMBALANCED = _run.gauge("load_imbalanced", "1 while the queue depths are imbalanced.")
WORK_IMBALANCED = _run.gauge(
    "work_imbalanced", "1 while workers would finish at very different times if no file moved."
)

_work = _Section("Work by GPU")
FILES_COMPLETED = _work.counter(
    "files_completed_total",
    "Files completed by this GPU; a file in parts counts for the GPU that joined it.",
    "gpu",
)
PARTS_COMPLETED = _work.counter(
    "parts_completed_total", "Parts of shared files completed by this GPU.", "gpu"
)
FILE_FAILURES = _work.counter(
    "file_failures_total", "Attempts at files and parts that failed.", "gpu"
)
FILE_RETRIES = _work.counter("file_retries_total", "Retries after failed attempts.")
FILE_DURATION = _work.histogram(
    "file_duration_seconds",
    "Processing time of completed files; each part of a shared file counts separately.",
    "gpu",
)
SEQUENCES = _work.counter(
    "sequences_processed_total", "Sequences processed; grows within a file.", "gpu"
)
RESIDUES = _work.counter(
    "residues_processed_total", "Bases or amino acids processed; grows within a file.", "gpu"
)
THROUGHPUT = _work.gauge(
    "throughput_sequences_per_second",
    "Sequences per second over the last 60 s with progress, else the last 10 files; 0 in a stall.",
    "gpu",
)
RESIDUE_THROUGHPUT = _work.gauge(
    "throughput_residues_per_second",
    "Residues per second, measured likewise; also known where sequences are not counted.",
    "gpu",
)
QUEUE_FILES = _work.gauge(
    "queue_depth_files", "Files and parts waiting in the queue, without the one in process.", "gpu"
)
QUEUE_RESIDUES = _work.gauge(
    "queue_depth_residues", "Residues of the waiting files and parts.", "gpu"
)

_worker = _Section("Workers")
WORKER_UP = _worker.gauge(
    "worker_up", "1 while the worker process is alive, including while it loads.", "gpu"
)
WORKER_LOADING = _worker.gauge(
    "worker_loading",
    "1 while the worker process sets up its processor, such as loading a model.",
    "gpu",
)
LEARNED_SPEED = _worker.gauge(
    "worker_speed_residues_per_second",
    "Measured speed, used to assign files; absent before the first measurement.",
    "gpu",
)
WORKER_LEFT = _worker.gauge(
    "worker_left_seconds",
    "Expected time to finish the current and queued files; absent while unknown.",
    "gpu",
)
WORKER_INFLIGHT = _worker.gauge(
    "worker_inflight_files", "Files and parts assigned to the worker and not yet finished.", "gpu"
)
WORKER_FILE_AGE = _worker.gauge(
    "worker_file_seconds",
    "Time spent so far on the current file or part; absent without one.",
    "gpu",
)
WORKER_RANGE = _worker.gauge(
    "worker_range_ratio",
    "Range of the current part within its file, by residues; 0 to 1 for a whole file.",
    "gpu",
    "edge=begin,end",
)
WORKER_RANGE_DONE = _worker.gauge(
    "worker_range_done_ratio",
    "Completed share of the current file or part; absent before the first progress report.",
    "gpu",
)
WORKER_FILE = _worker.gauge(
    "worker_file_info",
    "Constant 1; the current file, once it takes a minute or a fifth of the stall threshold.",
    "gpu",
    "file",
)
WORKER_BUSY = _worker.counter(
    "worker_busy_seconds_total", "Time with a file or part in progress.", "gpu"
)
WORKER_STARVED = _worker.counter(
    "worker_starved_seconds_total", "Time idle while files waited in another queue.", "gpu"
)
WORKER_PROGRESS = _worker.gauge(
    "worker_last_progress_timestamp_seconds",
    "Unix time of the last file start, progress report or file end; absent before the first.",
    "gpu",
)
WORKER_STALLED = _worker.gauge(
    "worker_stalled",
    "1 while the worker has files and made no progress before its deadline.",
    "gpu",
)
STALL_DEADLINE = _worker.gauge(
    "worker_stall_deadline_timestamp_seconds",
    "Unix time after which lack of progress is a stall or a setup timeout; absent without work.",
    "gpu",
)
WORKER_STALLS = _worker.counter("worker_stalls_total", "Stalls.", "gpu")
WORKER_STALLED_SECONDS = _worker.counter(
    "worker_stalled_seconds_total", "Time spent stalled.", "gpu"
)
STALL_THRESHOLD = _worker.gauge(
    "worker_stall_threshold_seconds",
    "Time without progress after which a worker counts as stalled.",
)
WORKER_RESTARTS = _worker.counter("worker_restarts_total", "Restarts of the worker process.", "gpu")
MEMORY_SHORTAGES = _worker.counter(
    "worker_memory_shortages_total",
    "Batches of the built-in models that ran out of GPU memory.",
    "gpu",
)

_steals = _Section("Work stealing")
STEALS = _steals.counter(
    "steals_total",
    "Files and parts stolen; the label `victim` is empty beyond 16 GPUs.",
    "victim",
    "thief",
)
STOLEN_RESIDUES = _steals.counter(
    "stolen_residues_total",
    "Residues of stolen files and parts; the label `victim` is empty beyond 16 GPUs.",
    "victim",
    "thief",
)
FILES_STOLEN_FROM = _steals.counter(
    "files_stolen_from_total", "Files and parts stolen from the queue of this GPU.", "gpu"
)
RESIDUES_STOLEN_FROM = _steals.counter(
    "residues_stolen_from_total",
    "Residues of files and parts stolen from the queue of this GPU.",
    "gpu",
)
STEAL_ATTEMPTS = _steals.counter(
    "steal_attempts_total", "Steal attempts of this GPU with an empty queue.", "gpu"
)
STEAL_FAILURES = _steals.counter(
    "steal_failures_total",
    "Steal attempts without a file: none was waiting, or a faster GPU keeps it.",
    "gpu",
    "reason=empty,declined",
)
RESTEALS = _steals.counter("file_resteals_total", "Steals of files that had been stolen before.")
SECOND_ATTEMPTS = _steals.counter(
    "second_attempts_total",
    "Second attempts at a file in process, by the GPU that made them.",
    "gpu",
    "outcome=won,lost",
)
ATTEMPTS_MOVED = _steals.counter(
    "attempts_moved_total",
    "Files in process that moved from this GPU to a faster one.",
    "gpu",
)
PLAN_CHANGES = _steals.counter(
    "plan_changes_total",
    "New assignments of files because measured speeds differed from expected ones.",
)
LATE_RESULTS = _steals.counter("late_results_total", "Discarded results of outdated attempts.")

_gpu = _Section("GPUs")
GPU_INFO = _gpu.gauge(
    "gpu_info",
    "Constant 1; identity of the GPU.",
    "gpu",
    "uuid",
    "name",
    "pci_bus_id",
    "driver_version",
    "cuda_version",
    "mig_profile",
    "persistence",
    "ecc",
    "node",
)
GPU_UP = _gpu.gauge("gpu_up", "1 if the GPU answered the latest query.", "gpu")
GPU_UTILIZATION = _gpu.gauge(
    "gpu_utilization_ratio", "Share of time with a kernel running (compute utilisation).", "gpu"
)
GPU_MEMORY_USED = _gpu.gauge("gpu_memory_used_bytes", "Memory in use.", "gpu")
GPU_MEMORY_SIZE = _gpu.gauge("gpu_memory_size_bytes", "Memory installed.", "gpu")
GPU_TEMPERATURE = _gpu.gauge("gpu_temperature_celsius", "Temperature of the die.", "gpu")
GPU_POWER = _gpu.gauge("gpu_power_watts", "Power drawn.", "gpu")
GPU_POWER_LIMIT = _gpu.gauge("gpu_power_limit_watts", "Enforced power limit.", "gpu")
GPU_ENERGY = _gpu.counter(
    "gpu_energy_joules_total", "Energy used since the driver was loaded.", "gpu"
)
GPU_SM_CLOCK = _gpu.gauge("gpu_sm_clock_hertz", "Clock of the streaming multiprocessors.", "gpu")
GPU_THROTTLED = _gpu.gauge(
    "gpu_throttled",
    "1 while the clocks are throttled for this reason.",
    "gpu",
    _enum("reason", THROTTLE_REASONS),
)
GPU_FOREIGN = _gpu.gauge(
    "gpu_foreign_processes", "Compute processes not started by a run on this machine.", "gpu"
)
GPU_ERRORS = _gpu.counter("gpu_errors_total", "NVML errors by code name.", "gpu", "code")
GPU_MEMORY_COPY = _gpu.gauge(
    "gpu_memory_copy_ratio", "Share of time in which device memory was read or written.", "gpu"
)
GPU_MEMORY_CLOCK = _gpu.gauge("gpu_memory_clock_hertz", "Clock of the memory.", "gpu")
GPU_SM_CLOCK_MAX = _gpu.gauge(
    "gpu_sm_clock_max_hertz", "Maximum clock of the streaming multiprocessors.", "gpu"
)
GPU_MEMORY_CLOCK_MAX = _gpu.gauge(
    "gpu_memory_clock_max_hertz", "Maximum clock of the memory.", "gpu"
)
GPU_MEMORY_TEMPERATURE = _gpu.gauge(
    "gpu_memory_temperature_celsius", "Temperature of the memory.", "gpu"
)
GPU_FAN = _gpu.gauge("gpu_fan_ratio", "Fan speed relative to its intended maximum.", "gpu")
GPU_STATE = _gpu.gauge(
    "gpu_performance_state", "Performance state (P-state), from 0 (fastest) to 15 (slowest).", "gpu"
)
GPU_THROTTLED_SECONDS = _gpu.counter(
    "gpu_throttled_seconds_total",
    "Time throttled by a policy since the driver was loaded.",
    "gpu",
    _enum("policy", THROTTLE_POLICIES),
)
GPU_XIDS = _gpu.counter(
    "gpu_xid_errors_total",
    "XID errors reported by the driver since the exporter started.",
    "gpu",
    "xid",
)
GPU_XID_LAST = _gpu.gauge(
    "gpu_xid_last_timestamp_seconds",
    "Unix time of the latest XID error with this code.",
    "gpu",
    "xid",
)
GPU_ECC = _gpu.counter(
    "gpu_ecc_errors_total",
    "ECC memory errors since the driver was loaded (volatile).",
    "gpu",
    _enum("type", ECC_KINDS),
)
GPU_ECC_LIFETIME = _gpu.counter(
    "gpu_ecc_lifetime_errors_total",
    "ECC memory errors over the lifetime of the GPU (aggregate).",
    "gpu",
    _enum("type", ECC_KINDS),
)
GPU_REMAPPED_ROWS = _gpu.gauge(
    "gpu_remapped_rows",
    "Remapped memory rows, by the kind of error that caused the remapping.",
    "gpu",
    _enum("cause", ECC_KINDS),
)
GPU_REMAP_PENDING = _gpu.gauge(
    "gpu_row_remap_pending", "1 while a row remapping is pending a GPU reset.", "gpu"
)
GPU_REMAP_FAILED = _gpu.gauge(
    "gpu_row_remap_failed", "1 if a memory row could not be remapped.", "gpu"
)
GPU_RETIRED_PAGES = _gpu.gauge(
    "gpu_retired_pages",
    "Retired memory pages, by the kind of error that caused the retirement.",
    "gpu",
    "cause=single_bit,double_bit",
)
GPU_RETIREMENT_PENDING = _gpu.gauge(
    "gpu_retired_pages_pending", "1 while page retirements are pending a GPU reset.", "gpu"
)
GPU_RECOVERY = _gpu.gauge(
    "gpu_recovery_action",
    "1 for the recovery action that the driver recommends, 0 for the others.",
    "gpu",
    _enum("action", RECOVERY_ACTIONS),
)
GPU_PCIE = _gpu.gauge(
    "gpu_pcie_bytes_per_second",
    "PCIe traffic over the last 20 ms (with --gpu-links).",
    "gpu",
    _enum("direction", DIRECTIONS),
)
GPU_PCIE_REPLAYS = _gpu.counter("gpu_pcie_replays_total", "PCIe replays (with --gpu-links).", "gpu")
GPU_NVLINK = _gpu.counter(
    "gpu_nvlink_bytes_total",
    "NVLink traffic, all links (with --gpu-links).",
    "gpu",
    _enum("direction", DIRECTIONS),
)
GPU_NVLINK_ERRORS = _gpu.counter(
    "gpu_nvlink_errors_total",
    "NVLink errors, all links (with --gpu-links).",
    "gpu",
    "type=crc,replay,recovery",
)
GPU_PROCESS_MEMORY = _gpu.gauge(
    "gpu_process_memory_bytes",
    "GPU memory used by a compute process (with --gpu-processes).",
    "gpu",
    "pid",
    "process",
    "user",
)
GPU_MONITOR_INFO = _gpu.gauge(
    "gpu_monitor_info",
    "Constant 1; source of the GPU values.",
    "backend=nvitop,nvidia-smi,simulated,none",
)

_health = _Section("Exporter")
ENDPOINT_LINGER = _health.gauge(
    "endpoint_linger_seconds",
    "Longest time that a run's endpoint stays up after the end for a final scrape.",
)
COLLECTOR_SUCCESS = _health.gauge(
    "collector_success",
    "1 if the latest pass of this collector succeeded.",
    _enum("collector", COLLECTORS),
)
COLLECTOR_DURATION = _health.gauge(
    "collector_duration_seconds",
    "Duration of the latest pass.",
    _enum("collector", COLLECTORS),
)
COLLECTOR_LAST_SUCCESS = _health.gauge(
    "collector_last_success_timestamp_seconds",
    "Unix time of the latest successful pass.",
    _enum("collector", COLLECTORS),
)
COLLECTOR_FAILURES = _health.counter(
    "collector_failures_total", "Failed passes.", _enum("collector", COLLECTORS)
)
