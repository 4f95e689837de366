"""Naming GPUs."""

from __future__ import annotations

import pytest

from virnucpro_exporter.errors import NoDeviceError, UsageError
from virnucpro_exporter.gpu.identity import cuda_visible_devices, numbers_on_node, resolve
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot

_SNAPSHOT = GpuSnapshot(
    100.0,
    "nvitop",
    (
        GpuDevice("0", "GPU-a", up=True, sample=GpuSample(100.0)),
        GpuDevice("0:1", "MIG-b", up=True, sample=GpuSample(100.0)),
        GpuDevice("1", "GPU-c", up=True, sample=GpuSample(100.0)),
        GpuDevice("2", "GPU-d", reasons=(("", "GPU_IS_LOST"),)),
    ),
)


@pytest.mark.parametrize(
    ("spec", "uuids"),
    [("all", ["MIG-b", "GPU-c"]), ("1,0", ["GPU-c", "GPU-a"]), ("MIG-b", ["MIG-b"])],
)
def test_resolve(spec: str, uuids: list[str]) -> None:
    """Ids, uuids and `all` name GPUs in the order given, each pinned by its uuid."""
    assert [cuda_visible_devices(d) for d in resolve(spec, _SNAPSHOT)] == uuids


@pytest.mark.parametrize(
    ("spec", "message"),
    [("7", "no GPU 7"), ("1,GPU-c", "twice"), ("0,0:1", "slice"), ("2", "LOST"), ("", "no GPU")],
)
def test_resolve_refuses(spec: str, message: str) -> None:
    """What cannot be used is refused with its reason."""
    with pytest.raises(UsageError, match=message):
        resolve(spec, _SNAPSHOT)


def test_no_gpu_at_all() -> None:
    """Without GPUs any choice fails with the exit status for that."""
    with pytest.raises(NoDeviceError):
        resolve("all", GpuSnapshot(0.0))


@pytest.mark.parametrize(
    ("seen", "numbers"),
    [
        ({"0": 0, "1": 1}, ["0", "1"]),
        ({"0": 1, "1": 0}, ["0", "1"]),  # all of them, in another order
        ({"0": 3}, ["3"]),
        ({"0": 2, "1": 3}, ["2", "3"]),
        ({"0": 1, "0:2": 1}, ["1", "1:2"]),
        ({"0": 5, "1": None}, ["0", "1"]),
        ({}, []),
    ],
)
def test_a_gpu_has_one_number_whoever_sees_it(
    seen: dict[str, int | None], numbers: list[str]
) -> None:
    """NVML's index where a process sees all GPUs of its node, else the minor number."""
    devices = [GpuDevice(gpu, minor=minor) for gpu, minor in seen.items()]
    assert numbers_on_node(devices) == dict(zip(seen, numbers, strict=True))
