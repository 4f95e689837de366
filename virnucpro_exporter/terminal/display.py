"""What is shown again and again: drawn in place, or as log lines where there is no terminal.

One background thread does everything: it draws, prints the log lines above what it draws and calls
for whatever else is due. Other threads only ever append to a deque, so a terminal that is held
(Ctrl-S) or slow delays only this thread.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.text import Text

from virnucpro_exporter import streams
from virnucpro_exporter.terminal.log_capture import LogCapture
from virnucpro_exporter.terminal.sigterm import SigtermGuard
from virnucpro_exporter.terminal.suspension import Suspension
from virnucpro_exporter.terminal.views import Size
from virnucpro_exporter.text import is_ascii_only

logger = logging.getLogger(__name__)

STOP_SECONDS = 3.0  # a terminal that is held does not keep the program from ending
SHORTEST_SECONDS = 0.02  # between two updates
HELD_LINES = 1000  # log lines kept for a terminal that does not take them

_Self = TypeVar("_Self", bound="LiveDisplay")


class Every:
    """Becomes due again and again, at equal intervals.

    Args:
        seconds: The interval.

    Attributes:
        at: When it is due next, on the clock of `take`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = max(seconds, SHORTEST_SECONDS)
        self.at = -math.inf if math.isfinite(seconds) else math.inf

    def take(self, now: float) -> bool:
        """Whether it is due; if so, it is due next an interval later."""
        if now < self.at:
            return False
        following = self.at + self._seconds
        # After a long hold-up it goes on from now, and does not catch up.
        self.at = following if following > now else now + self._seconds
        return True


class LiveDisplay(ABC):
    """Draws in place on a terminal; elsewhere what is shown becomes log lines.

    Args:
        console: Where to draw; standard error by default.
        plain: Log lines in place of a drawing; by default when the console is no terminal. A
            terminal that cannot move its cursor (TERM=dumb) gets them in any case.
        update_interval: Seconds between two drawings.
        plain_interval: Seconds between two log lines.
        log_interval: Seconds between two calls for a metrics log.
    """

    def __init__(
        self,
        console: Console | None,
        *,
        plain: bool | None,
        update_interval: float,
        plain_interval: float = 60.0,
        log_interval: float = math.inf,
    ) -> None:
        self._console = console or Console(
            file=streams.screen(error=True), force_terminal=plain is False or None
        )
        is_drawable = self._console.is_terminal and not self._console.is_dumb_terminal
        self._plain = plain or not is_drawable
        self._draw_due = Every(update_interval)
        self._plain_due = Every(plain_interval)
        self._log_due = Every(log_interval)
        self._ascii_only = is_ascii_only(self._console.encoding, os.environ)
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._lines: deque[str] = deque(maxlen=HELD_LINES)
        self._capture = LogCapture(self._lines, self._wake, ascii_only=self._ascii_only)
        self._guard = SigtermGuard(self.stop)
        self._suspension = Suspension(self._console)
        self._size: Size | None = None
        self._fault = ""

    def start(self) -> None:
        """Begin to show it; nothing happens when it is already shown."""
        if self._thread is not None:
            return
        self._stopping.clear()
        atexit.register(self.stop)
        if not self._plain:
            self._live = Live(
                console=self._console, auto_refresh=False, vertical_overflow="crop", screen=False
            )
            # First: once the table is live, Rich stands in for the streams that handlers write to.
            self._capture.install()
            self._live.start()
            self._guard.install()
            self._suspension.install()
        self._thread = threading.Thread(target=self._update_loop, name="dashboard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show the end, and give the terminal back; may be called again."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.stop)
        self._stopping.set()
        self._wake.set()
        thread.join(STOP_SECONDS)
        self._capture.remove()
        self._guard.remove()
        self._suspension.remove()
        if not thread.is_alive():
            self._print_lines()  # those that came after its last look
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __enter__(self: _Self) -> _Self:  # noqa: PYI019 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _update_loop(self) -> None:
        """Draw and log until stopped, and once more then."""
        dues = (self._draw_due, self._log_due, self._plain_due)
        while not self._stopping.is_set():
            now = time.monotonic()
            draw, log, plain = (due.take(now) for due in dues)
            self._update(draw=draw, log=log, plain=plain)
            self._wake.wait(max(0.0, min(due.at for due in dues) - time.monotonic()))
            self._wake.clear()
        self._update(draw=True, log=True, plain=True)

    def _update(self, *, draw: bool, log: bool, plain: bool) -> None:
        try:
            if draw or log or plain:
                self._show(log=log, plain=plain)
            self._print_lines()
        except Exception as error:  # noqa: BLE001 - no fault of the display may end or hide the run
            if str(error) != self._fault:
                self._fault = str(error)
                logger.warning("cannot draw the dashboard: %s", error)
        else:
            self._fault = ""

    def _draw(self, view: RenderableType) -> None:
        live, size = self._live, Size(*self._console.size)
        with self._suspension.lock:
            if live is None or not self._suspension.may_draw():
                return
            if self._size not in (None, size):
                # The terminal has re-wrapped what was drawn: where it begins is no longer known.
                self._console.control(Control.clear(), Control.home())
            self._size = size
            live.update(view, refresh=True)

    def _print_lines(self) -> None:
        with self._suspension.lock:
            while self._lines and self._suspension.may_draw():
                self._console.print(
                    Text(self._lines.popleft()), soft_wrap=True, highlight=False, markup=False
                )

    @abstractmethod
    def _show(self, *, log: bool, plain: bool) -> None:
        """Draw, where that is possible, and log what is due.

        Args:
            log: The metrics log is due.
            plain: Log lines are due, should there be no drawing.
        """

    def _room(self) -> Size:
        """The room for a drawing: a full last line would scroll the terminal at each update."""
        width, height = self._console.size
        return Size(width, max(4, height - 1))
