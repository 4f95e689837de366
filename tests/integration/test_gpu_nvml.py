"""The real nvitop on the stand-in NVML."""

from __future__ import annotations

import pytest

from tests.nvml_stub.stub import NvmlStub

_POLL = """
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, rows(monitor.latest())
        time.sleep(0.01)
def gpu(i): return monitor.latest().devices[i]
monitor = GPUMonitor(interval=0.2, reopen_after=0.2)
"""


def test_values_are_in_base_units(nvml_stub: NvmlStub) -> None:
    """Each value arrives in base units, with the GPU's identity beside it."""
    nvml_stub.set(g0_pids="1,2")
    row = nvml_stub.run(_POLL + "print(json.dumps(rows(monitor.wait())[0]))")
    assert row["up"]
    assert row["uuid"].startswith("GPU-00000000")
    expected = {
        "utilization_ratio": 0.37,
        "memory_used_bytes": 20_000_000_000,
        "memory_size_bytes": 80_000_000_000,
        "temperature_celsius": 61,
        "power_watts": 312.35,
        "power_limit_watts": 700,
        "energy_joules": 5000,
        "sm_clock_hertz": 1.98e9,
        "throttle_reasons": ["sw_power_cap"],
        "foreign_processes": 2,
    }
    assert {key: row[key] for key in expected} == expected


@pytest.mark.parametrize("code", [3, 4, 10, 13, 999])
def test_a_value_that_fails_is_absent_alone(nvml_stub: NvmlStub, code: int) -> None:
    """A code that concerns one value leaves the others, and the host's RAM is never shown."""
    nvml_stub.fail(0, "nvmlDeviceGetMemoryInfo_v2", code)
    row = nvml_stub.run(_POLL + "print(json.dumps(rows(monitor.wait())[0]))")
    assert row["up"]
    assert row["memory_used_bytes"] is row["memory_size_bytes"] is None
    assert row["utilization_ratio"] == pytest.approx(0.37)
    assert "memory_used_bytes" in row["reasons"]


@pytest.mark.parametrize("code", [1, 2, 8, 11, 15, 16])
def test_a_lost_gpu_keeps_no_value(nvml_stub: NvmlStub, code: int) -> None:
    """One fatal code drops all values of its GPU, those read before it too, and no other GPU."""
    nvml_stub.set(count=2)
    nvml_stub.fail(1, "nvmlDeviceGetPowerUsage", code)
    rows = nvml_stub.run(_POLL + "print(json.dumps(rows(monitor.wait())))")
    assert [row["up"] for row in rows] == [True, False]
    assert rows[1]["utilization_ratio"] is None
    assert rows[1]["reasons"]["gpu"]


@pytest.mark.parametrize("latch", [0, 1])
def test_a_lost_gpu_comes_back(nvml_stub: NvmlStub, latch: int) -> None:
    """A GPU that was lost is found again, also when only a new initialisation heals it."""
    nvml_stub.set(g0_latch=latch)
    code = """
monitor.wait(); until(lambda: gpu(0).up)
stub.set(g0_lost=15); until(lambda: not gpu(0).up and gpu(0).sample is None)
stub.set(g0_lost=None); until(lambda: gpu(0).up)
print(json.dumps(dict(gpu(0).errors)["GPU_IS_LOST"]))
"""
    assert nvml_stub.run(_POLL + code) >= 1


def test_identity_survives_an_index_shift(nvml_stub: NvmlStub) -> None:
    """After a re-initialisation with other indices each id still shows its own GPU."""
    nvml_stub.set(count=2, g0_util=10, g1_util=90)
    code = """
monitor.wait(); until(lambda: gpu(0).up and gpu(1).up)
stub.set(map0=1, map1=0, g0_lost=2)
until(lambda: not gpu(0).up)
stub.set(g0_lost=None); until(lambda: gpu(0).up and gpu(1).up)
print(json.dumps([d.sample.utilization_ratio for d in monitor.latest().devices]))
"""
    assert nvml_stub.run(_POLL + code) == [0.1, 0.9]


def test_a_driver_that_appears_later_is_found(nvml_stub: NvmlStub) -> None:
    """Without a driver the monitor says why; once there is one it shows the GPUs."""
    nvml_stub.set(init=9)
    code = """
why = why_no_gpus(monitor.wait())
stub.set(init=None); until(lambda: monitor.latest().devices and gpu(0).up)
print(json.dumps([why, monitor.latest().backend]))
"""
    assert nvml_stub.run(_POLL + code) == ["the NVIDIA driver is not loaded", "nvitop"]


def test_a_hung_gpu_costs_only_itself(nvml_stub: NvmlStub) -> None:
    """Beside a GPU whose calls take 2 s the others stay up and fresh."""
    nvml_stub.set(count=3)
    code = """
monitor.wait(); until(lambda: all(d.up for d in monitor.latest().devices))
stub.set(g1_delay_ms=2000); until(lambda: not gpu(1).up)
before = gpu(0).sample.timestamp
until(lambda: gpu(0).up and gpu(0).sample.timestamp > before)
print(json.dumps([d.up for d in monitor.latest().devices])); sys.stdout.flush(); os._exit(0)
"""
    assert nvml_stub.run(_POLL + code) == [True, False, True]


def test_mig_slices_and_strange_names(nvml_stub: NvmlStub) -> None:
    """Slices have ids of their own among 16 GPUs, and a name that is no UTF-8 hides nothing."""
    nvml_stub.set(count=16, g1_mig=2, g2_name='A, "B" {}')
    code = """
raw = open(stub.path, "rb").read().replace(b"{}", b"\\xff"); open(stub.path, "wb").write(raw)
print(json.dumps([(r["gpu"], r["up"], r["utilization_ratio"]) for r in rows(monitor.wait())]))
"""
    rows = nvml_stub.run(_POLL + code)
    assert len(rows) == 18
    assert all(up for _, up, _ in rows)
    assert ["1:1", True, None] in rows
