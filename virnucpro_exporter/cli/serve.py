"""`serve`: the metrics of this node's GPUs and runs."""

from __future__ import annotations

from typing import Any

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app import node
from virnucpro_exporter.cli.options import TableCommand, given, simulated_gpus, with_table
from virnucpro_exporter.config import Serve, declared, serve_config


@click.command(cls=TableCommand)
@with_table(declared(Serve))
@simulated_gpus
def serve(simulated: int | None, **options: Any) -> int:
    """Serve the metrics of this node's GPUs and of its runs, until Ctrl-C or SIGTERM."""
    config = serve_config(given(options))
    streams.start_logging("info")
    return node.serve(config, simulated)
