"""Which GPUs or CPU slots a run uses, how fast they are expected to be, and how they are pinned."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from virnucpro_exporter.config import Devices
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.gpu.identity import cuda_visible_devices, resolve
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.scheduling.weights import GPU_WEIGHTS, get_gpu_weight, is_known_gpu

log = logging.getLogger(__name__)

_UNKNOWN_MODEL = (
    "the speed of a %r is not known; it counts as an RTX 3090 until it is learned (`gpu_weights` in"
    " the configuration file names it)"
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
    wanted: Devices, slots: int | None = None
) -> Iterator[tuple[list[Device], GPUMonitor | None]]:
    """The devices to use, and the monitor that watches them while the context lasts.

    Args:
        wanted: Which ones.
        slots: How many CPU slots there are where no GPU is used; one per core when None.

    Raises:
        NoDeviceError: The GPUs that were asked for are not there.
        UsageError: `--gpus` cannot be read.
    """
    if wanted.gpus is not None and wanted.gpus.startswith("cpu"):
        yield _cpu_slots(wanted.gpus), None
        return
    monitor = GPUMonitor()
    with monitor:
        snapshot = monitor.wait()
        if wanted.gpus is None and not any(device.up for device in snapshot.devices):
            slots = slots or os.cpu_count() or 1
            log.info("%d CPU slots are used instead of GPUs", slots)  # the monitor said why
            yield _cpu_slots(f"cpu:{slots}"), None
            return
        found = resolve(wanted.gpus or "all", snapshot)
        for device in found:
            busy = device.sample.foreign_processes if device.sample else None
            if busy:
                log.warning("GPU %s is in use by %d other processes", device.gpu, busy)
        pins = {d.gpu: {"CUDA_VISIBLE_DEVICES": cuda_visible_devices(d)} for d in found}
        weigh = expected_speeds(wanted)
        yield [Device(d.gpu, d.name, weigh(d.name), pins[d.gpu]) for d in found], monitor


def _cpu_slots(wanted: str) -> list[Device]:
    _, _, number = wanted.partition(":")
    if wanted.partition(":")[0] != "cpu" or not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--gpus {wanted}: write cpu:N with N above 0, all, or ids like 0,1")
    pin = {"CUDA_VISIBLE_DEVICES": ""}
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
