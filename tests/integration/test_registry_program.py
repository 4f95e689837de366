from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import Machine, results
from tests.run_program import DEADLINE, address, ask, until
from virnucpro_exporter.web.addresses import bind_near


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine of its own."""
    with Machine(tmp_path) as machine:
        yield machine


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
    """Without a reader nothing lingers. The port is the run's own: others read the usual one."""
    run = machine.run("out", "cp {input} {output}", "--web-listen-address=127.0.0.1:0")
    _, told = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0
    assert "the endpoint stays up" not in told


def test_a_usual_port_that_is_taken_is_no_obstacle() -> None:
    """The next one that is free is used."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (near,) = bind_near(f"127.0.0.1:{port}")
        with near:
            assert port < near.getsockname()[1] <= port + 100
