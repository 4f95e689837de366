"""Which GPUs a user means, and how a worker is pinned to one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from virnucpro_exporter.errors import NoDeviceError, UsageError
from virnucpro_exporter.gpu.describe import why_no_gpus
from virnucpro_exporter.snapshot import GpuDevice, GpuSnapshot

# The variable by which CUDA limits the GPUs that a process may use.
CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"


def resolve(spec: str, snapshot: GpuSnapshot) -> list[GpuDevice]:
    """The GPUs that `--gpus` names, in the order given.

    Args:
        spec: `all`, or a comma-separated list of ids (`0`, `0:1` for a MIG slice) and uuids.
        snapshot: The snapshot of the monitor.

    Raises:
        NoDeviceError: No GPU is there, or `all` finds none that works.
        UsageError: A named GPU does not exist, is down or is named twice.
    """
    if not snapshot.devices:
        raise NoDeviceError(why_no_gpus(snapshot))
    if spec.strip() == "all":
        return _all(snapshot)
    chosen = [_one(word.strip(), snapshot) for word in spec.split(",")]
    ids = [device.gpu for device in chosen]
    for gpu in ids:
        if ids.count(gpu) > 1:
            raise UsageError(f"--gpus {spec}: GPU {gpu} is listed twice")
        if gpu.partition(":")[0] in ids and ":" in gpu:
            raise UsageError(f"--gpus {spec}: GPU {gpu} is a slice of a GPU that is also listed")
    return chosen


def _all(snapshot: GpuSnapshot) -> list[GpuDevice]:
    # CUDA cannot use a GPU as a whole while it is partitioned into slices.
    cut = {d.gpu.partition(":")[0] for d in snapshot.devices if ":" in d.gpu}
    working = [d for d in snapshot.devices if d.up and d.gpu not in cut]
    if not working:
        raise NoDeviceError(why_no_gpus(snapshot))
    return working


def hides_all(visible: str) -> bool:
    """Whether a CUDA_VISIBLE_DEVICES means no GPU: it begins with nothing, -1 or `NoDevFiles`."""
    first = visible.split(",", maxsplit=1)[0].strip()
    return first in ("", "NoDevFiles") or first.startswith("-")


def visible_gpus(visible: str, devices: Sequence[GpuDevice]) -> list[GpuDevice]:
    """The GPUs that a CUDA_VISIBLE_DEVICES names, in its order, by the rules of CUDA.

    The list ends before its first entry that is no GPU, and is empty when it names one twice.
    Entries are either indices (those of nvidia-smi), or uuids of GPUs and MIG slices, which may be
    shortened as long as only one begins so. A GPU that is cut into MIG slices stands for these.

    Args:
        visible: The variable.
        devices: All GPUs that are seen.
    """
    chosen: list[GpuDevice] = []
    by_index: bool | None = None
    for word in visible.split(","):
        is_index = word.strip()[:1].isdigit()
        device = _named_by_cuda(word.strip(), devices)
        if device is None or by_index not in (None, is_index):
            break
        by_index = is_index
        if device in chosen:
            return []
        chosen.append(device)
    return [part for device in chosen for part in _slices(device, devices) or (device,)]


def _named_by_cuda(word: str, devices: Sequence[GpuDevice]) -> GpuDevice | None:
    if word[:1].isdigit():
        number = re.match(r"\d+(:\d+)?", word, re.ASCII)
        found = [d for d in devices if number is not None and d.gpu == number[0]]
    elif word.startswith(("GPU-", "MIG-")):
        found = [d for d in devices if d.uuid.lower().startswith(word.lower())]
        if not found and word.startswith("MIG-GPU-"):
            # The name that drivers before 470 gave to a slice: its GPU, and two numbers that newer
            # ones do not tell.
            parents = [d for d in devices if d.uuid and word[4:].startswith(d.uuid)]
            found = [part for parent in parents for part in _slices(parent, devices)]
    else:
        found = []
    return found[0] if len(found) == 1 else None


def _slices(device: GpuDevice, devices: Sequence[GpuDevice]) -> list[GpuDevice]:
    return [other for other in devices if other.gpu.startswith(f"{device.gpu}:")]


def _one(word: str, snapshot: GpuSnapshot) -> GpuDevice:
    for device in snapshot.devices:
        if word and word in (device.gpu, device.uuid):
            if not device.up:
                raise UsageError(_why_down(device))
            return device
    there = ", ".join(device.gpu for device in snapshot.devices)
    raise UsageError(f"--gpus: there is no GPU {word or repr(word)}; this machine has: {there}")


def _why_down(device: GpuDevice) -> str:
    return f"GPU {device.gpu} is down ({dict(device.reasons).get('', 'no answer yet')})"


def cuda_visible_devices(device: GpuDevice) -> str:
    """The CUDA_VISIBLE_DEVICES that pins a process to a GPU whatever order CUDA counts in."""
    return device.uuid


def numbers_on_node(devices: Sequence[GpuDevice]) -> dict[str, str]:
    """The name of each GPU among all GPUs of its node, whichever of them are visible here.

    SLURM and containers may show a process a part of the GPUs, and NVML counts those from 0. Then
    each is called by its minor number, which is the same everywhere. Where all are seen, so that
    the minor numbers are 0, 1 and so on, it keeps NVML's index: there are machines on which the
    two differ.

    Args:
        devices: Those that are seen, MIG slices after the GPU that they are of.

    Returns:
        By the id that it has here.
    """
    whole = [device for device in devices if ":" not in device.gpu]
    minors = {device.minor for device in whole}
    if None in minors or minors == set(range(len(whole))):
        return {device.gpu: device.gpu for device in devices}
    return {d.gpu: ":".join([str(d.minor), *d.gpu.split(":")[1:]]) for d in devices}
