"""A run in log lines, for pipes, CI and batch systems: the table's facts, and what happened."""

from __future__ import annotations

from virnucpro_exporter.overview.findings import notices, warnings
from virnucpro_exporter.overview.rows import Row, worker_rows
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot
from virnucpro_exporter.text import (
    clean,
    format_duration,
    format_percent,
    format_rate,
    format_time,
)


def describe_run(run: RunSnapshot, gpus: GpuSnapshot, now: float) -> list[str]:
    """One line for the run, and one indented line for each worker.

    Args:
        run: The run.
        gpus: What the GPUs answer.
        now: Unix seconds.
    """
    rows = worker_rows(run, gpus)
    ended = run.files_completed + run.files_failed
    eta = format_duration(run.eta_seconds)
    if run.estimated_completion_timestamp is not None:
        eta += f" ({format_time(run.estimated_completion_timestamp, now)})"
    head = [
        f"{run.state_label}: {ended}/{run.files_total} files",
        f"{run.files_failed} failed",
        format_rate(run.throughput, run.residue_throughput),
        f"ETA {eta}",
        *map(clean, warnings(run, rows, now)),
        *notices(run),
    ]
    return [", ".join(head), *map(_describe, rows)]


def _describe(row: Row) -> str:
    worker, sample = row.worker, row.sample
    return (
        f"  GPU {clean(worker.gpu)}: {row.label}{' ' + row.work if row.work else ''}, "
        f"compute {format_percent(sample.utilization_ratio if sample else None)}, "
        f"memory {format_percent(sample.memory_ratio if sample else None)}, "
        f"{format_rate(worker.throughput, worker.residue_throughput)}, "
        f"{worker.queue_depth} queued, {worker.files_completed} done, stolen by/from "
        f"{worker.work_stolen_to}/{worker.work_stolen_from}"
    )


def describe_steals(before: RunSnapshot | None, after: RunSnapshot) -> list[str]:
    """The steals between two snapshots, in the words of the run's own events."""
    seen = set(before.recent_steals) if before else set()
    return [
        f"GPU {clean(event.dest_gpu)} stole {clean(event.file_name) or 'a file'}"
        f" from GPU {clean(event.source_gpu)}"
        for event in after.recent_steals
        if event not in seen
    ]
