"""The terminal while something is drawn in place.

Keys are not echoed, which would tear what is drawn. At Ctrl-Z the shell gets its cursor and its
echo back, and `fg` draws again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
from types import FrameType
from typing import Any

from rich.console import Console
from rich.control import Control

_SHOW_CURSOR, _HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"

# For so many seconds a drawing that is under way is waited for; a held terminal may never take it.
_PATIENCE = 0.5


class Suspension:
    """Gives the cursor back before SIGTSTP stops the process, and takes it again in the foreground.

    A drawing holds `lock`, and checks `may_draw` first. Handlers of the program's own are left.

    Args:
        console: Where something is drawn.

    Attributes:
        lock: Held while drawing, so that the cursor does not appear in the middle of a sequence.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: dict[int, Any] = {}
        self._is_continued = False  # since then nothing has been drawn
        self._modes: list[Any] | None = None  # of the terminal, while it does not echo
        self.lock = threading.RLock()

    def install(self) -> None:
        """Take the place of the default handlers; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        handlers = {signal.SIGTSTP: self._stop, signal.SIGCONT: self._continue}
        if all(signal.getsignal(number) is signal.SIG_DFL for number in handlers):
            for number, handler in handlers.items():
                self._before[number] = signal.signal(number, handler)
            self._stop_echo()

    def remove(self) -> None:
        """Put the default handlers back."""
        if threading.current_thread() is threading.main_thread():
            while self._before:
                signal.signal(*self._before.popitem())
            self._echo_again()

    def may_draw(self) -> bool:
        """Whether this program has the terminal: not after `bg`, and again after `fg`."""
        if not self._is_continued:
            return True
        if not self._is_in_foreground():
            return False
        self._is_continued = False
        self._stop_echo()
        self._write(_HIDE_CURSOR)
        # The shell has written below what was drawn, so where it begins is no longer known.
        self._console.control(Control.clear(), Control.home())
        return True

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        is_between_drawings = self.lock.acquire(timeout=_PATIENCE)
        self._echo_again()
        self._write(_SHOW_CURSOR + b"\r\n")
        if is_between_drawings:
            self.lock.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # stops here, unless no shell could continue this program
        if number in self._before:
            signal.signal(number, self._stop)

    def _continue(self, _number: int, _frame: FrameType | None) -> None:
        self._is_continued = True

    def _is_in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._console.file.fileno()) == os.getpgrp()
        except OSError:  # it has no terminal that several programs share
            return True

    def _stop_echo(self) -> None:
        # A program in the background would be stopped for changing the terminal.
        if self._modes is not None or not self._is_in_foreground():
            return
        try:
            modes = termios.tcgetattr(sys.__stdin__ or 0)
            quiet = [*modes]
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(sys.__stdin__ or 0, termios.TCSANOW, quiet)
        except (termios.error, OSError, ValueError):
            return  # standard input is no terminal, or closed
        self._modes = modes

    def _echo_again(self) -> None:
        modes, self._modes = self._modes, None
        if modes is not None and self._is_in_foreground():
            with contextlib.suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(sys.__stdin__ or 0, termios.TCSANOW, modes)

    def _write(self, text: bytes) -> None:
        # Not through the console: a signal may have interrupted it while it was writing.
        try:
            os.write(self._console.file.fileno(), text)
        except OSError:
            return  # the terminal is gone, and with it the cursor
