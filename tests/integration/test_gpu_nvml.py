"""The real nvitop on the stand-in NVML."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import nvitop
import psutil
import pynvml
import pytest

from tests.gpu_sources import Watch, until
from tests.nvml_stub.stub import NvmlStub
from virnucpro_exporter.gpu.describe import rows
from virnucpro_exporter.gpu.guard import Guard
from virnucpro_exporter.gpu.nvml import NvmlSource
from virnucpro_exporter.gpu.sources import CORE, LINKS, PROCESSES, TIMEOUT, SourceError

FUNCTIONS = {
    "utilization_ratio": "nvmlDeviceGetUtilizationRates",
    "memory_used_bytes": "nvmlDeviceGetMemoryInfo_v2",
    "temperature_celsius": "nvmlDeviceGetTemperatureV",
    "power_watts": "nvmlDeviceGetPowerUsage",
    "power_limit_watts": "nvmlDeviceGetEnforcedPowerLimit",
    "energy_joules": "nvmlDeviceGetTotalEnergyConsumption",
    "sm_clock_hertz": "nvmlDeviceGetClockInfo",
    "throttle_reasons": "nvmlDeviceGetCurrentClocksEventReasons",
    "foreign_processes": "nvmlDeviceGetComputeRunningProcesses_v3",
}
HEALTH_FUNCTIONS = {
    "memory_temperature_celsius": "nvmlDeviceGetFieldValues",
    "sm_clock_max_hertz": "nvmlDeviceGetMaxClockInfo",
    "fan_ratio": "nvmlDeviceGetFanSpeed",
    "performance_state": "nvmlDeviceGetPerformanceState",
    "throttled_seconds": "nvmlDeviceGetViolationStatus",
    "ecc_errors": "nvmlDeviceGetTotalEccErrors",
    "remapped_rows": "nvmlDeviceGetRemappedRows",
    "retired_pages": "nvmlDeviceGetRetiredPages",
    "pcie_bytes_per_second": "nvmlDeviceGetPcieThroughput",
    "pcie_replays": "nvmlDeviceGetPcieReplayCounter",
}
# By `g0.NAME` in the state file: fields of NVML by their numbers, kinds and counters of ECC.
SICK = {
    "field82": 84,
    "field230": 1,
    "field138": 2048,
    "field139": 1024,
    "field38": 0,
    "field52": 4,
    "field59": 1,
    "fan": 55,
    "pstate": 2,
    "ecc00": 7,
    "ecc10": 1,
    "ecc01": 70,
    "ecc11": 11,
    "rows_corrected": 1,
    "rows_uncorrected": 2,
    "rows_pending": 1,
    "rows_failed": 0,
    "pages0": 3,
    "pages1": 0,
    "pages_pending": 0,
}
HEALTH_EXPECTED = {
    "memory_copy_ratio": 0.2,
    "memory_clock_hertz": 2.619e9,
    "sm_clock_max_hertz": 1.98e9,
    "memory_clock_max_hertz": 2.619e9,
    "memory_temperature_celsius": 84,
    "fan_ratio": 0.55,
    "performance_state": 2,
    "throttled_seconds": {"power": 1.5, "thermal": 1.5},
    "ecc_errors": {"corrected": 7, "uncorrected": 1},
    "ecc_lifetime_errors": {"corrected": 70, "uncorrected": 11},
    "remapped_rows": {"corrected": 1, "uncorrected": 2},
    "row_remap_pending": True,
    "row_remap_failed": False,
    "retired_pages": {"single_bit": 3, "double_bit": 0},
    "retired_pages_pending": False,
    "recovery_action": "gpu_reset",
    "pcie_bytes_per_second": {"receive": 2000 * 1024, "transmit": 1000 * 1024},
    "pcie_replays": 3,
    "nvlink_bytes": {"receive": 1024 * 1024, "transmit": 2048 * 1024},
    "nvlink_errors": {"crc": 0, "replay": 4, "recovery": 1},
}
EXPECTED = {
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
_MONITOR = """
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
monitor = GPUMonitor(interval=30.0)
"""


@pytest.mark.parametrize("query", FUNCTIONS)
@pytest.mark.parametrize(
    ("code", "name", "is_counted"),
    [
        (3, "NOT_SUPPORTED", False),
        (4, "NO_PERMISSION", True),
        (13, "FUNCTION_NOT_FOUND", True),
        (10, "TIMEOUT", True),
        (999, "UNKNOWN", True),
        (17, "OPERATING_SYSTEM", True),
    ],
)
def test_a_value_that_fails_is_absent_alone(
    nvml_here: NvmlStub, watch: Watch, query: str, code: int, name: str, *, is_counted: bool
) -> None:
    """Every value, and every code that concerns one value: it is absent, and all others stay."""
    nvml_here.set(g0_pids="1,2")
    nvml_here.fail(0, FUNCTIONS[query], code)
    watched = watch(NvmlSource())
    watched.board.first.wait(60)
    (row,) = rows(watched.board.snapshot())
    assert row["up"]
    gone = {"memory_used_bytes", "memory_size_bytes"} if query.startswith("memory") else {query}
    assert {key: row[key] for key in EXPECTED if row[key] is not None} == {
        key: value for key, value in EXPECTED.items() if key not in gone
    }
    assert {key: why for key, why in row["reasons"].items() if key in EXPECTED} == {query: name}
    assert (name in row["errors"]) == is_counted


def test_the_health_of_a_gpu(nvml_here: NvmlStub, watch: Watch) -> None:
    """Errors, clocks, links and processes, in base units; policies without a counter are absent."""
    nvml_here.state.update({f"g0.{name}": value for name, value in SICK.items()})
    nvml_here.set(g0_pids=str(os.getpid()))
    watched = watch(NvmlSource(), extra=(*LINKS, *PROCESSES))
    watched.board.first.wait(60)
    (row,) = rows(watched.board.snapshot())
    assert {key: row[key] for key in HEALTH_EXPECTED} == HEALTH_EXPECTED
    assert row["reasons"] == {}
    (process,) = row["processes"]
    assert (process["pid"], process["memory_bytes"]) == (os.getpid(), 1 << 20)
    modes = {key: row[key] for key in ("cuda_version", "mig_profile", "persistence", "ecc")}
    assert modes == {"cuda_version": "12.4", "mig_profile": "", "persistence": "on", "ecc": "on"}


@pytest.mark.parametrize("code", [2, 3, 4, 10, 13, 999])
def test_a_gpu_without_health(nvml_here: NvmlStub, watch: Watch, code: int) -> None:
    """Values that it does not have, or that the driver refuses, are absent; all others stay."""
    for function in HEALTH_FUNCTIONS.values():
        nvml_here.fail(0, function, code)
    nvml_here.set(g0_pids="1,2")
    watched = watch(NvmlSource(), extra=LINKS)
    watched.board.first.wait(60)
    (row,) = rows(watched.board.snapshot())
    assert {key: row[key] for key in EXPECTED} == EXPECTED
    assert [key for key in HEALTH_FUNCTIONS if row[key] is not None] == []
    assert row["xids"] == []


@pytest.mark.parametrize(
    ("name", "state", "value"),
    [("performance_state", "pstate", 32), ("recovery_action", "field230", 200)],
)
def test_what_a_later_driver_says(
    nvml_here: NvmlStub, watch: Watch, name: str, state: str, value: int
) -> None:
    """A state that is unknown here is absent, not taken for another one."""
    nvml_here.state[f"g0.{state}"] = value
    nvml_here.set()
    watched = watch(NvmlSource())
    watched.board.first.wait(60)
    assert rows(watched.board.snapshot())[0][name] is None


@pytest.mark.parametrize("celsius", [255, 10_000])
def test_garbage_is_no_temperature(nvml_here: NvmlStub, watch: Watch, celsius: int) -> None:
    """Nothing is shown that cannot be, and it says so."""
    nvml_here.state["g0.field82"] = celsius
    nvml_here.set()
    watched = watch(NvmlSource())
    watched.board.first.wait(60)
    assert watched.why(0, "memory_temperature_celsius").startswith("implausible value")


def test_xid_errors_of_a_gpu_that_hangs(nvml_here: NvmlStub, watch: Watch) -> None:
    """They are collected beside the call that does not return, and only for their GPU."""
    nvml_here.set(count=2, g1_xids="31")
    watched = watch(NvmlSource(), max_age=1.5)
    until(lambda: watched.is_up(0, 1) and watched.device(1).xids)
    nvml_here.set(g1_delay_ms=3_600_000)
    until(lambda: not watched.is_up(1))
    nvml_here.set(g1_xids="31,79,79")
    until(lambda: [(x.xid, x.count) for x in watched.device(1).xids] == [(31, 1), (79, 2)])
    assert watched.device(0).xids == ()
    nvml_here.set(g1_delay_ms=None)


@pytest.mark.parametrize("code", [1, 2, 8, 11, 15, 16])
def test_a_lost_gpu_keeps_no_value(nvml_here: NvmlStub, watch: Watch, code: int) -> None:
    """One fatal code drops all values of its GPU, those read before it too, and no other GPU."""
    nvml_here.set(count=2)
    nvml_here.fail(1, "nvmlDeviceGetPowerUsage", code)
    watched = watch(NvmlSource(), reopen_after=3600.0)
    watched.board.first.wait(60)
    one, other = rows(watched.board.snapshot())
    assert one["up"]
    assert not other["up"]
    assert all(other[key] is None for key in EXPECTED)
    assert set(other["reasons"]) == {"gpu"}
    assert list(other["errors"].values()) == [1]


@pytest.mark.parametrize("latch", [0, 1])
def test_a_lost_gpu_comes_back(nvml_here: NvmlStub, watch: Watch, latch: int) -> None:
    """A GPU that was lost is found again, also when only a new initialisation heals it."""
    nvml_here.set(g0_latch=latch)
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(0))
    nvml_here.set(g0_lost=15)
    until(lambda: watched.why(0) == "GPU_IS_LOST")
    nvml_here.set(g0_lost=None)
    until(lambda: watched.is_up(0))
    assert dict(watched.device(0).errors)["GPU_IS_LOST"] >= 1


def test_a_gpu_that_is_lost_at_the_start(nvml_here: NvmlStub, watch: Watch) -> None:
    """It has its id and a reason, hides no other GPU, and has its identity once it is back."""
    nvml_here.set(count=3, g1_lost=16)
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(0, 2))
    assert watched.device(1).uuid == ""
    assert watched.why(1) == "RESET_REQUIRED"
    nvml_here.set(g1_lost=None)
    until(lambda: watched.is_up(0, 1, 2))
    assert watched.device(1).uuid.startswith("GPU-00000001")


@pytest.mark.parametrize("code", [4, 8, 10, 11, 16])
def test_a_handle_that_fails_hides_no_other_gpu(nvml_here: NvmlStub, code: int) -> None:
    """Where nvitop's own list of devices raises and loses them all, the others are listed."""
    nvml_here.set(count=3)
    nvml_here.fail(1, "nvmlDeviceGetHandleByIndex_v2", code)
    source = NvmlSource()
    assert [(f.gpu, bool(f.uuid), f.code) for f in source.open()] == [
        ("0", True, 0),
        ("1", False, code),
        ("2", True, 0),
    ]
    source.close()


