"""What `gpus` shows of each GPU."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from tests import builders
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
from virnucpro_exporter.snapshot import CollectorHealth, GpuDevice, GpuSample, GpuSnapshot
from virnucpro_exporter.terminal.gpus_table import gpus_view

GOLDEN = Path(__file__).parents[1] / "golden"
GIB = 2**30
FULL = GpuSample(
    builders.NOW, 0.97, 60 * GIB, 80 * GIB, 71.0, 312.3, 700.0, 5e6, 1.98e9, frozenset(), 0
)
SLOW = frozenset({"hw_power_brake_slowdown", "hw_thermal_slowdown", "sw_power_cap"})
SCENE = GpuSnapshot(
    builders.NOW,
    "nvitop",
    (
        GpuDevice("0", "GPU-4d3a1c22-1", "NVIDIA H100 80GB HBM3", up=True, sample=FULL),
        GpuDevice(
            "1",
            "GPU-9f00aa01-1",
            "NVIDIA RTX 6000 Ada Generation with a very long name",
            up=True,
            sample=GpuSample(
                builders.NOW, 0.41, None, None, 88.0, None, 300.0, None, None, SLOW, 2
            ),
            reasons=(
                ("energy_joules", "NO_PERMISSION"),
                ("memory_used_bytes", "NOT_SUPPORTED"),
                ("power_watts", "implausible value 4294967.295"),
                ("sm_clock_hertz", "TIMEOUT"),
            ),
        ),
        GpuDevice("2", reasons=(("", "GPU_IS_LOST"),)),
        GpuDevice(
            "3:1",
            "MIG-77ab0001-1",
            "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
            up=True,
            sample=GpuSample(builders.NOW, None, 0, 20 * GIB, throttle_reasons=None),
            reasons=(("utilization_ratio", "NOT_SUPPORTED"),),
        ),
    ),
)


def draw(snapshot: GpuSnapshot, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, height=60, force_terminal=False)
    console.print(gpus_view(snapshot, width=width))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_looks_as_agreed(width: int) -> None:
    """Every column that fits, dashes for what is missing, and below why it is."""
    drawn = draw(SCENE, width)
    assert max(map(len, drawn.splitlines())) <= width
    builders.check_golden(GOLDEN / f"gpus_{width}.txt", drawn)


@pytest.mark.parametrize(("gpus", "height"), [(2, 9), (16, 9), (64, 23), (3, 3)])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_gpu_is_hidden_without_a_word(gpus: int, height: int, width: int) -> None:
    """What is drawn in place fits the terminal, trouble comes first, and the rest is counted."""
    snapshot = builders.gpu_lost(gpus)
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(gpus_view(snapshot, width=width, height=height))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    rows = [line for line in lines[1:] if re.match(r"\d+ ", line)]
    hidden = [int(found[1]) for line in lines if (found := re.match(r"\+(\d+) more: .* up$", line))]
    assert len(rows) + sum(hidden) == gpus
    assert any(row.split()[0] == str(gpus - 1) for row in rows)
    assert not hidden or rows[0].split()[0] == str(gpus - 1)


def test_the_rows_are_json() -> None:
    """Every name has its unit, what is missing is null and has a reason."""
    row = rows(SCENE)[1]
    assert row["temperature_celsius"] == 88.0
    assert row["throttle_reasons"] == sorted(SLOW)
    assert row["power_watts"] is None
    assert row["reasons"]["power_watts"].startswith("implausible")
    assert rows(SCENE)[2]["reasons"] == {"gpu": "GPU_IS_LOST"}


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (SCENE, ""),
        (GpuSnapshot(0.0), "the NVIDIA driver does not answer"),
        (GpuSnapshot(0.0, health=CollectorHealth(success=False, reason="no driver")), "no driver"),
        (
            GpuSnapshot(0.0, devices=(SCENE.devices[2],) * 2),
            "GPU 2 is down (GPU_IS_LOST); GPU 2 is down (GPU_IS_LOST)",
        ),
    ],
)
def test_why_no_gpu_works(snapshot: GpuSnapshot, why: str) -> None:
    """One line, whether nothing answers, nothing is there, or everything is down."""
    assert why_no_gpus(snapshot) == why
