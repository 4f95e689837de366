"""Naming GPUs."""

from __future__ import annotations

import pytest

from virnucpro_exporter.errors import NoDeviceError, UsageError
from virnucpro_exporter.gpu.identity import (
    cuda_visible_devices,
    hides_all,
    numbers_on_node,
    resolve,
    visible_gpus,
)
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


NODE = tuple(
    GpuDevice(gpu, uuid, up=True)
    for gpu, uuid in (
        ("0", "GPU-aaaa-1"),
        ("1", "GPU-aabb-2"),
        ("2", "GPU-cccc-3"),
        ("2:0", "MIG-dddd-4"),
        ("2:1", "MIG-ddee-5"),
        ("10", "GPU-ffff-6"),
    )
)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("1,0", ["1", "0"]),
        (" 1 , 0 ", ["1", "0"]),
        ("10", ["10"]),
        ("0,7,1", ["0"]),
        ("0,-1,1", ["0"]),
        ("0,,1", ["0"]),
        ("7", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("0,0", []),
        ("GPU-aaaa-1,GPU-cccc", ["0", "2:0", "2:1"]),
        ("GPU-AABB", ["1"]),
        ("GPU-aa", []),
        ("GPU-ffff,GPU-aa,GPU-aaaa", ["10"]),
        ("GPU-aaaa,GPU-aaaa-1", []),
        ("0,GPU-aabb", ["0"]),
        ("GPU-aabb,0", ["1"]),
        ("MIG-ddee-5,MIG-dddd", ["2:1", "2:0"]),
        ("MIG-dd", []),
        ("2", ["2:0", "2:1"]),
        ("2:1", ["2:1"]),
        ("MIG-GPU-cccc-3/7/0", []),
    ],
)
def test_cuda_visible_devices_names_gpus_in_its_order(visible: str, gpus: list[str]) -> None:
    """The list ends at its first entry that is no GPU; prefixes of uuids name one or none."""
    assert [device.gpu for device in visible_gpus(visible, NODE)] == gpus


def test_old_name_of_the_only_slice() -> None:
    """Drivers before 470 named a slice by its GPU and two numbers."""
    devices = (*NODE, GpuDevice("10:0", "MIG-99", up=True))
    assert [d.gpu for d in visible_gpus("MIG-GPU-ffff-6/1/0", devices)] == ["10:0"]


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [("", True), ("-1", True), ("NoDevFiles", True), (",0", True), ("0", False), ("GPU-a", False)],
)
def test_values_that_hide_all_gpus(visible: str, hidden: bool) -> None:
    """What SLURM and people write for no GPU."""
    assert hides_all(visible) is hidden
