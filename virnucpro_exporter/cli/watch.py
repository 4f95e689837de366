"""`watch`: the dashboard of a run elsewhere."""

from __future__ import annotations

import logging
from typing import Any

import click

from virnucpro_exporter.app.signals import until_signal
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard
from virnucpro_exporter.terminal.remote import HttpOptions, RemoteRun


@click.command()
@click.argument("url")
@click.option("--interval", type=click.FloatRange(0.5), default=2.0, show_default=True)
@click.option("--cacert", metavar="FILE")
@click.option("-k", "--insecure", is_flag=True)
@click.option("--cert", metavar="FILE")
@click.option("--key", metavar="FILE")
@click.option("-u", "--user", metavar="USER:PASSWORD")
def watch(url: str, interval: float, **options: Any) -> int:
    """Show the dashboard of a run elsewhere, from its metrics endpoint, until Ctrl-C."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    remote = RemoteRun(url, HttpOptions(**options))
    dashboard = LoadBalancingDashboard(
        remote, remote.gpus, update_interval=interval, log_file=None, endpoint=remote.url
    )
    return until_signal(dashboard.start, dashboard.stop)
