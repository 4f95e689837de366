"""`status`: the progress of the run in an output folder."""

from __future__ import annotations

import click

from virnucpro_exporter.app.status import status_code, status_json, status_text
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import output as paths
from virnucpro_exporter.config import OUTPUT_VARIABLE


@click.command(
    cls=Command,
    examples=[
        ("progress and ETA", "status RESULTS"),
        ("for programs", "status RESULTS --json"),
    ],
)
@click.argument("folder", type=paths, metavar="DIR", envvar=OUTPUT_VARIABLE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(folder: str, as_json: bool) -> int:  # noqa: FBT001 - click passes options by name
    """Show the progress of the run in an output folder, from its journal.

    The exit status is the state of the run: 0 completed, 1 failed, 10 still running, 130
    interrupted, 137 killed; 2 if there is none.
    """
    click.echo(status_json(folder) if as_json else status_text(folder))
    return status_code(folder)
