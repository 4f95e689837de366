"""What a Dask worker knows of the GPUs of its node."""

from __future__ import annotations

import os

from virnucpro_exporter.gpu.describe import why_no_gpus
from virnucpro_exporter.gpu.identity import cuda_visible_devices
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.snapshot import GpuDevice, GpuSnapshot

_VARIABLE = "CUDA_VISIBLE_DEVICES"

Place = tuple["str | None", str, str, str]


class ClusterNode:
    """The GPUs of the node of this process."""

    def __init__(self) -> None:
        self._monitor = GPUMonitor()

    def place(self) -> Place:
        """The device of this process.

        Returns:
            Its index on the node (None for a CPU slot), its model name, the CUDA_VISIBLE_DEVICES
            that pins a process to it, and why it cannot be used (or an empty text).
        """
        visible = os.environ.get(_VARIABLE)
        if visible == "":
            return _cpu()
        with GPUMonitor() as monitor:
            snapshot = monitor.wait()
        there = [device for device in snapshot.devices if device.up]
        if there:
            return choose(visible, there)
        if visible is None:
            return _cpu()
        return _unusable(f"{_VARIABLE} is {visible!r}, but {why_no_gpus(snapshot)}")

    def gpus(self) -> GpuSnapshot:
        """All of them, watched from the first call on."""
        self._monitor.start()
        return self._monitor.latest()

    def close(self) -> None:
        """Watch them no longer."""
        self._monitor.stop()


def choose(visible: str | None, there: list[GpuDevice]) -> Place:
    """The one GPU that CUDA_VISIBLE_DEVICES names, or the only one there is.

    Args:
        visible: The variable; None when it is not set.
        there: The GPUs of the node.
    """
    if visible is None:
        chosen = there
    else:
        chosen = [device for device in there if _is_named(visible, device)]
    if len(chosen) != 1 or "," in (visible or ""):
        shown = "not set" if visible is None else repr(visible)
        ids = ", ".join(device.gpu for device in there)
        return _unusable(
            f"{_VARIABLE} of a Dask worker is {shown}, and the GPUs are {ids}; start one worker"
            " per GPU, each with its own"
        )
    return chosen[0].gpu, chosen[0].name, cuda_visible_devices(chosen[0]), ""


def _is_named(visible: str, device: GpuDevice) -> bool:
    """CUDA takes the beginning of a uuid, too."""
    is_uuid = visible.startswith(("GPU-", "MIG-")) and device.uuid.startswith(visible)
    return visible == device.gpu or is_uuid


def _cpu() -> Place:
    return None, "CPU", "", ""


def _unusable(why: str) -> Place:
    return None, "", "", why
