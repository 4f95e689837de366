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
            "with TLS, and a prompt for the password",
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
    help="Refresh interval.",
)
@click.option("--cacert", type=path, metavar="FILE", help="CA certificates to trust, PEM.")
@click.option("-k", "--insecure", is_flag=True, help="Do not verify the server's certificate.")
@click.option("--cert", type=path, metavar="FILE", help="Client certificate, PEM.")
@click.option("--key", type=path, metavar="FILE", help="Key of the certificate, PEM.")
@click.option(
    "-u",
    "--user",
    type=text,
    metavar="USER[:PASSWORD]",
    help="Prompts for a missing password.",
)
def watch(urls: tuple[str, ...], interval: float, user: str | None, **options: Any) -> int:
    """Show the runs and GPUs of other machines, from their metrics endpoints.

    An address is that of a run, or of `serve`, which exports all runs and GPUs of its machine; the
    default port is 9877. When all watched runs have ended, the last screen stays, and the exit
    status is the worst result; `serve` is watched until Ctrl-C. The options for TLS and passwords
    are those of curl. While an endpoint does not answer, its values are unknown.
    """
    if user is not None and ":" not in user:
        user += ":" + click.prompt("Password", hide_input=True, err=True)
    streams.start_logging("info")
    return app.watch(urls, interval, user=user, **options)
