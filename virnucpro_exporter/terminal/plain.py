"""A run in log lines, for pipes, CI and batch systems: the table's facts in one line."""

from __future__ import annotations

import logging

from virnucpro_exporter.overview.findings import notices, warnings
from virnucpro_exporter.overview.rows import OVER, worker_rows
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot, WorkerState
from virnucpro_exporter.text import (
    clean,
    counted,
    device_noun,
    format_duration,
    format_rate,
    format_time,
)


def describe_run(run: RunSnapshot, gpus: GpuSnapshot, now: float) -> tuple[int, str]:
    """One line for the run, however many GPUs it has: those with trouble are named.

    Args:
        run: The run.
        gpus: What the GPUs answer.
        now: Unix seconds.

    Returns:
        The level of `logging`, a warning where something is wrong, and the line.
    """
    ended = run.files_completed + run.files_failed
    wrong = warnings(run, worker_rows(run, gpus), now)
    busy = sum(worker.state is WorkerState.BUSY for worker in run.workers)
    noun = device_noun(worker.gpu for worker in run.workers)
    facts = [
        f"{run.state_label}: {ended}/{run.files_total} files ({run.percent_done}%)",
        *([f"{run.parts_completed}/{run.parts_total} parts"] if run.parts_total else []),
        f"{run.files_failed} failed",
        *([] if run.state in OVER else [f"{busy} of {counted(len(run.workers), noun)} busy"]),
        format_rate(run.throughput, run.residue_throughput),
        counted(sum(count for _, count in run.steals), "steal"),
        _time(run, now),
        *map(clean, wrong),
        *notices(run),
    ]
    return logging.WARNING if wrong else logging.INFO, ", ".join(facts)


def _time(run: RunSnapshot, now: float) -> str:
    if run.state in OVER:
        return f"took {format_duration(run.elapsed_seconds)}"
    if run.estimated_completion_timestamp is None:
        return "ETA -"
    end = format_time(run.estimated_completion_timestamp, now)
    return f"ETA {format_duration(run.eta_seconds)} ({end})"
