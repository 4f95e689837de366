"""`gpus`: what every GPU of this machine does."""

from __future__ import annotations

import json
import os
import time

import click
from rich.console import Console

from virnucpro_exporter.errors import NoDeviceError
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.terminal.gpus_table import gpus_view
from virnucpro_exporter.text import is_ascii_only


@click.command()
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per GPU and line.")
@click.option("--interval", type=click.FloatRange(1.0), default=2.0, show_default=True)
def gpus(watch: bool, as_json: bool, interval: float) -> int:  # noqa: FBT001 - by name
    """Show what every GPU does. Exit status 3 without GPUs."""
    console = Console()
    ascii_only = is_ascii_only(console.encoding, os.environ)
    with GPUMonitor() as monitor:
        snapshot = monitor.wait()
        while True:
            if not snapshot.devices:
                raise NoDeviceError(why_no_gpus(snapshot))
            if as_json:
                for row in rows(snapshot):
                    click.echo(json.dumps(row))
            else:
                console.print(gpus_view(snapshot, ascii_only=ascii_only))
            if not watch:
                return 0
            time.sleep(interval)
            snapshot = monitor.latest()
