"""Queries that more than one dashboard needs."""

from __future__ import annotations

from grafana.queries import RUNNING

# A code for WORKER_STATES: the worst of what holds now.
WORKER_STATE = (
    "sum by (job, instance, gpu) ("
    "(virnucpro_gpu_up == 0)"
    f" or ((virnucpro_worker_up == 0) and {RUNNING}) + 1"
    " or (virnucpro_worker_stalled == 1) + 1"
    " or (virnucpro_worker_loading == 1) + 4"
    " or (virnucpro_worker_inflight_files > bool 0) + 3"
    ")"
)
# Only while work is in hand: a worker that has nothing to do makes no progress, and rightly so.
SINCE_PROGRESS = (
    "sum by (job, instance, gpu) ("
    "(time() - virnucpro_worker_last_progress_timestamp_seconds)"
    " and on (job, instance, gpu)"
    " (virnucpro_worker_inflight_files > 0 or virnucpro_queue_depth_files > 0)"
    ")"
)
