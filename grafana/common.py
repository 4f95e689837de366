"""Queries that more than one dashboard needs."""

from __future__ import annotations

from grafana.limits import limit
from grafana.queries import BY_RUN, BY_WORKER, RUNNING
from grafana.style import NEUTRAL, WARNING, thresholds

_AGE_OF_GPUS = 'time() - virnucpro_collector_last_success_timestamp_seconds{collector="gpu"}'
# Where the sampler has no GPUs at all, none is lost: they are unknown.
LOST = (
    f"((virnucpro_gpu_up == 0) unless on (job, instance) ({_AGE_OF_GPUS} > {limit('GpuLost'):g}))"
)
# A run and `serve` on one machine both report a lost GPU; by its UUID it counts once.
LOST_ONCE = f"count(count by (uuid) (virnucpro_gpu_info and on (job, instance, gpu) {LOST}))"
GPUS_ONCE = "count(count by (uuid) (virnucpro_gpu_info))"
# 0 where GPUs are known and none is lost; nothing where none is known.
LOST_OR_NONE = (
    f"{LOST_ONCE} or 0 * count(virnucpro_gpu_up unless on (job, instance)"
    f" ({_AGE_OF_GPUS} > {limit('GpuLost'):g}))"
)
UNKNOWN = f"(({_AGE_OF_GPUS} > {limit('GpusUnknown'):g}) and on (job, instance) virnucpro_gpu_up)"

# A code for GPU_STATES.
GPU_STATE = (
    "min by (job, instance, gpu) ("
    f"{LOST}"
    f" or (virnucpro_gpu_up and on (job, instance) {UNKNOWN}) * 0 + 1"
    " or (virnucpro_gpu_up == 1) + 1"
    ")"
)
# Of the reasons for which clocks are held down, those that are faults.
HELD_DOWN = (
    'virnucpro_gpu_throttled{reason=~"sw_thermal_slowdown|hw_thermal_slowdown'
    '|hw_power_brake_slowdown"}'
)

STARVED = "rate(virnucpro_worker_starved_seconds_total[$__rate_interval])"
STARVES = thresholds(NEUTRAL, (limit("LoadImbalance"), WARNING))

# The learned speed, over the median of the GPUs of the same model in the same run.
_NAMES = "max by (job, instance, gpu, name) (virnucpro_gpu_info)"
_SPEED = (
    f"sum by ({BY_WORKER}, name) (virnucpro_worker_speed_residues_per_second"
    f" * on (job, instance, gpu) group_left (name) {_NAMES})"
)
RELATIVE_SPEED = (
    f"sum by ({BY_WORKER}) ({_SPEED} / on ({BY_RUN}, name) group_left ()"
    f" quantile by ({BY_RUN}, name) (0.5, {_SPEED}))"
)

# A code for WORKER_STATES: the worst of what holds now, so that the least are the problems.
WORKER_STATE = (
    f"min by ({BY_WORKER}) ("
    f"virnucpro_worker_up * 0 and on (job, instance, gpu) {LOST}"
    f" or (virnucpro_worker_up == 0) + 1 and {RUNNING}"
    " or (virnucpro_worker_stalled == 1) + 1"
    f" or ({RELATIVE_SPEED} < {limit('GpuStraggler'):g}) * 0 + 3"
    f" or ({STARVED} > {limit('LoadImbalance'):g}) * 0 + 4"
    " or (virnucpro_worker_up == 0) + 5"
    " or (virnucpro_worker_loading == 1) + 5"
    " or (virnucpro_worker_inflight_files == 0) + 5"
    " or (virnucpro_worker_inflight_files > bool 0) + 6"
    ")"
)
# Only while work is in hand: a worker that has nothing to do makes no progress, and rightly so.
_AT_WORK = (
    f"on ({BY_WORKER}) (virnucpro_worker_inflight_files > 0 or virnucpro_queue_depth_files > 0)"
)
# At the time of the scrape, as the rules count it: up to now it would count the wait for the next
# one, too.
_PROGRESS = "virnucpro_worker_last_progress_timestamp_seconds"
SINCE_PROGRESS = f"sum by ({BY_WORKER}) (timestamp({_PROGRESS}) - {_PROGRESS} and {_AT_WORK})"
# At 1 the worker has stalled, by its run's own threshold and deadline.
OF_SILENCE_ALLOWED = (
    f"sum by ({BY_WORKER}) ((timestamp({_PROGRESS}) - {_PROGRESS})"
    f" / (virnucpro_worker_stall_deadline_timestamp_seconds - {_PROGRESS} > 0) and {_AT_WORK})"
)


def verdict(by: str = "") -> str:
    """A code for VERDICTS: the worst that applies.

    Args:
        by: The labels that distinguish runs; empty: of all together.
    """
    failed = 'virnucpro_run_files{state="failed"}'
    said = (
        '(virnucpro_run_state{state="failed"} == 1) * 7',
        "(virnucpro_run_held == 1) * 6",
        f"virnucpro_worker_up * 0 + 5 and on (job, instance, gpu) {LOST} and {RUNNING}",
        f"(virnucpro_worker_up == 0) + 5 and {RUNNING}",
        "(virnucpro_worker_stalled == 1) * 4",
        f"({STARVED} > {limit('LoadImbalance'):g}) * 0 + 3",
        f"({failed} > 0) * 0 + 2",
        'virnucpro_run_state{state=~"starting|running|draining"} == 1',
        '(virnucpro_run_state{state="completed"} == 1) * 0',
    )
    grouped = f"max by ({by}) " if by else "max"
    return f"{grouped}({' or '.join(said)})"


# A code for RUN_STATES.
RUN_STATE = (
    f"max by ({BY_RUN}) ("
    + " or ".join(
        [
            f'(virnucpro_run_result{{result="{result}"}} == 1) * {code}'
            for code, result in enumerate(("failed", "vanished", "interrupted", "completed"), 1)
        ]
        + [
            f'(virnucpro_run_state{{state="{state}"}} == 1) * {code} unless on ({BY_RUN})'
            " virnucpro_run_end_timestamp_seconds"
            for code, state in enumerate(("starting", "running", "draining"), 5)
        ]
    )
    + ")"
)
