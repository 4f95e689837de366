"""Starts `virnucpro-exporter run` as a user would, and looks at what it leaves behind."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
READS = ROOT / "examples" / "reads"
PROGRAM: list[str | Path] = [sys.executable, "-m", "virnucpro_exporter"]
QUIET = ["--no-web", "--linger", "0", "--no-dashboard"]
DEADLINE = 100.0


def as_a_job() -> None:
    """Make a process group, as a shell does for each job; to be called in the new process.

    Ctrl-Z stops no process whose group has no parent in the session: no shell could continue it.
    The tests' own group has none where a container or a service runs them.
    """
    os.setpgrp()


def until(condition: Callable[[], object]) -> None:
    """Wait for something that has to happen."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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


def call(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end; none may ever show a traceback."""
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, timeout=DEADLINE, check=False
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
    assert process.stderr is not None
    for line in process.stderr:
        if " metrics: http://" in line:
            return line.rpartition("//")[2].removesuffix("/metrics\n")
    raise AssertionError("no address was told")


def ask(where: str, path: str, **headers: str) -> tuple[int, str]:
    """The status and the body of an answer."""
    client = http.client.HTTPConnection(where, timeout=DEADLINE)
    client.request("GET", path, headers=headers)
    response = client.getresponse()
    body = response.read().decode()
    client.close()
    return response.status, body
