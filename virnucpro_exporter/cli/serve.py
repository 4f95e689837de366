"""`serve`: the metrics of this node's GPUs and runs."""

from __future__ import annotations

import os
from typing import Any

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app import node
from virnucpro_exporter.cli.options import TableCommand, given, simulated_gpus, with_table
from virnucpro_exporter.config import Serve, declared, serve_config


@click.command(
    cls=TableCommand,
    examples=[
        ("all GPUs and runs of this machine, on port 9877", "serve"),
        ("for clients on this machine only", "serve --web-listen-address localhost:9877"),
    ],
)
@with_table(declared(Serve))
@simulated_gpus
def serve(simulated: int | None, **options: Any) -> int:
    """Serve the metrics of this node's GPUs and of its runs, until Ctrl-C or SIGTERM."""
    config = serve_config(given(options), os.environ)
    streams.start_logging("info")
    return node.serve(config, simulated)
