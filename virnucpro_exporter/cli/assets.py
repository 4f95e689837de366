"""`assets`: what comes with the program for others to read."""

from __future__ import annotations

from pathlib import Path

import click

from virnucpro_exporter.app import assets as app
from virnucpro_exporter.cli.options import path
from virnucpro_exporter.text import counted


@click.command()
@click.argument("folder", metavar="DIR", type=path)
@click.option("--force", is_flag=True, help="Replace files that are there and differ.")
def assets(folder: str, force: bool) -> int:  # noqa: FBT001 - click passes options by name
    """Write dashboards, alert rules and the files for Docker Compose into a folder.

    With Docker, `docker compose up` in that folder starts them all, with a simulated run to look
    at. docs/deploy.md and docs/alerting.md, which are written too, tell what else there is.
    """
    written, same = app.write(Path(folder), force=force)
    there = f", {same} were there already" if same else ""
    click.echo(f"{counted(written, 'file')} written to {folder!r}{there}")
    return 0
