"""`watch`: the dashboard of runs and machines elsewhere."""

from __future__ import annotations

from typing import Any

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app import watch as app
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import path, seconds, text


@click.command(
    cls=Command,
    examples=[
        ("a run, or the service of a machine", "watch gpu7"),
        ("several machines on one screen", "watch gpu7 gpu8 gpu9"),
        (
            "with TLS and a password, which is asked for",
            "watch https://gpu7:9877 --cacert ca.crt --user prometheus",
        ),
    ],
)
@click.argument("urls", type=text, nargs=-1, required=True, metavar="HOST[:PORT]|URL...")
@click.option(
    "--interval",
    type=seconds(0.5),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="Time between two looks.",
)
@click.option("--cacert", type=path, metavar="FILE", help="Authorities to trust, PEM.")
@click.option("-k", "--insecure", is_flag=True, help="Trust any server.")
@click.option("--cert", type=path, metavar="FILE", help="Certificate of this client, PEM.")
@click.option("--key", type=path, metavar="FILE", help="Its key, if not in the same file.")
@click.option(
    "-u", "--user", type=text, metavar="USER[:PASSWORD]", help="Asks for a password left out."
)
def watch(urls: tuple[str, ...], interval: float, user: str | None, **options: Any) -> int:
    """Show runs and GPUs elsewhere, from metrics endpoints.

    An address is that of a run, or of `serve`, which exports all runs and GPUs of its machine; the
    default port is 9877. When all watched runs have ended, the last screen stays, and the exit
    status is the worst result; `serve` is watched until Ctrl-C. The options for TLS and passwords
    are those of curl. While an endpoint does not answer, its values are unknown.
    """
    if user is not None and ":" not in user:
        user += ":" + click.prompt("Password", hide_input=True, err=True)
    streams.start_logging("info")
    return app.watch(urls, interval, user=user, **options)
