"""Reading what nvidia-smi prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro_exporter.gpu.nvidia_smi import NvidiaSmiSource, parse
from virnucpro_exporter.gpu.sources import CORE, GPU_IS_LOST, SourceError

ROW = "0, GPU-a, 37, 40054, 81559, 61, 312.35, 550.54, 00000000:01:00.0, NVIDIA H100, 80GB"


def _program(folder: Path, text: str, code: int) -> NvidiaSmiSource:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return NvidiaSmiSource(str(program))


def test_a_row_becomes_base_units(tmp_path: Path) -> None:
    """MiB become bytes and percent a ratio, and a comma in the name shifts nothing."""
    source = _program(tmp_path, ROW, 0)
    assert source.open()[0].name == "NVIDIA H100, 80GB"
    assert source.read("GPU-a", CORE).values == {
        "utilization_ratio": 0.37,
        "memory_used_bytes": 40054 * 2**20,
        "memory_size_bytes": 81559 * 2**20,
        "temperature_celsius": 61.0,
        "power_watts": 312.35,
    }


@pytest.mark.parametrize(
    "cell",
    ["[N/A]", "[Not Supported]", "[Insufficient Permissions]", "[Unknown Error]", "[Timeout]"],
)
def test_a_cell_without_a_number_is_absent(cell: str) -> None:
    """A word in place of a number is a fault of that value alone."""
    _, reading = parse(ROW.replace("312.35", cell))["GPU-a"]
    assert list(reading.faults) == ["power_watts"]
    assert len(reading.values) == 4


def test_a_lost_row_is_a_lost_gpu() -> None:
    """A row that is all loss names no GPU."""
    assert parse(", ".join(["[GPU is lost]"] * 10)) == {}
    source = NvidiaSmiSource(clock=lambda: float("-inf"))
    assert set(source.read("GPU-a", CORE).faults.values()) == {GPU_IS_LOST}


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("Unable to determine the device handle: GPU is lost.", 15, "GPU is lost"),
        ("Unable to determine the device handle: Unknown Error", 255, "Unknown Error"),
        ("No devices were found", 6, "No devices were found"),
        ("NVIDIA-SMI has failed because it couldn't communicate", 9, "not loaded"),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "do not match"),
        ('Field "foo" is not a valid field to query.', 2, "not a valid field"),
    ],
)
def test_a_failed_run_says_why(tmp_path: Path, text: str, code: int, message: str) -> None:
    """An exit code other than 0 gives one clear line and no values."""
    with pytest.raises(SourceError, match=message):
        _program(tmp_path, text, code).open()
