"""Starts `virnucpro-exporter run` as a user would, and looks at what it leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
READS = ROOT / "examples" / "reads"
PROGRAM: list[str | Path] = [sys.executable, "-m", "virnucpro_exporter"]
QUIET = ["--no-web", "--linger", "0", "--no-dashboard"]
DEADLINE = 100.0

# Has programs in Python tell where they are when `until` has waited in vain.
TELLING = {"PYTHONFAULTHANDLER": "1"}


def as_a_job() -> None:
    """Make a process group, as a shell does for each job; to be called in the new process.

    Ctrl-Z stops no process whose group has no parent in the session: no shell could continue it.
    The tests' own group has none where a container or a service runs them.
    """
    os.setpgrp()


def until(condition: Callable[[], object]) -> None:
    """Wait for something that has to happen; if it does not, tell what the programs are doing."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"it has not happened within {DEADLINE:g} s\n{scene()}")
        time.sleep(0.01)


def scene() -> str:
    """The processes that descend from this one, and what they have told that nobody has read.

    Programs in Python that have its fault handler also tell where they are; they end by that.
    """
    lines: list[str] = []
    streams: dict[str, int] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            command = " ".join(process.cmdline())
            lines.append(f"{process.pid} of {process.ppid()}, {process.status()}: {command}")
            for path in (f"/proc/{process.pid}/fd/1", f"/proc/{process.pid}/fd/2"):
                name = str(Path(path).readlink())
                if name.startswith(("/", "pipe:")) and name not in {*streams, os.devnull}:
                    streams[name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if "python" in process.name() and "PYTHONFAULTHANDLER" in process.environ():
                process.send_signal(signal.SIGABRT)
    time.sleep(1)
    for name, stream in streams.items():
        with contextlib.suppress(OSError):
            lines.append(f"{name}:\n{os.read(stream, 1 << 16).decode(errors='replace')}")
        os.close(stream)
    return "\n".join(lines)


def arguments(*words: str | Path, output: Path, workers: int = 2) -> list[str | Path]:
    """The command line of a run; what follows `--` stays last."""
    has_cluster = any(str(word).startswith("--dask") for word in words)
    slots = [] if has_cluster else [f"--gpus=cpu:{workers}"]
    return [*PROGRAM, "run", *QUIET, *slots, "--output", output, *words]


def start(*words: str | Path, output: Path, workers: int = 2) -> subprocess.Popen[str]:
    """Start a run and return at once."""
    return subprocess.Popen(
        arguments(*words, output=output, workers=workers),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(
    command: list[str | Path], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end; none may ever show a traceback."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def run(*words: str | Path, output: Path, workers: int = 2) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return call(arguments(*words, output=output, workers=workers))


def results(folder: Path) -> dict[bytes, bytes]:
    """What a user finds in an output folder: the content of each file, by name."""
    return {
        os.fsencode(path.name): path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name not in {"gpu_metrics.log", "run.json"}
    }


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes alive whose command line names a folder."""
    everyone = psutil.process_iter(["cmdline"])  # those that have just ended have none
    return [p for p in everyone if str(folder) in " ".join(p.info["cmdline"] or ())]


def address(process: subprocess.Popen[str]) -> str:
    """The HOST:PORT that a program tells on standard error."""
    *_, line = told(process, " metrics: http://")
    return line.rpartition("//")[2].removesuffix("/metrics\n")


def told(process: subprocess.Popen[str], words: str) -> list[str]:
    """The next lines that a program tells on standard error, up to one with these words."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"{words!r} was not told:\n{''.join(lines)}")


def ask(where: str, path: str, **headers: str) -> tuple[int, str]:
    """The status and the body of an answer."""
    client = http.client.HTTPConnection(where, timeout=DEADLINE)
    client.request("GET", path, headers=headers)
    response = client.getresponse()
    body = response.read().decode()
    client.close()
    return response.status, body
