"""Naming GPUs, ages of values, and the simulated source."""

from __future__ import annotations

import pytest

from virnucpro_exporter.errors import NoDeviceError, UsageError
from virnucpro_exporter.gpu.identity import cuda_visible_devices, resolve
from virnucpro_exporter.gpu.simulated import SimulatedSource
from virnucpro_exporter.gpu.sources import CORE, SLOW
from virnucpro_exporter.gpu.tracker import Tracker, fresh
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


def test_old_values_are_dropped() -> None:
    """A value is shown for three intervals and not a moment longer."""
    assert fresh(_SNAPSHOT, 103.0, 3.0) is _SNAPSHOT
    stale = fresh(_SNAPSHOT, 103.1, 3.0).devices[0]
    assert not stale.up
    assert stale.sample is None


def test_simulated_loss_and_return() -> None:
    """A virtual GPU gives the same values at the same moment, and none while it is lost."""
    now = 0.0
    source = SimulatedSource(1, lost={"0": (10, 20)}, clock=lambda: now)
    (found,) = source.open()
    tracker = Tracker(found, "0")
    ups = []
    for now in (0.0, 12.0, 25.0):
        tracker.absorb(source.read(found.uuid, CORE + SLOW), now)
        ups.append(tracker.device().sample is not None)
    assert ups == [True, False, True]
