"""The dashboard of a run elsewhere."""

from __future__ import annotations

from typing import Any

from virnucpro_exporter.app.signals import until_signal
from virnucpro_exporter.remote.client import HttpOptions, RemoteRun
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard


def watch(url: str, interval: float, **options: Any) -> int:
    """Show the run behind a metrics endpoint until a signal comes.

    Args:
        url: Address of the endpoint.
        interval: Seconds between two updates.
        options: How to reach it, see `HttpOptions`.

    Raises:
        UsageError: The address or an option cannot be used.
    """
    remote = RemoteRun(url, HttpOptions(**options))
    remote.check()
    dashboard = LoadBalancingDashboard(
        remote, remote.gpus, update_interval=interval, log_file=None, endpoint=remote.url
    )
    return until_signal(dashboard.start, dashboard.stop)
