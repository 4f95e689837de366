"""The pool with real worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import events as said
from tests.pool_driver import DEADLINE, FACTORY, Driver, until
from virnucpro_exporter.scheduling.events import (
    AttemptCompleted,
    AttemptFailed,
    AttemptStarted,
    LossCause,
    SignOfLife,
    WorkerLost,
    WorkerReady,
)
from virnucpro_exporter.workers.sentinel import family

BUILD = "virnucpro_exporter.processors:build"


def test_a_batch_is_processed_in_order(drive: Callable[..., Driver]) -> None:
    """Every file of a batch too large for one packet completes, in order, bytes of any kind."""
    driver = drive()
    driver.wait(WorkerReady)
    names = [f"ok.\udcff {'x' * 3000}{i}" for i in range(100)]
    driver.start(*names)
    done = driver.wait(AttemptCompleted, 100)
    assert [event.attempt for event in done] == list(range(1, 101))
    assert done[0].residues == len(names[0])


def test_outputs_lie_in_the_folder_of_the_attempt(drive: Callable[..., Driver]) -> None:
    """The environment pins the worker, and its outputs are named as they were found."""
    driver = drive({"outputs": True})
    driver.wait(WorkerReady)
    driver.start("env.\udcff")
    (done,) = driver.wait(AttemptCompleted)
    assert done.outputs == ("env.\udcff.out",)
    assert (driver.attempts / "1" / done.outputs[0]).read_text() == "pina"


def test_an_exception_and_what_is_printed_go_into_the_log(drive: Callable[..., Driver]) -> None:
    """The traceback behind the one line of an error, and the processor's own output."""
    driver = drive()
    driver.wait(WorkerReady)
    driver.start("raise", "print")
    driver.wait(AttemptCompleted)
    log = driver.pool.log_path("a").read_text()
    assert "Traceback" in log
    assert "to standard output" in log


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("exit", "exited with status 3"),
        ("sigkill", "was killed by SIGKILL (out of memory?)"),
        ("closechannel", "closed its channel to the run and was killed"),
    ],
)
def test_a_dead_worker_names_the_file_that_killed_it(
    drive: Callable[..., Driver], name: str, reason: str
) -> None:
    """The attempt in process is known after a death, and a new worker can be spawned."""
    driver = drive()
    driver.wait(WorkerReady)
    driver.start("ok", name, "ok")
    assert driver.wait(WorkerLost) == [said.lost("a", reason, running=2)]
    driver.pool.spawn("a")
    driver.wait(WorkerReady)


@pytest.mark.parametrize(
    ("setup", "reason"),
    [("raise", "ValueError: no model here"), ("exit", "the worker exited with status 4")],
)
def test_a_failed_setup_is_final(drive: Callable[..., Driver], setup: str, reason: str) -> None:
    """A processor that cannot be set up is told once and is not worth a restart."""
    (lost,) = drive({"setup": setup}).wait(WorkerLost)
    cause = LossCause.DIED_LOADING if setup == "exit" else LossCause.SETUP_FAILED
    assert lost == said.lost("a", f"processor setup failed: {reason}", cause)


def test_cancel_kills_what_cannot_be_stopped(drive: Callable[..., Driver]) -> None:
    """A Python processor dies with its worker and children, stopped or not, without blame."""
    driver = drive()
    driver.wait(WorkerReady)
    driver.start("hang")
    driver.wait(AttemptStarted)
    pid = driver.pid
    until(lambda: len(family(pid)) == 2)
    os.kill(pid, signal.SIGSTOP)
    driver.pool.cancel("a", 1)
    assert driver.wait(WorkerLost) == [said.lost("a", "cancelled", LossCause.CANCELLED)]
    until(lambda: not family(pid))


def test_cancel_kills_the_whole_command(drive: Callable[..., Driver]) -> None:
    """A command's group dies on cancel, and its worker lives on."""
    argv = ["sh", "-c", "sleep 1000 & sleep 1000", "{input}"]
    driver = drive({"kind": "command", "argv": argv}, BUILD)
    driver.wait(WorkerReady)
    pid = driver.pid
    driver.start("file")
    until(lambda: len(family(pid)) >= 4)
    driver.pool.cancel("a", 1)
    assert driver.wait(AttemptFailed) == [said.failed("a", 1, "cancelled")]
    until(lambda: family(pid) == {pid})


