"""The live dashboard, and plain log lines where there is no terminal.

One background thread does everything: it draws, prints the run's log lines above the table and
writes the metrics log. The run's threads only ever append to a deque, so a terminal that is held
(Ctrl-S) or slow delays nobody but this thread.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.text import Text

from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, RunSnapshot
from virnucpro_exporter.terminal.metrics_log import MetricsLog
from virnucpro_exporter.terminal.plain import describe_changes, describe_run
from virnucpro_exporter.terminal.views import Size, ViewOptions, run_view, silence_view
from virnucpro_exporter.text import clean

logger = logging.getLogger(__name__)

STOP_SECONDS = 3.0  # a terminal that is held does not keep the program from ending
HELD_LINES = 1000  # log lines kept for a terminal that does not take them


class RunLatest(Protocol):
    """Publishes the run."""

    def latest(self) -> RunSnapshot:
        """The newest snapshot."""


class RunNow(Protocol):
    """A coordinator in a pipeline of the user's own."""

    def snapshot(self) -> RunSnapshot:
        """The run at this moment."""


class GpuLatest(Protocol):
    """Publishes the GPUs."""

    def latest(self) -> GpuSnapshot:
        """The newest snapshot."""


class SourceSilentError(Exception):
    """A source has no present values; those it had must not be shown as if they were.

    Args:
        what: The source, for example its address.
        since: Unix seconds of its last answer, or None if there never was one.
        reason: Why, in one line.
    """

    def __init__(self, what: str, since: float | None, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what, self.since, self.reason = what, since, reason


class Metrics(NamedTuple):
    """What one update shows."""

    run: RunSnapshot
    gpus: GpuSnapshot
    now: float


class LoadBalancingDashboard:
    """Shows a run live, and keeps its metrics in a log.

    Args:
        coordinator: The run: an object with `snapshot()` or `latest()`.
        gpu_monitor: The GPUs: an object with `latest()`.
        update_interval: Seconds between two updates of the table.
        log_file: The CSV file of metrics, or None for none.
        console: Where to draw; standard error by default.
        plain: Log lines in place of the table; by default when the console is no terminal.
        plain_interval: Seconds between two log lines.
        log_interval: Seconds between two intervals of the metrics log.
        log_max_bytes: Size at which the metrics log is rotated.
        endpoint: Address of the metrics endpoint, to show.
        wall_clock: Unix seconds.
    """

    def __init__(  # noqa: PLR0913 - the options of a display, each with its default
        self,
        coordinator: RunLatest | RunNow,
        gpu_monitor: GpuLatest,
        update_interval: float = 2.0,
        log_file: str | Path | None = "gpu_metrics.log",
        *,
        console: Console | None = None,
        plain: bool | None = None,
        plain_interval: float = 30.0,
        log_interval: float = 5.0,
        log_max_bytes: int = 50_000_000,
        endpoint: str = "",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._coordinator = coordinator
        self._gpu_monitor = gpu_monitor
        self._console = console or Console(stderr=True)
        self._plain = not self._console.is_terminal if plain is None else plain
        self._update_interval = update_interval
        self._plain_interval = plain_interval
        self._log_interval = log_interval
        self._log = None if log_file is None else MetricsLog(log_file, max_bytes=log_max_bytes)
        self._options = ViewOptions(
            ascii_only=not self._console.encoding.lower().startswith("utf"), endpoint=endpoint
        )
        self._wall_clock = wall_clock
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._lines: deque[str] = deque(maxlen=HELD_LINES)
        self._capture = _LogCapture(self._lines, self._wake)
        self._size: Size | None = None
        self._shown: RunSnapshot | None = None
        self._fault = ""

    def start(self) -> None:
        """Begin to show the run; nothing happens when it is already shown."""
        if self._thread is not None:
            return
        self._stopping.clear()
        atexit.register(self.stop)
        if not self._plain:
            self._live = Live(
                console=self._console, auto_refresh=False, vertical_overflow="crop", screen=False
            )
            self._live.start()
            self._capture.install()
        self._thread = threading.Thread(target=self._update_loop, name="dashboard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show the end of the run, and give the terminal back; may be called again."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.stop)
        self._stopping.set()
        self._wake.set()
        thread.join(STOP_SECONDS)
        self._capture.remove()
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __enter__(self) -> LoadBalancingDashboard:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_health(self) -> CollectorHealth:
        """How writing the metrics log fares."""
        return self._log.latest() if self._log else CollectorHealth()

    def _collect_metrics(self) -> Metrics:
        """The newest values of both sources.

        Raises:
            SourceSilentError: A source has none.
        """
        source = self._coordinator
        snapshot = getattr(source, "snapshot", None) or source.latest  # type: ignore[union-attr]  # one of the two is there
        return Metrics(snapshot(), self._gpu_monitor.latest(), self._wall_clock())

    def _generate_table(self, metrics: Metrics) -> RenderableType:
        """The dashboard for the console's present size."""
        width, height = self._console.size
        # A full last line would scroll the terminal by one at each update.
        size = Size(width, max(4, height - 1))
        return run_view(metrics.run, metrics.gpus, metrics.now, size, self._options)

    def _log_metrics(self, metrics: Metrics) -> None:
        """Append to the metrics log, if there is one; a fault is counted, never raised."""
        if self._log is not None:
            self._log.write(metrics.run, metrics.gpus, metrics.now)

    def _update_loop(self) -> None:
        """Draw and log until stopped, and once more then."""
        interval = self._update_interval
        draw_at = log_at = plain_at = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= draw_at:
                self._update(log=now >= log_at, plain=now >= plain_at)
                draw_at = now + interval
                log_at = now + self._log_interval if now >= log_at else log_at
                plain_at = now + self._plain_interval if now >= plain_at else plain_at
            self._print_lines()
            self._wake.wait(max(0.0, draw_at - time.monotonic()))
            self._wake.clear()
        self._update(log=True, plain=True)
        self._print_lines()

    def _update(self, *, log: bool, plain: bool) -> None:
        try:
            self._show(log=log, plain=plain)
        except Exception as error:  # noqa: BLE001 - no fault of the display may end or hide the run
            if str(error) != self._fault:
                self._fault = str(error)
                logger.warning("the dashboard could not be drawn: %s", error)
        else:
            self._fault = ""

    def _show(self, *, log: bool, plain: bool) -> None:
        try:
            metrics = self._collect_metrics()
        except SourceSilentError as silence:
            self._show_silence(silence, plain=plain)
            return
        if log:
            self._log_metrics(metrics)
        if self._live is not None:
            self._draw(self._generate_table(metrics))
        elif self._plain:
            for level, line in describe_changes(self._shown, metrics.run):
                logger.log(level, "%s", line)
            if plain:
                logger.info("%s", describe_run(metrics.run, metrics.gpus))
        self._shown = metrics.run

    def _show_silence(self, silence: SourceSilentError, *, plain: bool) -> None:
        if self._live is not None:
            now = self._wall_clock()
            self._draw(silence_view(silence.what, silence.since, silence.reason, now))
        elif plain:
            logger.warning("no answer from %s: %s", silence.what, silence.reason)

    def _draw(self, view: RenderableType) -> None:
        live, size = self._live, Size(*self._console.size)
        if live is None:
            return
        if self._size not in (None, size):
            # The terminal has re-wrapped what was drawn, so where it begins is no longer known.
            self._console.control(Control.clear(), Control.home())
        self._size = size
        live.update(view, refresh=True)

    def _print_lines(self) -> None:
        while self._lines:
            self._console.print(
                Text(self._lines.popleft()), soft_wrap=True, highlight=False, markup=False
            )


class _LogCapture(logging.Handler):
    """Takes the place of the handlers that write to the terminal while the table is shown."""

    def __init__(self, lines: deque[str], wake: threading.Event) -> None:
        super().__init__()
        self._lines, self._wake = lines, wake
        self._replaced: list[logging.Handler] = []

    def install(self) -> None:
        """Replace the root logger's handlers that write to standard output or error."""
        root = logging.getLogger()
        self._replaced = [handler for handler in root.handlers if _writes_to_terminal(handler)]
        if self._replaced:
            self.setLevel(min(handler.level for handler in self._replaced))
            self.setFormatter(self._replaced[0].formatter)
        else:
            self.setLevel(logging.WARNING)
        for handler in self._replaced:
            root.removeHandler(handler)
        root.addHandler(self)

    def remove(self) -> None:
        """Put the handlers back."""
        root = logging.getLogger()
        root.removeHandler(self)
        for handler in self._replaced:
            root.addHandler(handler)
        self._replaced = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's lines for the dashboard's thread."""
        self._lines.extend(clean(line) for line in self.format(record).splitlines())
        self._wake.set()


def _writes_to_terminal(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams
