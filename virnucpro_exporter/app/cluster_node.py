"""The GPUs of the node of a Dask worker."""

from __future__ import annotations

import os
from dataclasses import replace

from virnucpro_exporter.cluster.letters import Place
from virnucpro_exporter.gpu.describe import why_no_gpus
from virnucpro_exporter.gpu.identity import (
    CUDA_VARIABLE,
    cuda_visible_devices,
    hides_all,
    numbers_on_node,
    visible_gpus,
)
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.snapshot import GpuDevice, GpuSnapshot

_CPU = Place(None, "CPU", "")


class ClusterNode:
    """The GPUs of the node of this process that are visible to it."""

    def __init__(self) -> None:
        self._monitor = GPUMonitor()

    def place(self) -> Place:
        """The device of this process."""
        visible = os.environ.get(CUDA_VARIABLE)
        if visible is not None and hides_all(visible):
            return _CPU
        with GPUMonitor() as monitor:
            snapshot = monitor.wait()
        there = [device for device in snapshot.devices if device.up]
        if there:
            numbers = numbers_on_node(snapshot.devices)
            place = choose(visible, there)
            device = None if place.device is None else numbers[place.device]
            shown = tuple(numbers[gpu] for gpu in place.shown)
            return replace(place, device=device, sees=tuple(numbers.values()), shown=shown)
        if visible is None:
            return _CPU
        return _unusable(f"{CUDA_VARIABLE} is {visible!r}, but {why_no_gpus(snapshot)}")

    def gpus(self) -> GpuSnapshot:
        """All that are seen, by their numbers on the node; watched from the first call on."""
        self._monitor.start()
        snapshot = self._monitor.latest()
        numbers = numbers_on_node(snapshot.devices)
        devices = (replace(device, gpu=numbers[device.gpu]) for device in snapshot.devices)
        return replace(snapshot, devices=tuple(devices))

    def close(self) -> None:
        """Watch them no longer."""
        self._monitor.stop()


def choose(visible: str | None, there: list[GpuDevice]) -> Place:
    """The first GPU that CUDA_VISIBLE_DEVICES names, or the only one there is.

    dask-cuda shows each of its workers all GPUs in another order, its own first, because CUDA takes
    the first unless it is told otherwise.

    Args:
        visible: The variable; None when it is not set.
        there: The GPUs that are seen.
    """
    if visible is None:
        shown = own = there
    else:
        shown = visible_gpus(visible, there)
        own = visible_gpus(visible.partition(",")[0], there) if shown else []
    if len(own) != 1:
        told = "not set" if visible is None else repr(visible)
        known = ", ".join(device.gpu for device in there)
        return _unusable(
            f"{CUDA_VARIABLE} of a Dask worker is {told}, but its machine has the GPUs {known};"
            " start one worker per GPU and list its own GPU first, as `dask cuda worker` does"
        )
    (gpu,) = own
    ids = tuple(device.gpu for device in shown)
    return Place(gpu.gpu, gpu.name, cuda_visible_devices(gpu), shown=ids)


def _unusable(why: str) -> Place:
    return Place(None, "", "", why)