BUSY = ["sh", "-c", "setsid sh -c 'while :; do :; done' & wait", "{input}"]


@pytest.mark.parametrize(
    ("spec", "factory", "name"),
    [
        ({}, FACTORY, "compute"),
        ({"outputs": True}, FACTORY, "grow"),
        ({"uses_gpu": True}, FACTORY, "sleep"),
        ({"kind": "command", "argv": BUSY}, BUILD, "file"),
    ],
)
def test_a_silent_worker_that_works_shows_signs_of_life(
    drive: Callable[..., Driver], spec: dict[str, Any], factory: str, name: str
) -> None:
    """Processor time of all it started, growing outputs and use of its GPU are signs."""
    driver = drive(spec, factory)
    driver.wait(WorkerReady)
    driver.start(name)
    assert driver.wait(SignOfLife) == [said.alive("a", 1)]
    driver.pool.cancel("a", 1)


def test_a_worker_that_does_nothing_shows_no_signs_of_life(drive: Callable[..., Driver]) -> None:
    """Neither one that waits in vain nor one without a file; nothing is looked at after the end."""
    driver = drive({"outputs": True})
    driver.wait(WorkerReady)
    driver.start("sleep")
    driver.wait(AttemptStarted)
    vitals = driver.pool._vitals
    looks = 0
    while looks < 5:
        before = vitals._before
        until(lambda before=before: vitals._before is not before)  # type: ignore[misc]
        looks += bool(vitals._before)
        assert not [event for event in driver.pool.poll(0) if isinstance(event, SignOfLife)]
    vitals.stop()
    vitals.look()
    assert not vitals._before


def test_idle_workers_close_their_processors(tmp_path: Path, drive: Callable[..., Driver]) -> None:
    """At the end an idle worker closes its processor; one that is at work is left to `close`."""
    marker = tmp_path / "closed"
    driver = drive({"close": str(marker)})
    driver.wait(WorkerReady)
    driver.start("hang")
    driver.wait(AttemptStarted)
    driver.pool.close_idle(DEADLINE)
    assert not marker.exists()
    driver.pool.kill("a")
    driver.pool.spawn("a")
    driver.wait(WorkerReady)
    driver.pool.close_idle(DEADLINE)
    assert marker.read_text() == "a"


def test_a_processor_that_does_not_close_is_killed(drive: Callable[..., Driver]) -> None:
    """Whoever takes longer to close than it was given can still be killed."""
    driver = drive({"close": "hang"})
    driver.wait(WorkerReady)
    pid = driver.pid
    driver.pool.close_idle(0.1)
    driver.pool.kill("a")
    until(lambda: not family(pid))  # killed, and reaped once the kernel has ended it


PARENT = """
import json, os, signal, sys, time
from pathlib import Path
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.scheduling.commands import StartAttempt
from virnucpro_exporter.scheduling.events import AttemptStarted, WorkerReady
from virnucpro_exporter.scheduling.files import SequenceFile
folder = Path(sys.argv[1])
spec = {"kind": "command", "argv": ["sh", "-c", "sleep 1000 & sleep 1000"]}
pool = LocalPool(spec, "virnucpro_exporter.processors:build", folder, folder, {})
for gpu in "ab": pool.spawn(gpu)
started = 0
while started < 2:
    for event in pool.poll(1):
        if isinstance(event, WorkerReady):
            gpu = event.worker_id
            pool.start(gpu, [StartAttempt(gpu, ord(gpu), SequenceFile("f"))])
        started += isinstance(event, AttemptStarted)
print(json.dumps([worker.process.pid for worker in pool._workers.values()]), flush=True)
time.sleep(1000)
"""


def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL of the parent ends a stopped worker, a healthy one, and what their commands run."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pids = json.loads(parent.stdout.readline())
        until(lambda: all(len(family(pid)) >= 4 for pid in pids))
        os.kill(pids[0], signal.SIGSTOP)
        parent.kill()
    until(lambda: not any(family(pid) for pid in pids))
