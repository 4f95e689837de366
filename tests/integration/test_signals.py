"""Signals to a real process: each is heard, whatever the main thread is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.run_program import DEADLINE, ROOT

HEAD = """
import ctypes, os, signal, sys, threading, time
from virnucpro_exporter.app.signals import RunSignals, ending
def tell(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


@contextmanager
def program(body: str, **options: bool) -> Iterator[subprocess.Popen[str]]:
    """A Python program that has begun; it dies with the test."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + body],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]  # of two booleans
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_close_together_never_deadlock(number: signal.Signals) -> None:
    """A program that waits for an event ends, however many signals arrive while it wakes up."""
    body = """
over = ending()
tell("ready")
while not over.wait(0.0001): pass
tell("over")
os._exit(0)  # at its end, Python itself gives SIGINT its default back
"""
    for _ in range(3):
        with program(body) as process:
            for _ in range(20):
                process.send_signal(number)
            out, errors = process.communicate(timeout=DEADLINE)
        assert (out, errors, process.returncode) == ("over\n", "", 0)


def test_signal_is_heard_inside_a_call_that_does_not_return() -> None:
    """The run is drained, then stopped, while the main thread is stuck in C; a later one ends."""
    body = """
from virnucpro_exporter.app import signals
signals._STOP_SECONDS = 0.2
with RunSignals(lambda: tell("drain"), lambda: tell("stop")):
    tell("ready")
    mutex = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever, whatever signal comes
"""
    with program(body) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "drain\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "stop\n"
        end = time.monotonic() + DEADLINE
        while process.poll() is None:
            assert time.monotonic() < end
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    assert process.returncode == 128 + signal.SIGTERM


def test_hangup_that_was_ignored_is_ignored_and_the_rest_is_put_back() -> None:
    """`nohup` is obeyed; after the run, signals do what they did before."""
    body = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with RunSignals(lambda: tell("drain"), lambda: tell("stop")) as signals:
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    signals.wait(100)
    assert signals.caught == [signal.SIGTERM]
assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.set_wakeup_fd(-1) == -1
tell("ready")
"""
    with program("print('ready', flush=True)" + body) as process:
        out, errors = process.communicate(timeout=DEADLINE)
    assert (out, errors) == ("drain\nready\n", "")
