"""`gpus`: the state of the GPUs of this machine."""

from __future__ import annotations

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app.gpus import show_gpus
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import seconds, simulated_gpus


@click.command(
    cls=Command,
    examples=[
        ("current state of all GPUs", "gpus"),
        ("refresh every 5 s, GPUs with problems first", "gpus --watch --interval 5"),
        ("for programs, one JSON object per line", "gpus --json"),
    ],
)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per GPU and line.")
@click.option(
    "--interval",
    type=seconds(1.0),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="Refresh interval.",
)
@simulated_gpus
def gpus(
    watch: bool,  # noqa: FBT001 - click passes options by name
    as_json: bool,  # noqa: FBT001
    interval: float,
    simulated: int | None,
) -> int:
    """Show the state of every GPU, and why values are missing. Exit status 3 without GPUs."""
    # What is wrong with a GPU stands in the table; the log is for defects of this program.
    streams.start_logging("error", "%(message)s")
    show_gpus(click.echo, watch=watch, as_json=as_json, interval=interval, simulated=simulated)
    return 0
