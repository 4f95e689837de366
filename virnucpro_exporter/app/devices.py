"""Which GPUs or CPU slots a run uses, how fast they are expected to be, and how they are pinned."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from virnucpro_exporter.app.cpus import usable_cpus
from virnucpro_exporter.config import Devices
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.gpu.identity import (
    CUDA_VARIABLE,
    cuda_visible_devices,
    hides_all,
    resolve,
    visible_gpus,
)
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.scheduling.weights import GPU_WEIGHTS, get_gpu_weight, is_known_gpu
from virnucpro_exporter.snapshot import GpuDevice, GpuSnapshot, RunSnapshot

log = logging.getLogger(__name__)

_UNKNOWN_MODEL = (
    "unknown GPU model %r: its speed is taken to be that of an RTX 3090 until it is measured"
    " (to set it, use `gpu_weights` in the configuration file)"
)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or CPU slot that gets a worker."""

    gpu: str
    name: str
    weight: float
    environment: Mapping[str, str] = field(hash=False)


@contextlib.contextmanager
def devices(
    wanted: Devices,
    slots: int | None = None,
    watching: Callable[[], GPUMonitor] = GPUMonitor,
) -> Iterator[tuple[list[Device], GPUMonitor | None]]:
    """The devices to use, and the monitor that watches them while the context lasts.

    Args:
        wanted: Which ones.
        slots: How many CPU slots there are where no GPU is used; one for each CPU that this process
            may use when None.
        watching: Makes the monitor.

    Raises:
        NoDeviceError: The requested GPUs do not exist.
        UsageError: `--gpus` cannot be read.
    """
    if wanted.gpus is not None and wanted.gpus.startswith("cpu"):
        yield _cpu_slots(wanted.gpus), None
        return
    visible = os.environ.get(CUDA_VARIABLE)
    slots = slots or usable_cpus()
    if wanted.gpus is None and visible is not None and hides_all(visible):
        log.info("using %d CPU slots: %s=%s hides all GPUs", slots, CUDA_VARIABLE, visible)
        yield _cpu_slots(f"cpu:{slots}"), None
        return
    monitor = watching()
    with monitor:
        snapshot = monitor.wait()
        if wanted.gpus is not None:
            found = resolve(wanted.gpus, snapshot)
        else:
            found = _by_default(snapshot, visible)
        if not found:
            log.info("using %d CPU slots, because no GPU can be used", slots)
            yield _cpu_slots(f"cpu:{slots}"), None
            return
        for device in found:
            busy = device.sample.foreign_processes if device.sample else None
            if busy:
                log.warning("GPU %s is also used by other processes: %d", device.gpu, busy)
        pins = {d.gpu: {CUDA_VARIABLE: cuda_visible_devices(d)} for d in found}
        weigh = expected_speeds(wanted)
        yield [Device(d.gpu, d.name, weigh(d.name), pins[d.gpu]) for d in found], monitor


class OwnGpus:
    """The GPUs that a run uses, of all that are watched.

    Args:
        gpus: All that are watched.
        run: The run; its workers are called as their GPUs.
    """

    def __init__(self, gpus: Published[GpuSnapshot], run: Published[RunSnapshot]) -> None:
        self._gpus = gpus
        self._run = run
        self._seen: GpuSnapshot | None = None
        self._shown: GpuSnapshot | None = None

    def latest(self) -> GpuSnapshot:
        """The newest; the same object as long as nothing changes."""
        seen = self._gpus.latest()
        if self._shown is None or seen is not self._seen:
            used = {worker.gpu for worker in self._run.latest().workers}
            own = tuple(device for device in seen.devices if device.gpu in used)
            self._seen, self._shown = seen, replace(seen, devices=own)
        return self._shown


def _by_default(snapshot: GpuSnapshot, visible: str | None) -> list[GpuDevice]:
    """The GPUs that a run uses when none are named: all that work, or of those the visible ones."""
    if not any(device.up for device in snapshot.devices):
        return []  # the monitor has logged why
    working = resolve("all", snapshot)
    if visible is None:
        return working
    named = visible_gpus(visible, snapshot.devices)
    found = [device for device in named if device in working]
    if len(found) < len(visible.split(",")):
        log.warning(
            "%s=%s: only %d of these GPUs can be used; this machine has %s",
            *(CUDA_VARIABLE, visible, len(found), ", ".join(d.gpu for d in snapshot.devices)),
        )
    return found


def _cpu_slots(wanted: str) -> list[Device]:
    named = re.fullmatch(r"cpu:0*([1-9][0-9]{0,3})", wanted, re.ASCII)
    if named is None:
        raise UsageError(
            f"--gpus {wanted}: must be cpu:N with N from 1 to 9999, all, or ids such as 0,1"
        )
    number = named[1]
    pin = {CUDA_VARIABLE: ""}
    return [Device(f"cpu{index}", "CPU", 1.0, pin) for index in range(int(number))]


def expected_speeds(devices: Devices) -> Callable[[str], float]:
    """The expected speed of a GPU by its model name; that of an RTX 3090 is 1.

    A model that is not known is logged once, however many GPUs there are of it.
    """
    table = {**GPU_WEIGHTS, **devices.gpu_weights}

    @functools.cache
    def weigh(name: str) -> float:
        if not devices.gpu_weighted or name == "CPU":
            return 1.0
        if not is_known_gpu(name, table):
            log.warning(_UNKNOWN_MODEL, name)
        return get_gpu_weight(name, table)

    return weigh
