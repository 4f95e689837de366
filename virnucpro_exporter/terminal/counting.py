"""How far an exact count of the input files is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from virnucpro_exporter import streams
from virnucpro_exporter.terminal.suspension import Suspension

log = logging.getLogger(__name__)

_SHOWN_AFTER = 1.0  # seconds; a shorter bar would only flicker
_LINE_EVERY = 30.0  # seconds, where there is no terminal


class CountingProgress:
    """A progress bar for a count that takes over a second; log lines where there is no terminal.

    Args:
        total: Bytes to count.
        console: Where to draw; standard error by default.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        total: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(file=streams.screen(error=True))
        self._clock = clock
        self._total = total
        self._progress: Progress | None = None
        self._suspension = Suspension(self._console)
        self._next = clock() + (_SHOWN_AFTER if self._console.is_terminal else _LINE_EVERY)

    def __enter__(self) -> CountingProgress:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._suspension.remove()
            self._progress.stop()

    def update(self, done: int) -> None:
        """So many bytes have been counted by now."""
        if self._progress is not None:
            with self._suspension.lock:
                self._suspension.may_draw()
                self._progress.update(self._progress.task_ids[0], completed=done)
        elif self._clock() >= self._next:
            self._show(done)

    def _show(self, done: int) -> None:
        if not self._console.is_terminal:
            self._next = self._clock() + _LINE_EVERY
            log.info("counting the input files: %d of %d MB", done // 10**6, self._total // 10**6)
            return
        columns = (TextColumn("counting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._progress.add_task("counting", total=self._total, completed=done)
        self._progress.start()
        self._suspension.install()
