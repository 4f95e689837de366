"""SIGINT and SIGTERM: what the program makes of them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class RunSignals:
    """The first SIGINT or SIGTERM drains the run, the second ends it at once.

    Args:
        drain: Called at the first.
        stop: Called at each further one.

    Attributes:
        caught: The numbers of those that came, in order.
    """

    def __init__(self, drain: Callable[[], None], stop: Callable[[], None]) -> None:
        self._drain: Callable[[], None] | None = drain
        self._stop: Callable[[], None] | None = stop
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self.caught: list[int] = []

    def __enter__(self) -> RunSignals:  # noqa: PYI034 - typing.Self needs Python 3.11
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.caught.append(number)
        act = self._drain if len(self.caught) == 1 else self._stop
        if act is not None:
            act()
        self._over.set()

    def detach(self) -> None:
        """The run is over: a signal only ends the waiting."""
        self._drain = self._stop = None

    def wait(self, seconds: float) -> None:
        """Wait, or until the next signal."""
        self._over.wait(seconds)


def ending() -> threading.Event:
    """An event that SIGINT or SIGTERM sets, in the place of what they did before."""
    over = threading.Event()
    for number in NUMBERS:
        signal.signal(number, lambda *_: over.set())
    return over


def until_signal(start: Callable[[], object], stop: Callable[[], object]) -> int:
    """Start something, and stop it at SIGINT or SIGTERM.

    Returns:
        0: whoever sends the signal wants it to end.
    """
    over = ending()
    start()
    try:
        over.wait()
    finally:
        stop()
    return 0
