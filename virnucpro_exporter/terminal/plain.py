"""A run in log lines, for pipes, CI and batch systems: the table's facts, and what happened."""

from __future__ import annotations

import logging

from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot, WorkerState
from virnucpro_exporter.terminal.views import worker_label
from virnucpro_exporter.text import clean, format_duration, format_number, format_percent


def describe_run(run: RunSnapshot, gpus: GpuSnapshot) -> str:
    """One line for the run, and one indented line for each worker."""
    ended = run.files_completed + run.files_failed
    head = (
        f"{run.state.value}: {ended}/{run.files_total} files, {run.files_failed} failed, "
        f"{format_number(run.throughput)} seq/s, ETA {format_duration(run.eta_seconds)}"
        f"{', queues IMBALANCED' if run.load_imbalanced else ''}"
    )
    devices = {device.gpu: device for device in gpus.devices}
    lines = [head]
    for worker in run.workers:
        device = devices.get(worker.gpu)
        sample = device.sample if device and device.up else None
        lines.append(
            f"  gpu {worker.gpu}: {worker_label(worker, device)}, "
            f"compute {format_percent(sample.utilization_ratio if sample else None)}, "
            f"memory {format_percent(sample.memory_ratio if sample else None)}, "
            f"{format_number(worker.throughput)} seq/s, {worker.queue_depth} queued, "
            f"{worker.files_completed} done, stolen by/from "
            f"{worker.work_stolen_to}/{worker.work_stolen_from}"
        )
    return "\n".join(lines)


def describe_changes(before: RunSnapshot | None, after: RunSnapshot) -> list[tuple[int, str]]:
    """Steals, stalls and lost workers between two snapshots, each with its logging level."""
    seen = set(before.recent_steals) if before else set()
    stalled = set(before.stalled) if before else set()
    lost = _lost(before) if before else set()
    return [
        *(
            (
                logging.INFO,
                f"gpu {event.dest_gpu} stole {clean(event.file_name)} from {event.source_gpu}",
            )
            for event in after.recent_steals
            if event not in seen
        ),
        *((logging.WARNING, f"gpu {gpu} STALLED") for gpu in after.stalled if gpu not in stalled),
        *(
            (logging.INFO, f"gpu {gpu} is no longer stalled")
            for gpu in sorted(stalled - set(after.stalled))
        ),
        *((logging.WARNING, f"gpu {gpu} lost its worker") for gpu in sorted(_lost(after) - lost)),
    ]


def _lost(run: RunSnapshot) -> set[str]:
    return {worker.gpu for worker in run.workers if worker.state is WorkerState.LOST}
