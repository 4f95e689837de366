"""The live dashboard of a run, and plain log lines where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, RenderableType

from virnucpro_exporter.csv_log.writer import MetricsLog
from virnucpro_exporter.overview.trail import Trails
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, RunSnapshot, SourceSilentError
from virnucpro_exporter.terminal.display import LiveDisplay
from virnucpro_exporter.terminal.plain import describe_run
from virnucpro_exporter.terminal.sources import GpuLatest, RunLatest, RunNow
from virnucpro_exporter.terminal.views import ViewOptions, run_view, silence_view
from virnucpro_exporter.terminal.worker_table import TRAIL_INTERVALS, TRAIL_SECONDS

logger = logging.getLogger(__name__)


class Metrics(NamedTuple):
    """What one update shows."""

    run: RunSnapshot
    gpus: GpuSnapshot
    now: float


class LoadBalancingDashboard(LiveDisplay):
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
        super().__init__(
            console,
            plain=plain,
            update_interval=update_interval,
            plain_interval=plain_interval,
            log_interval=log_interval,
        )
        self._coordinator = coordinator
        self._gpu_monitor = gpu_monitor
        self._log = None if log_file is None else MetricsLog(log_file, max_bytes=log_max_bytes)
        self._options = ViewOptions(self._ascii_only, endpoint, drain_hint)
        self._wall_clock = wall_clock
        self._trails = Trails(TRAIL_INTERVALS, TRAIL_SECONDS)

    def __repr__(self) -> str:
        state = "not shown" if self._thread is None else "shown"
        return f"<LoadBalancingDashboard: {state}, of {self._coordinator!r}>"

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
        ticks = time.monotonic()
        self._trails.add(ticks, metrics.gpus, {})
        trail = partial(self._trails.utilization, now=ticks)
        return run_view(metrics.run, metrics.gpus, metrics.now, self._room(), self._options, trail)

    def _log_metrics(self, metrics: Metrics) -> None:
        """Append to the metrics log, if there is one; a fault is counted, never raised."""
        if self._log is not None:
            self._log.write(metrics.run, metrics.gpus, metrics.now)

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
