"""`gpus` and `serve` as a user starts them, on the stand-ins for the library and for nvidia-smi."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.nvidia_smi_stub import FakeNvidiaSmi
from tests.nvml_stub.stub import NvmlStub
from tests.run_program import DEADLINE, PROGRAM, ROOT, address, as_a_job, ask, call, until

GPUS = [*PROGRAM, "gpus"]


@pytest.fixture
def stub(nvml_stub: NvmlStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NvmlStub:
    """The library as the loader finds it, and no nvidia-smi."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(nvml_stub.library).parent))
    monkeypatch.setenv("PATH", str(tmp_path))
    return nvml_stub


@contextmanager
def started(*words: str, output: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*PROGRAM, *words],
        cwd=ROOT,
        stdout=output,
        stderr=output,
        preexec_fn=as_a_job,  # noqa: PLW1509 - process_group needs Python 3.11
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (9, "the NVIDIA driver is not loaded"),
        (12, "the NVIDIA library libnvidia-ml.so.1 was not found; is the driver installed?"),
        (18, "the NVIDIA driver and library versions do not match; reboot, or reload the driver"),
        (4, "no permission to use the NVIDIA driver; can this user open /dev/nvidiactl?"),
    ],
)
def test_without_gpus_one_line_says_why(stub: NvmlStub, code: int, why: str) -> None:
    """The exit status is 3, and nothing is on standard output."""
    stub.set(init=code)
    done = call(GPUS)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith(f"virnucpro-exporter: No GPU can be used: {why}")
    assert done.stderr.count("\n") == 1


def test_a_library_that_cannot_be_loaded(
    stub: NvmlStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is as good as none."""
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    done = call([*GPUS, "--json"])
    assert done.returncode == 3
    assert "libnvidia-ml.so.1 was not found" in done.stderr
    assert stub.path.exists()


def test_the_table_and_the_lines(stub: NvmlStub) -> None:
    """GPUs that work and one that does not: exit status 0, with the reasons."""
    stub.set(count=3, g1_lost=15)
    stub.fail(2, "nvmlDeviceGetPowerUsage", 3)
    done = call(GPUS)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["GPU", "0", "1", "2"]
    assert lines[-2:] == ["GPU 1 is down: GPU_IS_LOST", "GPU 2 has no power: NOT_SUPPORTED"]
    done = call([*GPUS, "--json"])
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["up"] for item in objects] == [True, False, True]
    assert objects[2]["power_watts"] is None
    assert objects[0]["power_watts"] == 312.35


def test_the_fallback(stub: NvmlStub, tmp_path: Path) -> None:
    """With a library that does not match, nvidia-smi is found on PATH and used."""
    stub.set(init=18)
    FakeNvidiaSmi(tmp_path, count=2)
    objects = [json.loads(line) for line in call([*GPUS, "--json"]).stdout.splitlines()]
    assert [item["power_watts"] for item in objects] == [312.35, 312.35]
    assert objects[0]["reasons"]["energy_joules"] == "NOT_SUPPORTED"


def test_a_gpu_that_hangs_from_the_start(stub: NvmlStub) -> None:
    """The others are shown, the command ends, and it does not look like no GPU."""
    stub.set(count=2, g1_delay_ms=3_600_000)
    done = call([*GPUS, "--json"])
    assert done.returncode == 0
    one, other = (json.loads(line) for line in done.stdout.splitlines())
    assert one["up"]
    assert other["reasons"] == {"gpu": "TIMEOUT"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watching_ends_with_a_signal(number: signal.Signals) -> None:
    """On a terminal the table is drawn in its place; the end leaves the cursor visible."""
    ours, theirs = pty.openpty()
    with started("gpus", "--watch", "--simulate-gpus", "2", output=theirs) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"GeForce RTX 3090") < 2:  # drawn twice
            shown += os.read(ours, 4096)
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0
        while not shown.endswith(b"\x1b[?25h"):
            shown += os.read(ours, 4096)
    os.close(ours)
    assert b"\x1b[?25l" in shown


def test_ctrl_z_gives_the_cursor_back_while_watching() -> None:
    """The process is stopped with the cursor visible; continued, it hides it and draws anew."""
    ours, theirs = pty.openpty()
    with started("gpus", "--watch", "--interval=1", "--simulate-gpus=2", output=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"GeForce RTX 3090" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGTSTP)
        stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert stopped is not None
        while not shown.endswith(b"\x1b[?25h\r\r\n"):
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGCONT)
        shown = b""
        while b"GeForce RTX 3090" not in shown:
            shown += os.read(ours, 4096)
        assert shown.index(b"\x1b[?25l") < shown.index(b"GeForce RTX 3090")
    os.close(ours)


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """A server, and a way to ask it for a page: the status, unless all is well, and the text."""
    with subprocess.Popen(
        [*PROGRAM, "serve", "--web-listen-address=127.0.0.1:0"],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            where = address(process)

            def page(path: str) -> str:
                status, text = ask(where, path)
                return text if status == 200 else f"{status} {text}"

            yield process, page
        finally:
            process.kill()


def test_serving_ends_although_a_gpu_hangs(stub: NvmlStub) -> None:
    """SIGTERM ends it at once, and until then the hung GPU is down and the others are up."""
    stub.set(count=2)
    with serving() as (process, page):
        until(lambda: 'gpu_up{gpu="1"} 1' in page("/metrics"))
        stub.set(g1_delay_ms=3_600_000)
        until(lambda: 'gpu_up{gpu="1"} 0' in page("/metrics"))
        text = page("/metrics")
        assert 'virnucpro_gpu_power_watts{gpu="0"} 312.35' in text
        assert 'virnucpro_gpu_power_watts{gpu="1"}' not in text
        assert 'virnucpro_collector_success{collector="gpu"} 1' in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_serving_without_a_driver(stub: NvmlStub) -> None:
    """A node without a driver is a failure of the collector and not ready, and heals."""
    stub.set(init=9)
    with serving() as (_, page):
        until(lambda: 'collector_success{collector="gpu"} 0' in page("/metrics"))
        text = page("/metrics")
        assert 'gpu_monitor_info{backend="none"} 1' in text
        assert "gpu_up{" not in text
        ready = page("/-/ready")
        assert ready.startswith("503")
        assert "the NVIDIA driver is not loaded" in ready
        stub.set(init=None)
        until(lambda: 'gpu_up{gpu="0"} 1' in page("/metrics"))
        assert 'collector_success{collector="gpu"} 1' in page("/metrics")
