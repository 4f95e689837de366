"""`watch`: the dashboard of a run elsewhere."""

from __future__ import annotations

import logging
from typing import Any

import click

from virnucpro_exporter.app import watch as app


@click.command()
@click.argument("url")
@click.option(
    "--interval", type=click.FloatRange(0.5), default=2.0, show_default=True, help="In seconds."
)
@click.option("--cacert", metavar="FILE", help="Authorities to trust, PEM.")
@click.option("-k", "--insecure", is_flag=True, help="Trust any server.")
@click.option("--cert", metavar="FILE", help="Certificate of this client, PEM.")
@click.option("--key", metavar="FILE", help="Its key, where that is not in the same file.")
@click.option("-u", "--user", metavar="USER[:PASSWORD]", help="Asks for a password left out.")
def watch(url: str, interval: float, user: str | None, **options: Any) -> int:
    """Show the dashboard of a run elsewhere, from its metrics endpoint, until Ctrl-C.

    The options for TLS and passwords are those of curl. When the endpoint is gone, its values go
    too, until it answers again.
    """
    if user is not None and ":" not in user:
        user += ":" + click.prompt("Password", hide_input=True, err=True)
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    return app.watch(url, interval, user=user, **options)
