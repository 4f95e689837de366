"""SIGTERM in a program that does not handle it: the terminal is given back first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class SigtermGuard:
    """Calls something before SIGTERM ends the process; a handler of the program's own is left.

    Args:
        give_back: What to call, in the main thread.
    """

    def __init__(self, give_back: Callable[[], object]) -> None:
        self._give_back = give_back
        self._is_installed = False

    def install(self) -> None:
        """Take the place of the default handler; only the main thread can."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._handle)
            self._is_installed = True

    def remove(self) -> None:
        """Put the default handler back."""
        is_main = threading.current_thread() is threading.main_thread()
        if self._is_installed and is_main and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._is_installed = False

    def _handle(self, number: int, _frame: object) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
