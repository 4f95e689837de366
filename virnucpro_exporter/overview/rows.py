"""The rows of every view: one worker each, beside its GPU."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from virnucpro_exporter.snapshot import (
    GpuDevice,
    GpuSample,
    GpuSnapshot,
    RunSnapshot,
    RunState,
    WorkerSnapshot,
    WorkerState,
)
from virnucpro_exporter.text import clean, format_duration

OVER = (RunState.COMPLETED, RunState.FAILED)

# What a person must see first when not all rows fit. What is wrong is in capitals.
# A GPU that is down explains the other two, so it comes first, as it holds back their alerts.
STALLED, LOST, DOWN = "STALLED", "LOST", "GPU DOWN"
WRONG = (DOWN, LOST, STALLED)
URGENCY = (*WRONG, "starved", "busy", "loading", "starting", "idle")


class Row(NamedTuple):
    """A worker beside its GPU, the word for what it does, and at what and for how long."""

    worker: WorkerSnapshot
    device: GpuDevice | None
    label: str
    work: str

    @property
    def sample(self) -> GpuSample | None:
        """What the GPU answered, if it did."""
        return self.device.sample if self.device is not None and self.device.up else None


def worker_rows(run: RunSnapshot, gpus: GpuSnapshot) -> list[Row]:
    """Every worker of the run beside its GPU, in their order."""
    devices = {device.gpu: device for device in gpus.devices}
    rows = []
    for worker in run.workers:
        label = worker_label(worker, devices.get(worker.gpu), run)
        work = current_work(worker, label, run.timestamp)
        rows.append(Row(worker, devices.get(worker.gpu), label, work))
    return rows


def worker_label(worker: WorkerSnapshot, device: GpuDevice | None, run: RunSnapshot) -> str:
    """The word for what a worker does, the worst news first."""
    if run.state in OVER:
        return "idle"
    if device is not None and not device.up:
        return DOWN
    if worker.state is WorkerState.LOST:
        return LOST
    if worker.is_stalled:
        return STALLED
    state: str = worker.state.value
    return state


def current_work(worker: WorkerSnapshot, label: str, now: float) -> str:
    """How long it has been at which file, `12s reads.fa`; of one that stalls, how long silent."""
    seconds, parts = worker.current_seconds, []
    if label == STALLED and worker.last_progress_time is not None:
        seconds = now - worker.last_progress_time
    if seconds is not None:
        parts.append(format_duration(seconds))
    if worker.current_file is not None:
        parts.append(clean(posixpath.basename(worker.current_file)))
    return " ".join(parts)