def test_identity_survives_an_index_shift(nvml_here: NvmlStub, watch: Watch) -> None:
    """After a re-initialisation with other indices each id still shows its own GPU."""
    nvml_here.set(count=2, g0_util=10, g1_util=90)
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(0, 1))
    nvml_here.set(map0=1, map1=0, g0_lost=2)
    until(lambda: not watched.is_up(0))
    nvml_here.set(g0_lost=None)
    until(lambda: watched.is_up(0, 1))
    samples = [d.sample for d in watched.board.snapshot().devices]
    assert [s and s.utilization_ratio for s in samples] == [0.1, 0.9]


@pytest.mark.usefixtures("nvml_here")
def test_handles_that_went_stale(watch: Watch) -> None:
    """When somebody else in the process shuts NVML down, it is initialised again."""
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(0))
    pynvml.nvmlShutdown()
    until(lambda: dict(watched.device(0).errors).get("UNINITIALIZED"))
    until(lambda: watched.is_up(0))


def test_others_in_the_process_keep_nvml(nvml_here: NvmlStub) -> None:
    """To start watching shuts down nothing that somebody else has initialised."""
    nvml_here.set(init=None)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    source = NvmlSource()
    source.close()
    source.open()
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 312350
    source.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (4, "no permission to use the NVIDIA driver"),
        (9, "the NVIDIA driver is not loaded"),
        (12, "libnvidia-ml.so.1 was not found"),
        (18, "versions do not match; reboot"),
        (999, "NVML cannot be used: Unknown Error"),
    ],
)
def test_why_nvml_cannot_be_used(nvml_here: NvmlStub, code: int, reason: str) -> None:
    """One line says why, at each attempt; once it can be used the GPUs are there."""
    nvml_here.set(init=code)
    source = NvmlSource()
    for _ in range(3):
        with pytest.raises(SourceError, match=reason) as error:
            source.open()
        assert "\n" not in str(error.value)
    nvml_here.set(init=None)
    assert len(source.open()) == 1
    source.close()


