"""The state of every GPU: one immutable snapshot, and the four usual values."""

from __future__ import annotations

import os
import threading
import time

from virnucpro_exporter.gpu.nvidia_smi import NvidiaSmiSource
from virnucpro_exporter.gpu.nvml import NvmlSource
from virnucpro_exporter.gpu.sampler import REOPEN_AFTER, Sampler
from virnucpro_exporter.gpu.sources import LINKS, PROCESSES, GpuSource
from virnucpro_exporter.gpu.watcher import Runs
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.text import counted

FIRST_SAMPLE_TIMEOUT = 5.0


class GPUMonitor:
    """Samples each GPU in a separate thread, so that a hung GPU does not affect the others.

    Args:
        interval: Seconds between two samples of a GPU. A value expires after three intervals.
        source: Source of the values; by default NVML, or `nvidia-smi` if NVML cannot be used.
        reopen_after: Minimum seconds between two initialisations of a source.
        links: Also query the traffic and errors of PCIe and NVLink, which takes 40 ms per GPU.
        runs: Returns the processes of the runs on this machine, which are not foreign.
        processes: Also list the compute processes with their memory and owners.

    Raises:
        ValueError: The interval is not above 0.
    """

    def __init__(
        self,
        interval: float = 1.0,
        source: GpuSource | None = None,
        reopen_after: float = REOPEN_AFTER,
        *,
        links: bool = False,
        processes: bool = False,
        runs: Runs = lambda: (),
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval must be above 0 seconds (given: {interval})")
        # A little less than an interval, so that nvidia-smi runs once in each.
        sources: list[GpuSource] = [NvmlSource(), NvidiaSmiSource(max_age=0.8 * interval)]
        if source is not None:
            sources = [source]
        extra = (*(LINKS if links else ()), *(PROCESSES if processes else ()))
        self._sampler = Sampler(sources, interval, reopen_after, extra=extra, runs=runs)
        self._starting = threading.Lock()
        self._started_at: float | None = None

    def start(self) -> None:
        """Start sampling, without waiting for the first sample. A second call has no effect."""
        with self._starting:
            if self._started_at is None:
                self._started_at = time.monotonic()
                self._sampler.start()

    def stop(self) -> None:
        """Stop sampling for good, without waiting for a hanging driver call."""
        with self._starting:
            self._started_at = self._started_at or time.monotonic()
        self._sampler.stop()

    def __enter__(self) -> GPUMonitor:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        gpus = self.latest()
        found = f"{counted(len(gpus.devices), 'GPU')}, backend {gpus.backend}"
        return f"<GPUMonitor: {'not started' if self._started_at is None else found}>"

    def latest(self) -> GpuSnapshot:
        """The latest snapshot. Never blocks and never queries a GPU.

        The same object is returned until a value changes.
        """
        return self._sampler.board.snapshot()

    def wait(self, timeout: float = FIRST_SAMPLE_TIMEOUT) -> GpuSnapshot:
        """Start if necessary; wait at most `timeout` seconds for a first sample of all GPUs."""
        self.start()
        self._sampler.board.first.wait(timeout)
        return self.latest()

    def get_gpu_utilization(self, device_id: int | str) -> dict[str, float | None]:
        """Utilisation, memory, temperature and power of a GPU, at most three intervals old.

        The first call starts the monitor if necessary and waits at most 5 s for a sample; later
        calls do not wait.

        Args:
            device_id: The GPU's id, for example 0, `"0"` or `"0:1"`, or its uuid.

        Returns:
            `compute_percent` and `memory_percent` (0 to 100), `temperature` (degrees Celsius)
            and `power_watts`; None for unknown values.
        """
        if not self._sampler.board.first.is_set():
            self.start()
            waited = time.monotonic() - (self._started_at or 0.0)
            self._sampler.board.first.wait(max(0.0, FIRST_SAMPLE_TIMEOUT - waited))
        wanted = str(device_id)
        devices = self.latest().devices
        device = next((d for d in devices if wanted in (d.gpu, d.uuid)), None)
        sample = None if device is None else device.sample
        return {
            "compute_percent": None if sample is None else _percent(sample.utilization_ratio),
            "memory_percent": None if sample is None else _percent(sample.memory_ratio),
            "temperature": None if sample is None else sample.temperature_celsius,
            "power_watts": None if sample is None else sample.power_watts,
        }


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else 100 * ratio


_shared: dict[int, GPUMonitor] = {}


def get_gpu_utilization(device_id: int | str) -> dict[str, float | None]:
    """`GPUMonitor.get_gpu_utilization` of a monitor shared by the whole process.

    A forked process has its own monitor, because threads do not survive a fork.
    """
    process = os.getpid()
    monitor = _shared.get(process) or _shared.setdefault(process, GPUMonitor())
    return monitor.get_gpu_utilization(device_id)
