"""The persistent log of a run's metrics: CSV, one row per GPU and interval.

The file is opened for each interval, so a folder that vanishes and comes back, or a file that
someone else rotated, needs no special case. All rows of an interval go out in one write to a file
opened for appending: a kill at any moment leaves whole lines only.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from virnucpro_exporter.errors import OutputError
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, Latest, RunSnapshot

# The header of earlier versions, whose logs are still read.
FIRST_HEADER = "timestamp,gpu_id,sequences_per_sec,compute_percent,memory_percent\n"
HEADER = FIRST_HEADER.rstrip() + ",residues_per_sec,power_watts\n"
KEPT_FILES = 3  # rotated logs, `.1` the newest

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends the metrics of a run to a CSV file; a fault is counted and never raised.

    Args:
        path: The file; its folder must exist by the time of a write.
        max_bytes: Size beyond which the file is renamed to `PATH.1` and a new one begun.
        clock: Monotonic seconds, to time a write.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = 50_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._clock = clock
        self._health = Latest(CollectorHealth())

    def latest(self) -> CollectorHealth:
        """How writing fares."""
        return self._health.latest()

    def write(self, run: RunSnapshot, gpus: GpuSnapshot, now: float) -> None:
        """Append one row for each GPU.

        Args:
            run: The run.
            gpus: What the GPUs answer.
            now: Unix seconds, the timestamp of the rows.
        """
        began, before = self._clock(), self._health.latest()
        try:
            self._append(format_rows(run, gpus, now).encode())
        except (OSError, OutputError) as error:
            reason = str(error)
            if before.success is not False:
                logger.warning("cannot write the metrics log, will keep trying: %s", reason)
            health = CollectorHealth(
                success=False,
                duration_seconds=self._clock() - began,
                last_success_timestamp=before.last_success_timestamp,
                failures=before.failures + 1,
                reason=reason,
            )
        else:
            if before.success is False:
                logger.info("writing the metrics log %s works again", self.path)
            health = CollectorHealth(
                success=True,
                duration_seconds=self._clock() - began,
                last_success_timestamp=now,
                failures=before.failures,
            )
        self._health.publish(health)

    def _append(self, rows: bytes) -> None:
        if not rows:
            return
        descriptor = self._open()
        try:
            size = _whole_lines(descriptor, self.path)
            if size and (size + len(rows) > self._max_bytes or _is_older(descriptor)):
                os.close(descriptor)
                descriptor = -1
                self._rotate()
                descriptor, size = self._open(), 0
            _write_all_or_nothing(descriptor, rows if size else HEADER.encode() + rows, size)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def _rotate(self) -> None:
        names = [self.path, *(Path(f"{self.path}.{n}") for n in range(1, KEPT_FILES + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)


def format_rows(run: RunSnapshot, gpus: GpuSnapshot, now: float) -> str:
    """The rows of one interval; a value that is not known is an empty cell.

    Args:
        run: Its workers come first, in their order.
        gpus: GPUs without a worker follow.
        now: Unix seconds.
    """
    stamp = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="milliseconds")
    stamp = stamp.replace("+00:00", "Z")
    samples = {device.gpu: device.sample for device in gpus.devices if device.up}
    workers = {worker.gpu: worker for worker in run.workers}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for gpu in dict.fromkeys([*workers, *(device.gpu for device in gpus.devices)]):
        sample, worker = samples.get(gpu), workers.get(gpu)
        compute = sample.utilization_ratio if sample else None
        memory = sample.memory_ratio if sample else None
        writer.writerow(
            [
                stamp,
                gpu,
                _number(worker.throughput if worker else None),
                _number(compute, 100),
                _number(memory, 100),
                _number(worker.residue_throughput if worker else None),
                _number(sample.power_watts if sample else None),
            ]
        )
    return text.getvalue()


def _number(value: float | None, factor: float = 1) -> str:
    return "" if value is None else f"{round(value * factor, 3):.10g}"


def _whole_lines(descriptor: int, path: Path) -> int:
    """The file's size, after cutting off a torn last line that an older fault may have left."""
    size = os.fstat(descriptor).st_size
    if not size:
        return 0
    header = HEADER.encode()
    if os.pread(descriptor, len(header), 0) != header and not _is_older(descriptor):
        raise OutputError(f"{path} exists and is not a metrics log; choose another --metrics-log")
    tail = os.pread(descriptor, 4096, max(0, size - 4096))
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        size -= torn
        os.ftruncate(descriptor, size)
    return size


def _is_older(descriptor: int) -> bool:
    """Whether a log has the columns of earlier versions alone: it is rotated away."""
    return os.pread(descriptor, len(FIRST_HEADER), 0) == FIRST_HEADER.encode()


def _write_all_or_nothing(descriptor: int, data: bytes, size: int) -> None:
    """One write; what a full disk took of it is taken back."""
    written = os.write(descriptor, data)
    if written < len(data):
        os.ftruncate(descriptor, size)
        raise OSError(f"only {written} of {len(data)} bytes could be written; is the disk full?")