def test_a_count_that_fails_is_not_none(nvml_here: NvmlStub) -> None:
    """A driver that cannot count its GPUs and one that has none are told apart, and both fail."""
    source = NvmlSource()
    nvml_here.set(count_code=999)
    with pytest.raises(SourceError, match="Unknown Error"):
        source.open()
    nvml_here.set(count_code=None, count=0)
    with pytest.raises(SourceError, match="lists no GPU"):
        source.open()
    nvml_here.set(count=2)  # for which a new initialisation is necessary
    assert len(source.open()) == 2
    source.close()


def test_the_memory_of_the_host_never_appears(nvml_here: NvmlStub) -> None:
    """Where nvitop's own memory methods answer the RAM, this program has no answer."""
    nvml_here.fail(0, "nvmlDeviceGetMemoryInfo_v2", 3)
    source = NvmlSource()
    (found,) = source.open()
    assert nvitop.Device(0).memory_total() == psutil.virtual_memory().total
    assert source.read(found.uuid, CORE).faults == {"memory_used_bytes": 3}
    source.close()


def test_a_gpu_that_hangs_costs_only_itself(nvml_here: NvmlStub, watch: Watch) -> None:
    """Beside a GPU whose calls take 2 s the others stay up and fresh, and it comes back."""
    nvml_here.set(count=3)
    watched = watch(NvmlSource(), max_age=1.5)
    until(lambda: watched.is_up(0, 1, 2))
    nvml_here.set(g1_delay_ms=2000)
    until(lambda: watched.why(1) == "no answer for too long")
    until(lambda: watched.is_up(0, 2) and not watched.is_up(1))
    nvml_here.set(g1_delay_ms=None)
    until(lambda: watched.is_up(0, 1, 2))


