"""Repeated turns, each in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

Turn = Callable[[], float]  # returns the seconds until the next one

_LEAVE = 0.5  # seconds for the threads to end


class Turns(Protocol):
    """Takes turns until it is stopped."""

    def spawn(self, name: str, turn: Turn) -> None:
        """Take a turn now, and again each time after the seconds that it has returned."""

    def stop(self) -> bool:
        """Start no more turns; returns whether none is still under way."""


class Threads:
    """Turns in daemon threads: one that hangs delays no other, and not the end of the program."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def spawn(self, name: str, turn: Turn) -> None:
        """Begin, in a thread of this name."""
        thread = threading.Thread(target=self._live, args=(turn,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> bool:
        """End the threads; one that is stuck in a call is left behind.

        Returns:
            Whether all have ended.
        """
        self._stop.set()
        deadline = time.monotonic() + _LEAVE
        threads = [t for t in self._threads if t is not threading.current_thread()]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _live(self, turn: Turn) -> None:
        while not self._stop.is_set():
            self._stop.wait(turn())
