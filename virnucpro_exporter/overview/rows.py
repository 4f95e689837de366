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
from virnucpro_exporter.text import clean, format_duration, format_percent, format_range

OVER = (RunState.COMPLETED, RunState.FAILED)

# What comes first when not all rows fit. What is wrong is in capitals.
# A GPU that is down explains the other two, so it comes first, as it holds back their alerts.
STALLED, LOST, DOWN = "STALLED", "LOST", "GPU DOWN"
WRONG = (DOWN, LOST, STALLED)
URGENCY = (*WRONG, "starved", "busy", "loading", "starting", "idle", "left")


class Row(NamedTuple):
    """A worker beside its GPU.

    Attributes:
        worker: The worker.
        device: Its GPU; None where none is watched.
        label: The word for what it does.
        lasting: For how long, `12s`; of a stall or an outage since its begin; empty if not known.
        file: The name of the file in process, without its folder; empty where there is none.
        done: How far it is, `39%`, or `39% of 62-81%` of a part that is that range of the file;
            empty where that is not known.
    """

    worker: WorkerSnapshot
    device: GpuDevice | None
    label: str
    lasting: str = ""
    file: str = ""
    done: str = ""

    @property
    def work(self) -> str:
        """For how long, and at which file, in one text: `12s reads.fa`."""
        joining = "joining" if self.worker.is_joining else ""
        return " ".join(filter(None, (self.lasting, joining, self.file)))

    @property
    def sample(self) -> GpuSample | None:
        """What the GPU answered, if it did."""
        return self.device.sample if self.device is not None and self.device.up else None


def worker_rows(run: RunSnapshot, gpus: GpuSnapshot) -> list[Row]:
    """Every worker of the run beside its GPU, in their order."""
    devices = {device.gpu: device for device in gpus.devices}
    rows = []
    for worker in run.workers:
        device = devices.get(worker.gpu)
        row = Row(worker, device, worker_label(worker, device, run))
        seconds = lasting(row, run.timestamp)
        file = clean(posixpath.basename(worker.current_file or ""))
        rows.append(
            row._replace(
                lasting="" if seconds is None else format_duration(seconds),
                file=file,
                done=done(worker),
            )
        )
    return rows


def done(worker: WorkerSnapshot) -> str:
    """How far a worker is in the range that it has in process, in words."""
    part = worker.current_part
    told = [] if worker.current_ratio is None else [format_percent(worker.current_ratio)]
    if part is not None:
        told.append(format_range(*part))
    return " of ".join(told)


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


def lasting(row: Row, now: float) -> float | None:
    """Seconds for which a worker has done what it does, or its GPU has been down, at `now`."""
    worker, device = row.worker, row.device
    if row.label == DOWN and device is not None:
        answered = device.last_answer_timestamp
        return None if answered is None else max(now - answered, 0.0)
    if row.label == STALLED and worker.last_progress_time is not None:
        return now - worker.last_progress_time
    return worker.current_seconds
