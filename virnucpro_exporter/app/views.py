"""Everything that shows a run: the endpoint, the pushes, the terminal and the metrics log."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro_exporter.app.signals import RunSignals
from virnucpro_exporter.app.target_file import target_file, target_of
from virnucpro_exporter.config import Metrics, Views
from virnucpro_exporter.config.options import FOREVER
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.metrics.push import GatewayAccess, GatewayPusher, Periodic, TextfileWriter
from virnucpro_exporter.metrics.registry import build_registry
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, Latest, RunSnapshot
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard
from virnucpro_exporter.web.addresses import bind, bind_near
from virnucpro_exporter.web.discovery import NodeDiscovery
from virnucpro_exporter.web.server import MetricsServer, check_path
from virnucpro_exporter.web.web_config import WebConfig

log = logging.getLogger(__name__)

RESUMES = "the same command resumes"
AGAIN = f"press Ctrl-C again to stop now; {RESUMES}"


# Options that make no sense without an endpoint of one's own.
_OF_OWN = {"web_telemetry_path", "web_config_file", "linger", "target_file"}

# After a signal the last values stay for so long at most, in seconds: a program that is stopped
# should end soon.
_STAYS_AFTER_SIGNAL = 30.0

_LOOK_SECONDS = 0.25  # between two looks whether the last values were read


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


def reserve(
    metrics: Metrics,
    stack: contextlib.ExitStack,
    *,
    run: str = "",
    is_shown_elsewhere: bool = False,
) -> Reserved:
    """Take the addresses, and check all that could be refused later.

    An address that the user did not name may be taken: then it is the next one that is free.

    Args:
        metrics: What will be served and sent.
        run: The name of the run.
        is_shown_elsewhere: The exporter of the machine shows the run, so that it needs no address
            of its own unless the user names one.
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
        if "web_listen_address" in metrics.model_fields_set:
            listeners = bind(metrics.web_listen_address)
        elif is_shown_elsewhere and not metrics.model_fields_set & _OF_OWN:
            log.info("metrics: served by `serve` on this machine")
        else:
            listeners = _bind_by_default(metrics.web_listen_address)
        for listener in listeners:
            stack.callback(listener.close)
    pushes: list[Periodic] = []
    if metrics.textfile:
        pushes.append(TextfileWriter(metrics.textfile, metrics.push_interval, run))
    if metrics.push_gateway:
        pushes.append(
            GatewayPusher(
                metrics.push_gateway,
                metrics.push_interval,
                run=run,
                grouping=dict(pair.split("=", 1) for pair in metrics.push_grouping or ()),
                keep=metrics.push_keep,
                access=_access(metrics),
            )
        )
    return Reserved(tuple(listeners), tuple(pushes), web)


def show(
    views: Views,
    metrics: Metrics,
    reserved: Reserved,
    stack: contextlib.ExitStack,
    coordinator: Published[RunSnapshot],
    monitor: Published[GpuSnapshot] | None,
    folder: Path,
    nodes: NodeDiscovery | None = None,
) -> Shown:
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
        What has been started.
    """
    dashboard = LoadBalancingDashboard(
        coordinator,
        monitor or Latest(GpuSnapshot(time.time())),
        log_file=views.log_path(folder),
        plain=None if views.dashboard is None else not views.dashboard,
        log_interval=views.metrics_log_interval,
        log_max_bytes=views.metrics_log_max_bytes,
        drain_hint=AGAIN,
    )
    server: MetricsServer | None = None
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
            linger=metrics.linger,
        )
        server.start()
        stack.callback(server.stop)
        if metrics.target_file:
            target = target_of(server, coordinator.latest().name)
            stack.enter_context(target_file(metrics.target_file, target))
        dashboard.show_endpoint(server.urls[0])
        log.info("metrics: %s", ", ".join(server.urls))
    for push in reserved.pushes:
        registry = build_registry(coordinator, monitor, health, process=False)
        push.start(registry, last=build_registry(coordinator, None, health, process=False))
        stack.callback(push.stop)
    dashboard.start()
    stack.callback(dashboard.stop)
    return Shown(dashboard, server)


@dataclass(frozen=True, slots=True)
class Shown:
    """What shows a run.

    Attributes:
        dashboard: For the terminal.
        server: Its endpoint, if it has one of its own.
    """

    dashboard: LoadBalancingDashboard
    server: MetricsServer | None


def linger(metrics: Metrics, signals: RunSignals, server: MetricsServer | None) -> None:
    """Keep serving the last values until they were read, so that the end of a run is seen.

    Only clients that have read the metrics before are waited for. Where the user says how long,
    the values stay for that time.
    """
    if server is None or not metrics.linger or len(signals.caught) > 1:
        return
    is_wanted = "linger" in metrics.model_fields_set and not signals.caught
    if not (is_wanted or server.was_read):
        return
    seconds = min(metrics.linger, _STAYS_AFTER_SIGNAL) if signals.caught else metrics.linger
    until = "" if is_wanted else " until the last scrape"
    time_ = "" if seconds >= FOREVER else f", for {seconds:g} s"
    log.info("the endpoint stays up%s%s (Ctrl-C ends it)", until, time_)
    if is_wanted:
        signals.wait(seconds)
        return
    ended = time.monotonic()
    while time.monotonic() < ended + seconds and not signals.wait(_LOOK_SECONDS):
        if not server.unread(ended):
            signals.wait(_LOOK_SECONDS)  # for the answer to be on its way
            return


def _access(metrics: Metrics) -> GatewayAccess:
    """How the Pushgateway lets the run in: by the options, else by the environment."""
    file = metrics.push_password_file
    try:
        given = None if file is None else Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--push-password-file {file}: {error}") from error
    variable = os.environ.get
    ca_file = metrics.push_ca_file or variable("VIRNUCPRO_PUSH_CA_FILE")
    return GatewayAccess(
        metrics.push_user or variable("VIRNUCPRO_PUSH_USER") or "",
        variable("VIRNUCPRO_PUSH_PASSWORD", "") if given is None else given,
        Path(ca_file) if ca_file else None,
    )


def _bind_by_default(addresses: Sequence[str]) -> list[socket.socket]:
    listeners = [listener for address in addresses for listener in bind_near(address)]
    for address, listener in zip(addresses, listeners, strict=False):
        port = listener.getsockname()[1]
        if not address.endswith(f":{port}"):
            log.info("%s is in use: metrics are on port %d", address, port)
    return listeners


class _Health:
    """The health that a function returns, with the interface that collectors read."""

    def __init__(self, latest: Callable[[], CollectorHealth]) -> None:
        self.latest = latest
