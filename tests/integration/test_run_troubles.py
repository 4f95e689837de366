"""Trouble that is no fault of a file: pauses, full disks, signals to the job, GPUs that fail."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.run_program import DEADLINE, arguments, call, results, run, start, told, until

GOOD = b">good\nACGTACGTACGT\n"
WAITING: list[str | Path] = ["--processor", "tests.run_processors:waiting"]


def inputs_of(folder: Path, number: int) -> Path:
    inputs = folder / "in"
    inputs.mkdir()
    for index in range(number):
        (inputs / f"{index}.fa").write_bytes(GOOD)
    return inputs


def begun(inputs: Path, number: int) -> None:
    until(lambda: len(list(inputs.glob("*.begun"))) >= number)


def test_pause_of_everything_blames_no_worker(tmp_path: Path) -> None:
    """Ctrl-Z, a suspended machine: after it each worker gets its whole threshold anew."""
    inputs, output = inputs_of(tmp_path, 2), tmp_path / "out"
    words = [inputs, *WAITING, "--stall-threshold", "1", "--on-stall", "restart"]
    with start(*words, "--file-timeout", "5", output=output) as process:
        begun(inputs, 2)
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        for one in everyone:
            one.suspend()
        time.sleep(6)
        for one in reversed(everyone):
            one.resume()
        (inputs / "go").touch()
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "was paused for" in errors
    assert "new worker" not in errors
    assert "will be retried" not in errors


def test_signal_to_the_whole_job_drains_the_run(tmp_path: Path) -> None:
    """As systemd and SLURM send it: files in process are finished, and no worker is replaced."""
    inputs, output = inputs_of(tmp_path, 6), tmp_path / "out"
    with start(inputs, *WAITING, output=output) as process:
        begun(inputs, 2)
        for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
            one.send_signal(signal.SIGTERM)
        told(process, "will finish")
        (inputs / "go").touch()
        out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(results(output)) == 2
    assert "0 failed" in out
    assert "new worker" not in errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"small", os.fsencode(folder), b"tmpfs", 0, b"size=4m"):
        pytest.skip(f"tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)


def fill(folder: Path) -> Path:
    """Leave no room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
            size //= 2
    return ballast


def test_full_disk_is_waited_for(tmp_path: Path, small_disk: Path) -> None:
    """No file is charged, one line tells of it, and when there is room again all are done."""
    inputs, output = inputs_of(tmp_path, 12), small_disk / "out"
    (inputs / "0.fa").write_bytes(GOOD * 10_000)
    with start(inputs, *WAITING, "--max-attempts", "1", output=output) as process:
        begun(inputs, 2)
        ballast = fill(small_disk)
        (inputs / "go").touch()
        errors = told(process, "no file is started")
        ballast.unlink()
        out, rest = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, rest
    assert "12 files done, 0 failed" in out
    assert len(results(output)) == 12
    assert "".join([*errors, rest]).count("no file is started") == 1


def test_disk_that_stays_full_ends_the_run(tmp_path: Path, small_disk: Path) -> None:
    """After a while, with its own line; the same command resumes it when there is room."""
    inputs, output = inputs_of(tmp_path, 6), small_disk / "out"
    for file in inputs.iterdir():
        file.write_bytes(GOOD * 10_000)
    words = [inputs, *WAITING, "--max-attempts", "1", "--storage-patience", "2"]
    with start(*words, output=output) as process:
        begun(inputs, 2)
        ballast = fill(small_disk)
        (inputs / "go").touch()
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "given up" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("virnucpro-exporter: ")
    assert "disk" in last
    ballast.unlink()
    assert call(arguments(*words, output=output)).returncode == 0
    assert len(results(output)) == 6


def test_mistake_in_a_command_ends_the_run_early(tmp_path: Path) -> None:
    """Errors that are the same on file after file: not all 13 files are tried three times."""
    inputs, count = inputs_of(tmp_path, 13), tmp_path / "count"
    command = ["sh", "-c", f'echo x >> {count}; echo "$0: no such model" >&2; exit 1', "{input}"]
    done = run(inputs, "--", *command, output=tmp_path / "out")
    assert done.returncode == 5
    assert len(count.read_text().split()) <= 12
    assert "all files fail with the same error" in done.stderr.splitlines()[-1]
    assert "left" in done.stdout


def test_halt_never_and_now(tmp_path: Path) -> None:
    """All files are tried, or none after the first that failed."""
    inputs = inputs_of(tmp_path, 5)
    never = run(inputs, "--halt", "never", "--", "false", output=tmp_path / "never")
    assert never.returncode == 1
    assert "5 failed, 0 skipped, 0 left" in never.stdout
    words = ["--halt", "now,fail=1", "--max-attempts", "1"]
    now = run(inputs, *words, "--", "false", output=tmp_path / "now", workers=1)
    assert now.returncode == 5
    assert "1 failed, 0 skipped, 4 left" in now.stdout
    refused = run(inputs, "--halt", "later", output=tmp_path / "later")
    assert refused.returncode == 2
    assert "--halt 'later': must be" in refused.stderr


def test_gpu_that_is_given_up_is_named_at_the_end(tmp_path: Path) -> None:
    """All files have their results, and the status says that not all GPUs did them."""
    inputs = inputs_of(tmp_path, 4)
    words: list[str | Path] = [inputs, "--processor", "tests.run_processors:Picky"]
    with start(*words, output=tmp_path / "out") as process:
        told(process, "cpu0 is given up")
        (inputs / "go").touch()
        out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 4
    assert "4 files done, 0 failed" in out
    last = errors.splitlines()[-1]
    assert last.startswith("virnucpro-exporter: ")
    assert "cpu0 (processor setup failed: ValueError: no model" in last
