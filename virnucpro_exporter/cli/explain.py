"""`explain`: why a file waits, moved or failed."""

from __future__ import annotations

import click

from virnucpro_exporter.app.explain import explain_text
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import folder as paths


@click.command(
    cls=Command,
    examples=[("all that happened to a file", "explain RESULTS reads_07.fa")],
)
@click.argument("folder", type=paths, metavar="DIR")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def explain(folder: str, files: tuple[str, ...]) -> int:
    """Explain why files wait, moved or failed, from the journal of an output folder.

    FILE is an input as the run was given it, or its name without the folder.
    """
    click.echo(explain_text(folder, files))
    return 0
