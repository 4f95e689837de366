"""`explain`: why a file waits, moved or failed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from virnucpro_exporter.app.explain import explain_text
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import output as paths
from virnucpro_exporter.config import OUTPUT_VARIABLE


class ExplainCommand(Command):
    """Takes the folder from the environment if no argument names it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the folder in front, if the first word is none: every word is a file then."""
        known = os.environ.get(OUTPUT_VARIABLE, "").strip()
        first = next((word for word in args if not word.startswith("-")), None)
        if known and first is not None and not Path(first).is_dir():
            args = [known, *args]
        return super().parse_args(ctx, args)


@click.command(
    cls=ExplainCommand,
    examples=[("the history of a file", "explain RESULTS reads_07.fa")],
)
@click.argument("folder", type=paths, metavar="DIR", envvar=OUTPUT_VARIABLE)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def explain(folder: str, files: tuple[str, ...]) -> int:
    """Explain from the journal why files wait, were moved or failed.

    FILE is an input as the run was given it, or its name without the folder.
    """
    click.echo(explain_text(folder, files))
    return 0
