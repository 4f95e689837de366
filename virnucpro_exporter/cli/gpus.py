"""`gpus`: what every GPU of this machine does."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console, RenderableType
from rich.live import Live

from virnucpro_exporter.app.signals import ending
from virnucpro_exporter.cli.options import simulated_gpus
from virnucpro_exporter.errors import NoDeviceError
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.sources import Source
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.terminal.gpus_table import gpus_view
from virnucpro_exporter.text import is_ascii_only

Show = Callable[[GpuSnapshot], None]


@click.command()
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per GPU and line.")
@click.option("--interval", type=click.FloatRange(1.0), default=2.0, show_default=True)
@simulated_gpus
def gpus(
    watch: bool,  # noqa: FBT001 - click passes options by name
    as_json: bool,  # noqa: FBT001
    interval: float,
    source: Source | None,
) -> int:
    """Show what every GPU does, and why a value is missing. Exit status 3 without GPUs."""
    # What is wrong with a GPU stands in the table; the log is for defects of this program.
    logging.basicConfig(level="ERROR", format="%(message)s")
    with GPUMonitor(source=source) as monitor:
        snapshot = monitor.wait()
        if not snapshot.devices:
            raise NoDeviceError(why_no_gpus(snapshot))
        with _lines() if as_json else _table(in_place=watch) as show:
            show(snapshot)
            over = ending()
            while watch and not over.wait(interval):
                show(monitor.latest())
    return 0


@contextmanager
def _lines() -> Iterator[Show]:
    def show(snapshot: GpuSnapshot) -> None:
        for row in rows(snapshot):
            click.echo(json.dumps(row))

    yield show


@contextmanager
def _table(*, in_place: bool) -> Iterator[Show]:
    """Tables one after the other, or on a terminal one that is drawn again in its place."""
    console = Console()
    ascii_only = is_ascii_only(console.encoding, os.environ)

    def view(snapshot: GpuSnapshot) -> RenderableType:
        return gpus_view(snapshot, width=console.width, ascii_only=ascii_only)

    if not in_place or not console.is_terminal or console.is_dumb_terminal:
        yield lambda snapshot: console.print(view(snapshot))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda snapshot: live.update(view(snapshot), refresh=True)
