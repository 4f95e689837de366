"""The live dashboard, and plain log lines where there is no terminal.

One background thread does everything: it draws, prints the run's log lines above the table and
writes the metrics log. The run's threads only ever append to a deque, so a terminal that is held
(Ctrl-S) or slow delays nobody but this thread.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.text import Text

from virnucpro_exporter import streams
from virnucpro_exporter.csv_log.writer import MetricsLog
from virnucpro_exporter.overview.trail import Trails
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, RunSnapshot, SourceSilentError
from virnucpro_exporter.terminal.log_capture import LogCapture
from virnucpro_exporter.terminal.plain import describe_run
from virnucpro_exporter.terminal.sigterm import SigtermGuard
from virnucpro_exporter.terminal.sources import GpuLatest, RunLatest, RunNow
from virnucpro_exporter.terminal.suspension import Suspension
from virnucpro_exporter.terminal.views import Size, ViewOptions, run_view, silence_view
from virnucpro_exporter.terminal.worker_table import TRAIL_INTERVALS, TRAIL_SECONDS
from virnucpro_exporter.text import is_ascii_only

logger = logging.getLogger(__name__)

STOP_SECONDS = 3.0  # a terminal that is held does not keep the program from ending
SHORTEST_SECONDS = 0.02  # between two updates
HELD_LINES = 1000  # log lines kept for a terminal that does not take them


class Metrics(NamedTuple):
    """What one update shows."""

    run: RunSnapshot
    gpus: GpuSnapshot
    now: float


class Every:
    """Becomes due again and again, at equal intervals.

    Args:
        seconds: The interval.

    Attributes:
        at: When it is due next, on the clock of `take`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = max(seconds, SHORTEST_SECONDS)
        self.at = -math.inf

    def take(self, now: float) -> bool:
        """Whether it is due; if so, it is due next an interval later."""
        if now < self.at:
            return False
        following = self.at + self._seconds
        # After a long hold-up it goes on from now, and does not catch up.
        self.at = following if following > now else now + self._seconds
        return True


class LoadBalancingDashboard:
    """Shows a run live, and keeps its metrics in a log.

    Args:
        coordinator: The run: an object with `snapshot()` or `latest()`.
        gpu_monitor: The GPUs: an object with `latest()`.
        update_interval: Seconds between two updates of the table.
        log_file: The CSV file of metrics, or None for none.
        console: Where to draw; standard error by default.
        plain: Log lines in place of the table; by default when the console is no terminal. A
            terminal that cannot move its cursor (TERM=dumb) gets them in any case.
        plain_interval: Seconds between two log lines.
        log_interval: Seconds between two intervals of the metrics log.
        log_max_bytes: Size at which the metrics log is rotated.
        endpoint: Address of the metrics endpoint, to show.
        drain_hint: What a user can do while the last files finish, to show then.
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
        plain_interval: float = 60.0,
        log_interval: float = 5.0,
        log_max_bytes: int = 50_000_000,
        endpoint: str = "",
        drain_hint: str = "",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._coordinator = coordinator
        self._gpu_monitor = gpu_monitor
        self._console = console or Console(
            file=streams.screen(error=True), force_terminal=plain is False or None
        )
        is_drawable = self._console.is_terminal and not self._console.is_dumb_terminal
        self._plain = plain or not is_drawable
        self._draw_due = Every(update_interval)
        self._plain_due = Every(plain_interval)
        self._log_due = Every(log_interval)
        self._log = None if log_file is None else MetricsLog(log_file, max_bytes=log_max_bytes)
        self._options = ViewOptions(
            is_ascii_only(self._console.encoding, os.environ), endpoint, drain_hint
        )
        self._wall_clock = wall_clock
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._lines: deque[str] = deque(maxlen=HELD_LINES)
        self._capture = LogCapture(self._lines, self._wake, ascii_only=self._options.ascii_only)
        self._guard = SigtermGuard(self.stop)
        self._suspension = Suspension(self._console)
        self._size: Size | None = None
        self._trails = Trails(TRAIL_INTERVALS, TRAIL_SECONDS)
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
            # First: once the table is live, Rich stands in for the streams that handlers write to.
            self._capture.install()
            self._live.start()
            self._guard.install()
            self._suspension.install()
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
        self._guard.remove()
        self._suspension.remove()
        if not thread.is_alive():
            self._print_lines()  # those that came after its last look
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __enter__(self) -> LoadBalancingDashboard:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def show_endpoint(self, url: str) -> None:
        """Show this address of the metrics endpoint from now on."""
        self._options = replace(self._options, endpoint=url)

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
        ticks = time.monotonic()
        self._trails.add(ticks, metrics.gpus, {})
        trail = partial(self._trails.utilization, now=ticks)
        return run_view(metrics.run, metrics.gpus, metrics.now, size, self._options, trail)

    def _log_metrics(self, metrics: Metrics) -> None:
        """Append to the metrics log, if there is one; a fault is counted, never raised."""
        if self._log is not None:
            self._log.write(metrics.run, metrics.gpus, metrics.now)

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
        elif plain and metrics.run.files_total:
            level, line = describe_run(metrics.run, metrics.gpus, metrics.now)
            logger.log(level, "%s", line)

    def _show_silence(self, silence: SourceSilentError, *, plain: bool) -> None:
        if self._live is not None:
            now = self._wall_clock()
            self._draw(silence_view(silence.what, silence.since, silence.reason, now))
        elif plain:
            logger.warning("no answer from %s: %s", silence.what, silence.reason)

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
