"""The fallback, through a program that stands in for nvidia-smi."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.gpu_sources import until
from tests.nvidia_smi_stub import FIELDS, FakeNvidiaSmi
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.nvidia_smi import NvidiaSmiSource
from virnucpro_exporter.gpu.sources import (
    CORE,
    GPU_IS_LOST,
    HEALTH,
    NOT_FOUND,
    SLOW,
    UNKNOWN,
    SourceError,
    query_of,
)

UUID = FIELDS["uuid"]
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
LOST = (
    "Unable to determine the device handle for GPU0000:C3:00.0: GPU is lost.  Reboot the system to "
    "recover this GPU"
)
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running."
)


@pytest.fixture
def smi(tmp_path: Path) -> FakeNvidiaSmi:
    return FakeNvidiaSmi(tmp_path)


@pytest.fixture
def source(smi: FakeNvidiaSmi) -> NvidiaSmiSource:
    return NvidiaSmiSource(str(smi.program), timeout=60.0, max_age=0.0)


def test_a_row_becomes_base_units(smi: FakeNvidiaSmi, source: NvidiaSmiSource) -> None:
    """MiB become bytes and percent a ratio; a name is taken as it stands."""
    smi.gpus[0]["name"] = 'NVIDIA "H100" 80GB \u00fc'
    smi.say()
    (found,) = source.open()
    assert (found.gpu, found.uuid, found.name) == ("0", UUID, 'NVIDIA "H100" 80GB \u00fc')
    assert (found.driver_version, found.pci_bus_id) == ("550.54.15", "00000000:01:00.0")
    assert source.read(UUID, CORE).values == {
        "utilization_ratio": 0.37,
        "memory_copy_ratio": 0.12,
        "memory_used_bytes": 40054 * 2**20,
        "memory_size_bytes": 81559 * 2**20,
        "temperature_celsius": 61.0,
        "power_watts": 312.35,
    }


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("[N/A]", 3),
        ("[Not Supported]", 3),
        ("[Insufficient Permissions]", 4),
        ("[Unknown Error]", 999),
        ("[Timeout]", 10),
        ("[GPU requires reset]", 16),
        ("nan", 999),
        ("", 999),
    ],
)
def test_a_cell_without_a_number(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource, cell: str, code: int
) -> None:
    """A word in place of a number is the fault of that value alone, by NVML's code for it."""
    smi.gpus[0]["power.draw"] = cell
    smi.say()
    source.open()
    reading = source.read(UUID, CORE)
    assert reading.faults == {"power_watts": code}
    assert len(reading.values) == 5


@pytest.mark.parametrize("column", ["memory.used", "memory.total"])
def test_half_of_the_memory(smi: FakeNvidiaSmi, source: NvidiaSmiSource, column: str) -> None:
    """Memory in use without the size of it, or the other way round, is not known."""
    smi.gpus[0][column] = "[N/A]"
    smi.say()
    source.open()
    reading = source.read(UUID, CORE)
    assert reading.faults == {"memory_used_bytes": 3}
    assert not {"memory_used_bytes", "memory_size_bytes"} & set(reading.values)
    assert {"utilization_ratio", "temperature_celsius", "power_watts"} <= set(reading.values)


def test_what_it_has_no_column_for(source: NvidiaSmiSource) -> None:
    """What the program cannot print is not supported, which is no error."""
    source.open()
    absent = ("energy_joules", "foreign_processes", "throttled_seconds", "recovery_action")
    assert source.read(UUID, absent).faults == dict.fromkeys(absent, 3)


HEALTHY = {
    "power_limit_watts": 700.0,
    "sm_clock_hertz": 1.98e9,
    "throttle_reasons": {"sw_power_cap", "sw_thermal_slowdown"},
    "memory_clock_hertz": 2.619e9,
    "sm_clock_max_hertz": 1.98e9,
    "memory_clock_max_hertz": 2.619e9,
    "memory_temperature_celsius": 58.0,
    "performance_state": 0,
    "ecc_errors": {"corrected": 3, "uncorrected": 0},
    "ecc_lifetime_errors": {"corrected": 7, "uncorrected": 1},
    "remapped_rows": {"corrected": 0, "uncorrected": 1},
    "row_remap_pending": True,
    "row_remap_failed": False,
}


def test_the_health_of_a_gpu(source: NvidiaSmiSource) -> None:
    """Clocks, reasons, errors and rows are read; a GPU without a fan has no speed of one."""
    source.open()
    reading = source.read(UUID, (*SLOW, *HEALTH))
    assert reading.values == HEALTHY
    assert reading.faults["fan_ratio"] == reading.faults["retired_pages"] == 3


