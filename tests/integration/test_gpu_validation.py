"""The script for a person with a real GPU, as far as it can be tried without one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.nvidia_smi_stub import FakeNvidiaSmi
from tests.nvml_stub.stub import NvmlStub
from tests.run_program import call

SCRIPT: list[str | Path] = [sys.executable, "-m", "benchmarks.gpu_validation"]
QUICK: list[str | Path] = ["--moments", "3", "--interval", "0.3", "--warm-up", "0"]


@pytest.fixture
def machine(
    nvml_stub: NvmlStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[NvmlStub, FakeNvidiaSmi]:
    """Two GPUs about which the library and nvidia-smi say the same."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(nvml_stub.library).parent))
    smi = FakeNvidiaSmi(tmp_path, count=2)
    nvml_stub.set(count=2)
    for gpu in range(2):
        used, size = 40054 * 2**20, 81559 * 2**20
        nvml_stub.set(**{f"g{gpu}_mem_used": used, f"g{gpu}_mem_total": size})
    return nvml_stub, smi


def test_values_that_agree(machine: tuple[NvmlStub, FakeNvidiaSmi]) -> None:
    """A table of all GPUs and values, with the driver, and status 0."""
    _, smi = machine
    done = call([*SCRIPT, *QUICK, "--load", "sleep 600", "--program", smi.program])
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("Driver 550.54.15, Linux ")
    assert len(lines) == 5 + 8
    model = "NVIDIA H100 80GB HBM3"
    assert f"| 0 | {model} | power | 3 | 312.4 to 312.4 W | 0.0 | 0.0 | 100% |" in lines
    assert f"| 1 | {model} | utilisation | 3 | 37.0 to 37.0 points | 0.0 | 0.0 | 100% |" in lines


def test_values_that_do_not(machine: tuple[NvmlStub, FakeNvidiaSmi]) -> None:
    """Each that is out of its tolerance is named, the others are not, and the status is 1."""
    stub, smi = machine
    stub.set(g1_power_mw=350_000, g1_temp=63, g0_util=48)
    done = call([*SCRIPT, *QUICK, "--load", "none", "--program", smi.program])
    assert done.returncode == 1
    assert done.stderr.strip() == "Not within the tolerance: GPU 0: utilisation; GPU 1: power"


def test_a_value_that_is_missing(machine: tuple[NvmlStub, FakeNvidiaSmi]) -> None:
    """It is said to be missing, and never compared as if it were 0."""
    stub, smi = machine
    stub.fail(0, "nvmlDeviceGetPowerUsage", 3)
    done = call([*SCRIPT, *QUICK, "--load", "none", "--program", smi.program])
    assert done.returncode == 0
    assert "power | 0 | | | | not given |" in done.stdout


def test_a_load_that_ends(machine: tuple[NvmlStub, FakeNvidiaSmi]) -> None:
    """Idle GPUs would agree about nothing worth knowing."""
    _, smi = machine
    done = call([*SCRIPT, *QUICK, "--load", "true", "--warm-up", "1", "--program", smi.program])
    assert done.returncode == 2
    assert "the load has ended" in done.stderr


@pytest.mark.parametrize("failing", ["library", "program"])
def test_without_gpus(machine: tuple[NvmlStub, FakeNvidiaSmi], failing: str) -> None:
    """The status is 3, with the reason."""
    stub, smi = machine
    if failing == "library":
        stub.set(init=9)
    else:
        smi.say(exit=9, text="no driver")
    done = call([*SCRIPT, *QUICK, "--load", "none", "--program", smi.program])
    assert done.returncode == 3
    assert "the NVIDIA driver is not loaded" in done.stderr
