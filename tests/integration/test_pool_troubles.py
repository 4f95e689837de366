"""The pool where processes cannot be killed, started or reached, and what they leave behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import events as said
from tests.fuse import HangingFile, is_hanging
from tests.pool_driver import Driver, until
from tests.run_program import ROOT
from virnucpro_exporter.scheduling.events import (
    AttemptCompleted,
    AttemptFailed,
    AttemptStarted,
    LossCause,
    WorkerJoined,
    WorkerLost,
    WorkerReady,
)
from virnucpro_exporter.workers import guard, local_pool, process, starts
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.workers.sentinel import family

BUILD = "virnucpro_exporter.processors:build"
Drive = Callable[..., Driver]


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[HangingFile]:
    folder = tmp_path / "fuse"
    folder.mkdir()
    file = HangingFile(folder)
    yield file
    file.close()


def test_process_that_cannot_be_killed_costs_its_worker_alone(
    drive: Drive, hanging: HangingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call waits for it; its worker is lost, and joins again when the process has died."""
    monkeypatch.setattr(process, "DIE_SECONDS", 0.5)
    driver = drive({"file": str(hanging.path)})
    driver.wait(WorkerReady)
    driver.start("read")
    hanging.is_read.wait()
    pid = driver.pid
    begin = time.monotonic()
    driver.pool.kill("a")
    driver.pool.spawn("a")
    assert not driver.pool.poll(0)
    assert time.monotonic() - begin < 50  # and not for ever
    until(lambda: is_hanging(pid))
    lost = said.lost("a", f"its process {pid} cannot be killed", LossCause.CANNOT_BE_KILLED)
    assert driver.wait(WorkerLost) == [lost]
    driver.pool.spawn("a")
    assert driver.wait(WorkerLost) == [lost]
    hanging.close()
    assert driver.wait(WorkerJoined) == [said.joined("a")]
    driver.pool.spawn("a")
    driver.wait(WorkerReady)