@pytest.mark.parametrize(
    ("unknown", "lost"),
    [
        (["clocks_event_reasons.active"], set()),
        (["remapped_rows.correctable"], {"remapped_rows"}),
        (["ecc.errors.uncorrected.volatile.total"], {"ecc_errors"}),
        (["remapped_rows.pending"], {"row_remap_pending"}),
    ],
)
def test_a_driver_that_lacks_a_column(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource, unknown: list[str], lost: set[str]
) -> None:
    """Only what needs the column is absent, also when the driver changes meanwhile."""
    source.open()
    smi.say(unknown=unknown)
    with pytest.raises(SourceError, match="is not a valid field"):
        source.read(UUID, HEALTH)
    values = source.read(UUID, (*SLOW, *HEALTH)).values
    assert set(HEALTHY) - set(values) - _of_a_lost_query(lost) == lost


def test_a_driver_that_cannot_answer_what_it_lists(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource
) -> None:
    """The core values stay when the query for the others fails."""
    smi.say(broken=["fan.speed"])
    source.open()
    for _ in range(2):
        assert source.read(UUID, CORE).faults == {}
        assert source.read(UUID, ("fan_ratio",)).faults == {"fan_ratio": 3}


def _of_a_lost_query(lost: set[str]) -> set[str]:
    return {name for name in HEALTHY if name != query_of(name) and query_of(name) in lost} - lost


@pytest.mark.parametrize("cell", ["[Unknown Error]", "nonsense", "-", ""])
def test_nonsense_in_a_column_of_health(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource, cell: str
) -> None:
    """What is no answer is a fault of its value alone, and never a number."""
    health = [field for field in FIELDS if list(FIELDS).index(field) > list(FIELDS).index("name")]
    smi.gpus[0].update(dict.fromkeys(health, cell))
    smi.say()
    source.open()
    reading = source.read(UUID, (*CORE, *SLOW, *HEALTH))
    assert len(reading.values) == 5
    assert reading.faults["ecc_errors"] == UNKNOWN


def test_a_gpu_that_is_lost_while_the_other_is_not(tmp_path: Path, source: NvidiaSmiSource) -> None:
    """Its row is all loss and names no GPU; the other one stays."""
    smi = FakeNvidiaSmi(tmp_path, count=2)
    other = smi.gpus[1]["uuid"]
    assert len(source.open()) == 2
    smi.gpus[0] = dict.fromkeys(FIELDS, "[GPU is lost]")
    smi.say()
    assert set(source.read(UUID, CORE).faults.values()) == {GPU_IS_LOST}
    assert source.read(other, CORE).faults == {}
    assert [found.uuid for found in source.open()] == [other]


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        (LOST, 15, "GPU is lost"),
        ("Unable to determine the device handle for GPU0000:C3: Unknown Error", 255, "Unknown"),
        ("No devices were found", 6, "No devices were found"),
        (NO_DRIVER, 9, "the NVIDIA driver is not loaded"),
        (MISMATCH, 18, "do not match"),
        ("", 1, "no output"),
    ],
)
def test_a_failed_run_says_why(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource, text: str, status: int, message: str
) -> None:
    """An exit code other than 0 gives one clear line and no values, and heals by itself."""
    source.open()
    smi.say(exit=status, text=text)
    with pytest.raises(SourceError, match=message) as error:
        source.read(UUID, CORE)
    assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match=message):
        source.open()
    smi.say()
    assert source.read(UUID, CORE).faults == {}


def test_a_field_that_this_version_does_not_know(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource
) -> None:
    """Its own words are passed on."""
    smi.say(unknown=["name"])
    with pytest.raises(SourceError, match="is not a valid field to query"):
        source.open()


@pytest.mark.parametrize(
    "row",
    [
        "garbage",
        "0, GPU-a, 37",
        # A comma in a number, or in the name: which cell is which cannot be known.
        "0, GPU-a, 37, 40054, 81559, 61, 312,35, 550.54.15, 00000000:01:00.0, NVIDIA H100",
        "0, GPU-a, 37, 40054, 81559, 61, 312.35, 550.54.15, 00000000:01:00.0, NVIDIA, H100",
        "0, [N/A], 37, 40054, 81559, 61, 312.35, 550.54.15, 00000000:01:00.0, NVIDIA H100",
        "x, GPU-a, 37, 40054, 81559, 61, 312.35, 550.54.15, 00000000:01:00.0, NVIDIA H100",
    ],
)
def test_output_that_is_no_table(smi: FakeNvidiaSmi, source: NvidiaSmiSource, row: str) -> None:
    """What has not exactly the columns asked for is no GPU, and is no lost one either."""
    source.open()
    smi.program.write_text(f"#!/bin/sh\necho '{row}'\n")
    with pytest.raises(SourceError, match=f"printed no table of GPUs: {re.escape(row)}$"):
        source.open()
    with pytest.raises(SourceError, match="printed no table"):
        source.read(UUID, CORE)


def test_a_row_of_garbage_costs_its_gpu_alone(tmp_path: Path, source: NvidiaSmiSource) -> None:
    """It is unknown, not lost; and one that is listed no more is not found."""
    smi = FakeNvidiaSmi(tmp_path, count=2)
    source.open()
    other = smi.gpus[1]["uuid"]
    smi.gpus[1]["name"] = "one, two"
    smi.say()
    assert set(source.read(other, CORE).faults.values()) == {UNKNOWN}
    assert source.read(UUID, CORE).faults == {}
    del smi.gpus[1]
    smi.say()
    assert set(source.read(other, CORE).faults.values()) == {NOT_FOUND}


def test_no_output_at_all(smi: FakeNvidiaSmi, source: NvidiaSmiSource) -> None:
    """A run without a row lists no GPU."""
    smi.gpus.clear()
    smi.say()
    with pytest.raises(SourceError, match="lists no GPU"):
        source.open()


def test_output_without_an_end(smi: FakeNvidiaSmi, source: NvidiaSmiSource) -> None:
    """It is read up to a bound, and the program is killed."""
    smi.program.write_text("#!/bin/sh\nexec yes garbage\n")
    with pytest.raises(SourceError, match="printed more than 256 KiB"):
        source.open()
    stuck = source._stuck
    assert stuck is not None
    until(lambda: stuck.poll() is not None)


def test_what_a_failed_run_prints_is_quoted_with_care(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource
) -> None:
    """In one short line, without anything that could move a cursor."""
    smi.say(exit=1, text="\n\x1b[2J" + "long " * 1000)
    with pytest.raises(SourceError) as error:
        source.open()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


def test_a_gpu_that_is_added_is_listed(tmp_path: Path, source: NvidiaSmiSource) -> None:
    """The run that a known GPU's values come from shows it."""
    smi = FakeNvidiaSmi(tmp_path)
    source.open()
    assert not source.lists_more()
    smi.gpus.append({**FIELDS, "index": "1", "uuid": "GPU-b"})
    smi.say()
    source.read(UUID, CORE)
    assert source.lists_more()
    assert len(source.open()) == 2
    assert not source.lists_more()


def test_no_program(tmp_path: Path) -> None:
    """Where there is no such program, that is the reason."""
    with pytest.raises(SourceError, match="cannot be run: No such file"):
        NvidiaSmiSource(str(tmp_path / "nvidia-smi")).open()


def test_a_program_that_hangs(smi: FakeNvidiaSmi) -> None:
    """It is killed, nobody waits longer than the timeout, and no second one is piled on it."""
    source = NvidiaSmiSource(str(smi.program), timeout=0.2, max_age=0.0)
    smi.say(seconds=600)
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"within 0\.2 s"):
        source.open()
    assert time.monotonic() - begin < 300
    stuck = source._stuck
    assert stuck is not None
    until(lambda: stuck.poll() is not None)
    smi.say()
    source._timeout = 60.0
    assert source.open()


def test_a_program_that_cannot_even_be_killed(
    smi: FakeNvidiaSmi, source: NvidiaSmiSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other one is started while it is there."""

    class Undead:
        def poll(self) -> None:
            return None

    monkeypatch.setattr(source, "_stuck", Undead())
    with pytest.raises(SourceError, match="cannot be killed"):
        source.open()
    assert smi.calls == 0


def test_one_run_serves_all_gpus(tmp_path: Path) -> None:
    """Sixteen GPUs that ask at once get the answer of one run, a failed one included."""
    smi = FakeNvidiaSmi(tmp_path, count=16)
    now = 100.0
    source = NvidiaSmiSource(str(smi.program), timeout=60.0, max_age=0.8, clock=lambda: now)
    uuids = [found.uuid for found in source.open()]
    opened = smi.calls
    now = 100.5
    assert all(source.read(uuid, CORE).values for uuid in uuids)
    assert source.read(UUID, CORE).age == 0.5  # so that nothing looks younger than it is
    assert smi.calls == opened
    now = 101.0
    smi.say(exit=9, text=NO_DRIVER)
    for uuid in uuids:
        with pytest.raises(SourceError):
            source.read(uuid, CORE)
    assert smi.calls == opened + 1


def test_through_the_monitor(smi: FakeNvidiaSmi) -> None:
    """The four values arrive, by way of nvidia-smi."""
    source = NvidiaSmiSource(str(smi.program), timeout=60.0, max_age=0.0)
    with GPUMonitor(20.0, source) as monitor:
        monitor.wait(60)
        values = monitor.get_gpu_utilization(0)
        assert values == {
            "compute_percent": 37.0,
            "memory_percent": pytest.approx(49.11, abs=0.01),
            "temperature": 61.0,
            "power_watts": 312.35,
        }
        assert monitor.latest().backend == "nvidia-smi"
