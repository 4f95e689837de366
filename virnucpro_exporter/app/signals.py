"""SIGINT, SIGTERM and SIGHUP: what the program makes of them.

The handlers only write a byte: Python's own, in C, writes the number of the signal into a socket. A
thread reads it and acts. So a handler never waits for a lock that the interrupted code holds, and
a signal takes effect while the main thread is inside a call that does not return.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_END = b"\0"  # no signal has this number

# The time that a run has to end at once, in seconds, before another signal ends the program
# immediately.
_STOP_SECONDS = 5.0


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the thread acts. Without a handler, an ignored signal would write no byte."""


class _Listener:
    """Calls a function, in a thread of its own, for each signal; only from the main thread.

    A SIGHUP that was ignored at the start (`nohup`) goes on being ignored.
    """

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._before: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        for number in NUMBERS:
            is_ignored = signal.getsignal(number) is signal.SIG_IGN
            if not (number == signal.SIGHUP and is_ignored):
                self._before[number] = signal.signal(number, _nothing)

    def _listen(self) -> None:
        while True:
            for number in self._reader.recv(64):
                if number == _END[0]:
                    return
                if number in self._before:  # handlers of others write their numbers here, too
                    self._act(number)

    def close(self) -> None:
        """Let the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._writer.setblocking(True)  # noqa: FBT003 - the standard library's signature
        self._writer.send(_END)
        self._thread.join()
        self._reader.close()
        self._writer.close()


class RunSignals:
    """The first signal drains the run, each further one ends it at once.

    Where that takes long (a disk or a driver hangs) another signal ends the program on the spot:
    the sentinel kills the workers, and what the journal holds is safe.

    Args:
        drain: Called at the first, in a thread.
        stop: Called at each further one, in a thread.

    Attributes:
        caught: The numbers of those that came, in order.
    """

    def __init__(self, drain: Callable[[], None], stop: Callable[[], None]) -> None:
        self._drain = drain
        self._stop = stop
        self._stopped_at: float | None = None
        self._is_over = False
        self._listener: _Listener | None = None
        self._ended = threading.Event()
        self.caught: list[int] = []

    def __enter__(self) -> RunSignals:  # noqa: PYI034 - typing.Self needs Python 3.11
        if threading.current_thread() is threading.main_thread():
            self._listener = _Listener(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.close()

    def _hear(self, number: int) -> None:
        self.caught.append(number)
        if not self._is_over:
            self._act(number)
        self._ended.set()

    def _act(self, number: int) -> None:
        now = time.monotonic()
        if len(self.caught) == 1:
            self._drain()
        elif self._stopped_at is None or now < self._stopped_at + _STOP_SECONDS:
            self._stopped_at = self._stopped_at or now
            self._stop()
        else:
            os._exit(128 + number)

    def detach(self) -> None:
        """The run is over: a further signal only ends the waiting."""
        self._is_over = True
        self._ended.clear()

    def wait(self, seconds: float) -> bool:
        """Wait, or until the next signal; whether there was one."""
        return self._ended.wait(seconds)


def ending() -> threading.Event:
    """An event that SIGINT, SIGTERM or SIGHUP sets, in the place of what they did before."""
    over = threading.Event()
    _Listener(lambda _: over.set())
    return over


def until_signal(start: Callable[[], object], stop: Callable[[], object]) -> int:
    """Start something, and stop it at SIGINT, SIGTERM or SIGHUP.

    Returns:
        0: the signal is the wanted end.
    """
    over = ending()
    start()
    try:
        over.wait()
    finally:
        stop()
    return 0