def test_pool_closes_beside_a_process_that_cannot_be_killed(
    drive: Drive,
    hanging: HangingFile,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is left behind, and named."""
    monkeypatch.setattr(local_pool, "CLOSE_SECONDS", 0.2)
    driver = drive({"kind": "command", "argv": ["cat", str(hanging.path)]}, BUILD)
    driver.wait(WorkerReady)
    driver.start("file")
    hanging.is_read.wait()
    driver.pool.cancel("a", 1)  # the command goes on, and so the worker does not answer
    monkeypatch.setattr(process, "CANCEL_SECONDS", 0.0)
    lost = driver.wait(WorkerLost)
    reason = "no answer to a cancellation for 10 s"
    assert lost == [said.lost("a", reason, LossCause.CANCELLED)]
    driver.pool.spawn("a")
    driver.wait(WorkerReady)
    driver.pool.close()
    assert not caplog.records


def test_attempt_that_ignores_its_cancellation_is_stopped_with_its_worker(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when it is in process: one that waits behind another file waits on."""
    driver = drive({"cancel": True})
    driver.wait(WorkerReady)
    driver.start("hang", "ok")
    driver.wait(AttemptStarted)
    monkeypatch.setattr(process, "CANCEL_SECONDS", 0.2)
    driver.pool.cancel("a", 2)
    for _ in range(5):
        assert not any(isinstance(event, WorkerLost) for event in driver.pool.poll(0.1))
    driver.pool.cancel("a", 1)
    assert driver.wait(WorkerLost)[0].cause is LossCause.CANCELLED
    driver.pool.cancel("a", 1)  # late: it does not exist any more


def test_cancellation_of_what_has_ended_is_not_waited_for(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result was under way: the worker has nothing to answer, and lives on."""
    monkeypatch.setattr(process, "CANCEL_SECONDS", 0.1)
    driver = drive({"cancel": True})
    driver.wait(WorkerReady)
    driver.start("ok")
    driver.wait(AttemptCompleted)
    driver.pool.cancel("a", 1)
    until(lambda: not driver.pool.poll(0.3))
    driver.start("ok", first=2)
    driver.wait(AttemptCompleted)


def test_process_that_cannot_be_started_is_started_later(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many processes, no memory, a folder that is gone: a line each time, and then it works."""
    refusals = [errno.EAGAIN, errno.ENOMEM, errno.ENOENT]
    real = process.launch

    def launch(*words: Any, **options: Any) -> Any:
        if refusals:
            number = refusals.pop(0)
            raise OSError(number, os.strerror(number))
        return real(*words, **options)

    monkeypatch.setattr(local_pool, "launch", launch)
    monkeypatch.setattr(starts, "_SYSTEM_PAUSES", (0.01,))
    driver = drive()
    driver.wait(WorkerReady)
    told = [record.getMessage() for record in caplog.records]
    line = "GPU a: its process cannot be started: Resource temporarily unavailable"
    assert told[0] == f"{line}; next attempt in 0.01 s"
    assert len(told) == 3
    driver.pool.kill("a")
    shutil.rmtree(driver.pool.log_path("a").parent / "logs", ignore_errors=True)
    monkeypatch.setattr(starts, "_SYSTEM_PATIENCE", 0.0)
    refusals[:] = [errno.EAGAIN] * 2
    driver.pool.spawn("a")
    (lost,) = driver.wait(WorkerLost)
    assert (lost.cause, lost.reason) == (
        LossCause.CANNOT_START,
        "its process cannot be started: Resource temporarily unavailable",
    )


def test_descriptors_are_kept_for_new_processes(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    """When the program has used up all it may open, a worker can still be replaced."""
    driver = drive()
    driver.wait(WorkerReady)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                used.append(os.dup(0))
        driver.pool.kill("a")
        driver.pool.spawn("a")
        while "a" not in driver.pool._workers:  # the last one has to die first
            driver.pool.poll(0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in used:
            os.close(descriptor)
    driver.wait(WorkerReady)
    assert not caplog.records


@pytest.mark.parametrize(("times", "is_ready"), [(2, True), (9, False)])
def test_worker_that_is_killed_while_it_loads_is_started_again(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch, *, times: int, is_ready: bool
) -> None:
    """The memory of the machine may have been short for a moment; three times, then no more."""
    monkeypatch.setattr(starts, "_LOADING_PAUSES", (0.01, 0.02, 0.03))
    mark = tmp_path / "mark"
    driver = drive({"setup": "sigkill", "mark": str(mark), "times": times})
    if is_ready:
        driver.wait(WorkerReady)
        assert mark.read_text() == "x" * 3
        return
    reason = "processor setup failed: the worker was killed by SIGKILL (out of memory?)"
    assert driver.wait(WorkerLost) == [said.lost("a", reason, LossCause.DIED_LOADING)]
    assert mark.read_text() == "x" * 4


def test_signals_to_the_whole_job_do_not_end_a_worker(drive: Drive) -> None:
    """Not even before it has begun; programs and processes that it starts get the default back."""
    driver = drive()
    for number in process.JOB_SIGNALS:
        os.kill(driver.pid, number)
    driver.wait(WorkerReady)
    for number in process.JOB_SIGNALS:
        os.kill(driver.pid, number)
    driver.start("signals", "ok")
    assert driver.wait(AttemptCompleted, 2)
    for number in process.JOB_SIGNALS:
        os.kill(driver.pool._guard.pid, number)
    driver.pool.poll(0)


def test_no_process_is_started_while_draining(drive: Drive) -> None:
    """Neither one that is asked for, nor one that was to be started later."""
    driver = drive()
    driver.wait(WorkerReady)
    driver.pool.drain()
    driver.pool.kill("a")
    driver.pool.spawn("a")
    assert not driver.pool.poll(0.1)
    assert not driver.pool._workers


def test_what_leaves_the_session_dies_with_its_worker(drive: Drive) -> None:
    """A Python processor's daemon lives as long as its worker."""
    driver = drive()
    driver.wait(WorkerReady)
    driver.start("leave", "ok")
    driver.wait(AttemptCompleted, 2)
    pid = driver.pid
    until(lambda: len(family(pid)) == 2)
    (daemon,) = family(pid) - {pid}
    driver.pool.kill("a")
    until(lambda: not psutil.pid_exists(daemon) or family(daemon) == set())


def test_what_a_command_leaves_behind_dies_with_its_attempt(drive: Drive) -> None:
    """Whether it succeeds, is cancelled or fails, and whatever session its children lead."""
    argv = ["sh", "-c", "setsid sleep 1000 & setsid -f sleep 1000; $1", "sh", "{input}"]
    driver = drive({"kind": "command", "argv": argv}, BUILD)
    driver.wait(WorkerReady)
    pid = driver.pid
    for number, command in enumerate(["true", "false"], 1):
        driver.start(command, first=number)
        driver.wait(AttemptFailed if command == "false" else AttemptCompleted)
        until(lambda: family(pid) == {pid})
    driver.start("read", first=3)  # from a terminal that is not there: it ends at once
    driver.wait(AttemptFailed)
    until(lambda: family(pid) == {pid})


PARENT = """
import json, os, sys, time
from pathlib import Path
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.scheduling.commands import StartAttempt
from virnucpro_exporter.scheduling.events import AttemptStarted, WorkerReady
from virnucpro_exporter.scheduling.files import SequenceFile
folder = Path(sys.argv[1])
script = "setsid sleep 1000 & sleep 1000"
spec = {"kind": "command", "argv": ["sh", "-c", script]}
pool = LocalPool(spec, "virnucpro_exporter.processors:build", folder, folder, {})
pool.spawn("a")
is_started = False
while not is_started:
    for event in pool.poll(1):
        if isinstance(event, WorkerReady):
            pool.start("a", [StartAttempt("a", 1, SequenceFile("f"))])
        is_started = isinstance(event, AttemptStarted)
print(json.dumps([pool._workers["a"].process.pid, pool._guard.pid]), flush=True)
before = pool._guard.pid
while pool._guard.pid == before:
    pool.poll(0.1)
print(json.dumps(pool._guard.pid), flush=True)
time.sleep(1000)
"""


ADOPTING = """
import os, sys, time
from pathlib import Path
from virnucpro_exporter.workers import orphans, sentinel
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.scheduling.commands import StartAttempt
from virnucpro_exporter.scheduling.events import WorkerLost, WorkerReady
from virnucpro_exporter.scheduling.files import SequenceFile
orphans.adopt()
folder = Path(sys.argv[1])
pool = LocalPool({}, "tests.processors_for_tests:scripted", folder, folder, {})
pool.spawn("a")
names, is_lost = ["leave", "exit"], False
while not is_lost:
    for event in pool.poll(1):
        if isinstance(event, WorkerReady):
            files = [StartAttempt("a", n, SequenceFile(name)) for n, name in enumerate(names)]
            pool.start("a", files)
        is_lost = isinstance(event, WorkerLost)
while len(sentinel.children(os.getpid())) > 1:  # the sentinel
    pool.poll(0.1)
pool.close()
print(len(sentinel.children(os.getpid())))
"""


def test_program_adopts_what_a_dead_worker_leaves(tmp_path: Path) -> None:
    """A daemon of a worker that crashed is killed, and no zombie stays."""
    done = subprocess.run(
        [sys.executable, "-c", ADOPTING, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("is_replacement_killed", [False, True])
def test_stopped_worker_dies_with_the_program(
    tmp_path: Path, *, is_replacement_killed: bool
) -> None:
    """A sentinel that dies is replaced; no daemon stays, even if the second one is killed, too."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        worker, sentinel = json.loads(parent.stdout.readline())
        until(lambda: len(family(worker)) >= 4)
        left = family(worker)
        os.kill(sentinel, signal.SIGKILL)
        replacement = json.loads(parent.stdout.readline())
        assert replacement != sentinel
        os.kill(worker, signal.SIGSTOP)
        if is_replacement_killed:
            os.kill(replacement, signal.SIGKILL)
        parent.kill()
    until(lambda: not any(family(pid) for pid in left))


def test_stopped_sentinel_does_not_hold_up_the_end(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after a moment."""
    monkeypatch.setattr(guard, "_LEAVE_SECONDS", 0.2)
    driver = drive()
    pid = driver.pool._guard.pid
    os.kill(pid, signal.SIGSTOP)
    driver.pool.close()
    assert not psutil.pid_exists(pid)


def test_modules_of_the_standard_library_are_never_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the user are not run for them, and are still found as processors."""
    names = ("json", "queue", "types", "token", "socket", "mmap", "selectors", "ctypes")
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    (tmp_path / "mine.py").write_text("def build(spec):\n    raise ValueError('found')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    pool = LocalPool({}, "mine:build", tmp_path, tmp_path, {}, folder=str(tmp_path))
    try:
        pool.spawn("a")
        lost: list[WorkerLost] = []
        while not lost:
            lost += [event for event in pool.poll(0.1) if isinstance(event, WorkerLost)]
    finally:
        pool.close()
    assert [event.reason for event in lost] == ["processor setup failed: ValueError: found"]
    assert not (tmp_path / "ran").exists()
