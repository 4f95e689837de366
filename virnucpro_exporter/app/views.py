"""Everything that shows a run: the endpoint, the pushes, the terminal and the metrics log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from virnucpro_exporter.config import ViewConfig
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.metrics.push import GatewayPusher, TextfileWriter
from virnucpro_exporter.metrics.registry import build_registry
from virnucpro_exporter.metrics.server import MetricsServer
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, Latest
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard

log = logging.getLogger(__name__)


def show(
    config: ViewConfig,
    stack: contextlib.ExitStack,
    coordinator: WorkStealingCoordinator,
    monitor: GPUMonitor | None,
    folder: Path,
) -> LoadBalancingDashboard:
    """Start what shows the run.

    Args:
        config: What is shown, and how.
        stack: Stops it all when it closes.
        coordinator: The run.
        monitor: The GPUs, or None for a run on CPU slots.
        folder: Where a relative path of the metrics log begins.

    Returns:
        The dashboard, for whoever has to write on the terminal before the stack closes.

    Raises:
        UsageError: The endpoint cannot listen, or its configuration is wrong.
    """
    dashboard = LoadBalancingDashboard(
        coordinator,
        monitor or Latest(GpuSnapshot(time.time())),
        log_file=None if config.metrics_log is None else folder / config.metrics_log,
        plain=None if config.dashboard is None else not config.dashboard,
        log_interval=config.metrics_log_interval,
        log_max_bytes=config.metrics_log_max_bytes,
        endpoint=config.web_listen_address[0] if config.web else "",
    )
    health = {} if config.metrics_log is None else {"log": _Health(dashboard.log_health)}
    if config.web:
        server = MetricsServer(
            coordinator,
            monitor,
            listen=config.web_listen_address,
            telemetry_path=config.web_telemetry_path,
            web_config=config.web_config_file,
            health=health,
        )
        server.start()
        stack.callback(server.stop)
        log.info("metrics: %s", ", ".join(server.urls))
    if config.textfile or config.push_gateway:
        registry = build_registry(coordinator, monitor, health, process=False)
        if config.textfile:
            stack.enter_context(TextfileWriter(registry, config.textfile, config.push_interval))
        if config.push_gateway:
            stack.enter_context(GatewayPusher(registry, config.push_gateway, config.push_interval))
    dashboard.start()
    stack.callback(dashboard.stop)
    return dashboard


class _Health:
    """The health that a function tells, as the collectors read it."""

    def __init__(self, latest: Callable[[], CollectorHealth]) -> None:
        self.latest = latest
