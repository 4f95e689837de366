"""Everything that shows a run: the endpoint, the pushes, the terminal and the metrics log."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virnucpro_exporter.app.signals import RunSignals
from virnucpro_exporter.config import Metrics, Views
from virnucpro_exporter.config.options import FOREVER
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.metrics.push import GatewayPusher, Periodic, TextfileWriter
from virnucpro_exporter.metrics.registry import build_registry
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, Latest
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard
from virnucpro_exporter.web.addresses import bind
from virnucpro_exporter.web.discovery import NodeDiscovery
from virnucpro_exporter.web.server import MetricsServer, check_path
from virnucpro_exporter.web.web_config import WebConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reserved:
    """What others may have taken or refuse, taken before a run begins.

    Attributes:
        listeners: Where the endpoint will be.
        pushes: Where the metrics will be sent.
        web: Who may read them. It is read once, so that what was checked is what holds.
    """

    listeners: tuple[socket.socket, ...]
    pushes: tuple[Periodic, ...]
    web: WebConfig


def reserve(metrics: Metrics, stack: contextlib.ExitStack) -> Reserved:
    """Take the addresses, and check all that could be refused later.

    Args:
        metrics: What will be served and sent.
        stack: Gives the addresses back when it closes.

    Raises:
        UsageError: An address or a path cannot be used, or the web configuration is wrong.
    """
    listeners: list[socket.socket] = []
    web = WebConfig()
    if metrics.web:
        check_path(metrics.web_telemetry_path)
        file = metrics.web_config_file
        web = WebConfig(None if file is None else Path(file))
        listeners = bind(metrics.web_listen_address)
        for listener in listeners:
            stack.callback(listener.close)
    pushes: list[Periodic] = []
    if metrics.textfile:
        pushes.append(TextfileWriter(metrics.textfile, metrics.push_interval))
    if metrics.push_gateway:
        pushes.append(GatewayPusher(metrics.push_gateway, metrics.push_interval))
    return Reserved(tuple(listeners), tuple(pushes), web)


def show(
    views: Views,
    metrics: Metrics,
    reserved: Reserved,
    stack: contextlib.ExitStack,
    coordinator: WorkStealingCoordinator,
    monitor: Published[GpuSnapshot] | None,
    folder: Path,
    nodes: NodeDiscovery | None = None,
) -> LoadBalancingDashboard:
    """Start what shows the run.

    Args:
        views: What is shown, and how.
        metrics: How the endpoint is set up.
        reserved: What `reserve` has returned for it.
        stack: Stops it all when it closes.
        coordinator: The run.
        monitor: The GPUs, or None for a run on CPU slots.
        folder: The output folder, for a metrics log that lies in it.
        nodes: Where to scrape those of the run, for `/sd`; None: there is no such page.

    Returns:
        The dashboard, for whoever has to write on the terminal before the stack closes.
    """
    dashboard = LoadBalancingDashboard(
        coordinator,
        monitor or Latest(GpuSnapshot(time.time())),
        log_file=views.log_path(folder),
        plain=None if views.dashboard is None else not views.dashboard,
        log_interval=views.metrics_log_interval,
        log_max_bytes=views.metrics_log_max_bytes,
    )
    health = {} if views.metrics_log is None else {"log": _Health(dashboard.log_health)}
    if reserved.listeners:
        server = MetricsServer(
            coordinator,
            monitor,
            listen=reserved.listeners,
            telemetry_path=metrics.web_telemetry_path,
            web_config=reserved.web,
            health=health,
            nodes=nodes,
        )
        server.start()
        stack.callback(server.stop)
        dashboard.show_endpoint(server.urls[0])
        log.info("metrics: %s", ", ".join(server.urls))
    for push in reserved.pushes:
        registry = build_registry(coordinator, monitor, health, process=False)
        push.start(registry, last=build_registry(coordinator, None, health, process=False))
        stack.callback(push.stop)
    dashboard.start()
    stack.callback(dashboard.stop)
    return dashboard


def linger(metrics: Metrics, signals: RunSignals) -> None:
    """Keep serving the last values for a while, so that the last scrape sees the end of a run."""
    if metrics.web and metrics.linger and not signals.caught:
        time_ = "" if metrics.linger >= FOREVER else f" for {metrics.linger:g} s"
        log.info("the last values stay%s (Ctrl-C ends this)", time_)
        signals.wait(metrics.linger)


class _Health:
    """The health that a function tells, as the collectors read it."""

    def __init__(self, latest: Callable[[], CollectorHealth]) -> None:
        self.latest = latest