def test_a_gpu_that_hangs_when_it_is_opened(
    nvml_here: NvmlStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are listed and read, and NVML is left alone until that call has returned."""
    monkeypatch.setattr("virnucpro_exporter.gpu.nvml._IDENTIFY_SECONDS", 0.5)
    nvml_here.set(count=2, g1_delay_ms=3_600_000)
    guard = Guard(NvmlSource())
    one, other = guard.open(patience=0.0) or ()
    assert (other.gpu, other.uuid, other.code) == ("1", "", TIMEOUT)
    assert guard.open(patience=0.0) is None
    reading = guard.read(one.uuid, CORE)
    assert reading is not None
    assert not reading.faults
    nvml_here.set(g1_delay_ms=None)
    monkeypatch.setattr("virnucpro_exporter.gpu.nvml._IDENTIFY_SECONDS", 60.0)
    until(lambda: all(found.uuid for found in guard.open(patience=0.0) or [other]))
    guard.close()


def test_sixteen_gpus_and_slices(nvml_here: NvmlStub, watch: Watch) -> None:
    """Slices have ids, uuids and memory of their own, and no utilisation, as NVML has none."""
    nvml_here.set(count=16, g1_mig=2)
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(*range(18)))
    devices = watched.board.snapshot().devices
    ids = [device.gpu for device in devices]
    assert ids == ["0", "1", "1:0", "1:1", *map(str, range(2, 16))]
    assert len({device.uuid for device in devices}) == 18
    one = devices[3]
    assert one.uuid.startswith("MIG-")
    assert one.modes.mig_profile == "1g.10gb"
    assert one.sample is not None
    assert one.sample.utilization_ratio is None
    assert one.sample.memory_size_bytes == 80_000_000_000


def test_what_is_no_valid_question_for_a_slice(nvml_here: NvmlStub, watch: Watch) -> None:
    """A driver may call it an invalid argument; the slice is up all the same."""
    nvml_here.set(g0_mig=1)
    nvml_here.state["g0.slice_err.nvmlDeviceGetTemperatureV"] = 2
    nvml_here.state["g0.slice_err.nvmlDeviceGetPowerUsage"] = 2
    nvml_here.set()
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(0, 1))
    assert watched.why(1, "power_watts") == "INVALID_ARGUMENT"
    assert watched.is_up(0)


def test_strange_names(nvml_here: NvmlStub) -> None:
    """A name with commas and quotes is kept; one that is no UTF-8 is unknown, and hides nothing."""
    nvml_here.set(count=3, g0_name='A, "B" \u00fc', g1_name="x" * 90, g2_name="BAD")
    raw = nvml_here.path.read_bytes().replace(b"BAD", b"\xff\xfe")
    new = nvml_here.path.with_suffix(".raw")
    new.write_bytes(raw)
    new.replace(nvml_here.path)
    source = NvmlSource()
    assert [f.name for f in source.open()] == ['A, "B" \u00fc', "x" * 90, ""]
    source.close()


def test_first_use_from_many_threads(nvml_here: NvmlStub, watch: Watch) -> None:
    """NVML is initialised once, before the threads of the GPUs."""
    library = ctypes.CDLL(nvml_here.library)
    before = library.stub_inits()
    nvml_here.set(count=16)
    watched = watch(NvmlSource())
    until(lambda: watched.is_up(*range(16)))
    assert library.stub_inits() == before + 1
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-")]
    assert len([name for name in names if not name.endswith("-xids")]) == 17


def test_an_old_driver(old_nvml_library: Path, nvml_stub: NvmlStub) -> None:
    """What newer drivers call by another name is read all the same."""
    nvml_stub.library = str(old_nvml_library)
    nvml_stub.set(g0_pids="1,2")
    row = nvml_stub.run(_MONITOR + "print(json.dumps(rows(monitor.wait(60))[0]))")
    assert {key: row[key] for key in EXPECTED} == EXPECTED
    assert EXPECTED.keys().isdisjoint(row["reasons"])


def test_a_missing_library(nvml_stub: NvmlStub) -> None:
    """The monitor says so in one line, without nvitop's banner, and nothing fails."""
    code = """
import logging, pynvml
said = []
class Ear(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger().addHandler(Ear())
def missing(name): raise OSError(name)
pynvml.CDLL = missing
os.environ["PATH"] = ""
snapshot = monitor.wait(60)
while not said: time.sleep(0.01)
from virnucpro_exporter.gpu.guard import Guard
from virnucpro_exporter.gpu.nvml import NvmlSource
for _ in range(3):
    try: NvmlSource().open()
    except Exception as error: last = str(error)
print(json.dumps([snapshot.backend, why_no_gpus(snapshot), last, said]))
"""
    backend, reason, last, said = nvml_stub.run(_MONITOR + code)
    assert backend == "none"
    assert reason == last
    assert "libnvidia-ml.so.1 was not found" in reason
    assert said == [f"no GPU values: {reason}"]


@pytest.mark.parametrize("folder", ["/proc", None])
def test_debugging_of_nvitop_is_ignored(
    nvml_stub: NvmlStub,
    folder: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LOGLEVEL=DEBUG, meant for others, writes no ./nvitop.log, nor fails where it cannot."""
    monkeypatch.setenv("LOGLEVEL", "DEBUG")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    code = f"os.chdir({folder or str(tmp_path)!r})\n" + _MONITOR
    assert nvml_stub.run(code + "print(json.dumps(len(monitor.wait(60).devices)))") == 1
    assert not list(tmp_path.glob("*.log"))


def test_the_end_does_not_wait_for_a_call_that_hangs(nvml_stub: NvmlStub) -> None:
    """The program ends although a thread is in a call that lasts longer than the test may."""
    nvml_stub.set(count=2)
    code = """
def up(gpu):
    devices = monitor.latest().devices
    return len(devices) == 2 and devices[gpu].up
with GPUMonitor(interval=0.1) as monitor:
    while not (up(0) and up(1)): time.sleep(0.001)
    stub.set(g1_delay_ms=3_600_000)
    while up(1): time.sleep(0.001)
print(json.dumps("the end"))
"""
    assert nvml_stub.run(_MONITOR + code) == "the end"


def test_a_forked_process_has_a_monitor_of_its_own(nvml_stub: NvmlStub) -> None:
    """Threads do not survive a fork, so the values there would be old for ever."""
    code = """
from virnucpro_exporter import get_gpu_utilization
before = get_gpu_utilization(0)["temperature"]
stub.set(g0_temp=77)
read, write = os.pipe()
if not os.fork():
    os.write(write, str(get_gpu_utilization(0)["temperature"]).encode())
    os._exit(0)
os.wait()
print(json.dumps([before, float(os.read(read, 100))]))
"""
    assert nvml_stub.run(code) == [61.0, 77.0]
