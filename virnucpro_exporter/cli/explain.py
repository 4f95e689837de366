"""`explain`: why a file waits, moved or failed."""

from __future__ import annotations

import click

from virnucpro_exporter.app.explain import explain_text
from virnucpro_exporter.cli.options import path


@click.command()
@click.argument("folder", type=path, metavar="DIR")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def explain(folder: str, files: tuple[str, ...]) -> int:
    """Tell why files wait, moved or failed, from the journal of an output folder.

    FILE is an input as the run was given it, or its name without the folder.
    """
    click.echo(explain_text(folder, files))
    return 0
