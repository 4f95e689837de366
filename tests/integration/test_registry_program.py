from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run_program import PROGRAM, READS, ROOT, address, ask, until

READ = str(READS)


class Machine:
    """A machine of its own: a folder for runs, and what `serve` remembers.

    Args:
        folder: For all of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.registry = folder / "registry"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Machine:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, command: str, *words: str | Path) -> subprocess.Popen[str]:
        """Start a command; it does not outlive the test."""
        process = subprocess.Popen(
            [*PROGRAM, command, f"--run-registry={self.registry}", *words],
            cwd=ROOT,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._stack.callback(_end, process)
        return process

    def serve(self) -> tuple[subprocess.Popen[str], str]:
        """Start `serve`; its process and address."""
        words = ["--web-listen-address=127.0.0.1:0", f"--state-dir={self._folder / 'state'}"]
        process = self.start("serve", "--simulate-gpus=2", *words)
        return process, address(process)

    def run(self, name: str, command: str, *words: str) -> subprocess.Popen[str]:
        """Start a run of a shell command for each file."""
        output = self._folder / name
        fixed = ["--gpus=cpu:1", "--no-dashboard", f"--output={output}", *words]
        return self.start("run", READ, *fixed, "--", "sh", "-c", command)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine of its own."""
    with Machine(tmp_path) as machine:
        yield machine


def results(where: str) -> dict[str, str]:
    """How each run ended, as `serve` tells."""
    found = {}
    for line in ask(where, "/metrics")[1].splitlines():
        if line.startswith("virnucpro_run_result{") and line.endswith(" 1.0"):
            labels = dict(part.split("=") for part in line[line.index("{") + 1 : -5].split(","))
            found[labels["run"].strip('"')] = labels["result"].strip('"')
    return found


# It is quick to end, so that a drain is, too.
SLOW = "sleep 2; cp {input} {output}"


def test_serve_tells_how_each_run_ended(machine: Machine) -> None:
    """Killed, failed at once and interrupted; also after a restart, and no run has a port."""
    server, where = machine.serve()
    killed, stopped = machine.run("killed", SLOW), machine.run("stopped", SLOW)
    running = 'virnucpro_run_state{run="%s",state="running"} 1.0'
    until(lambda: all(running % n in ask(where, "/metrics")[1] for n in ("killed", "stopped")))
    assert json.loads(ask(where, "/sd")[1]) == []
    page = ask(where, "/")[1]
    assert "killed" in page
    killed.kill()
    stopped.send_signal(signal.SIGINT)
    failed = machine.run("failed", "exit 3")
    ends = {"killed": "vanished", "stopped": "interrupted", "failed": "failed"}
    until(lambda: results(where) == ends)
    assert failed.wait() == 5
    assert stopped.wait() == 130

    server.terminate()
    assert server.wait() == 0
    _, where = machine.serve()
    until(lambda: results(where) == ends)
    until(lambda: 'virnucpro_gpu_up{gpu="1"} 1.0' in ask(where, "/metrics")[1])
    assert 'virnucpro_worker_up{gpu="cpu0",run="killed"}' not in ask(where, "/metrics")[1]


def test_a_run_with_an_address_of_its_own_is_a_target(machine: Machine, tmp_path: Path) -> None:
    """`/sd` and the file name it; the file goes with the run, although that is killed."""
    _, where = machine.serve()
    targets = tmp_path / "targets"
    targets.mkdir()
    words = ("--web-listen-address=127.0.0.1:0", f"--target-file={targets}", "--run-name=night")
    run = machine.run("out", SLOW, *words)
    own = address(run)
    port = own.rpartition(":")[2]
    until(lambda: json.loads(ask(where, "/sd")[1]))
    (group,) = json.loads(ask(where, "/sd")[1])
    assert group["targets"] == [f"localhost:{port}"]
    assert group["labels"]["run"] == "night"
    (file,) = targets.iterdir()
    assert json.loads(file.read_text()) == [group]
    run.kill()
    until(lambda: not list(targets.iterdir()))


def test_a_run_that_nobody_reads_gives_the_prompt_back(machine: Machine) -> None:
    """A taken port is no obstacle, and without a reader nothing lingers."""
    run = machine.run("out", "cp {input} {output}")
    _, told = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "the last values stay" not in told
