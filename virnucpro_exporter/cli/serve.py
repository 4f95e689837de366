"""`serve`: the metrics of this node's GPUs."""

from __future__ import annotations

import logging

import click

from virnucpro_exporter.app import node
from virnucpro_exporter.cli.options import simulated_gpus


@click.command()
@click.option(
    "--web-listen-address",
    multiple=True,
    default=node.DEFAULT_LISTEN,
    metavar="HOST:PORT",
    help="Repeatable; default: :9877 (all addresses).",
)
@click.option("--web-telemetry-path", default="/metrics", metavar="PATH", help="Default: /metrics.")
@click.option("--web-config-file", metavar="FILE", help="TLS and basic authentication.")
@simulated_gpus
def serve(
    web_listen_address: tuple[str, ...],
    web_telemetry_path: str,
    web_config_file: str | None,
    simulated: int | None,
) -> int:
    """Serve the metrics of this node's GPUs, until Ctrl-C or SIGTERM."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    return node.serve(web_listen_address, web_telemetry_path, web_config_file, simulated)
