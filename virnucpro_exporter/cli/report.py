"""`report`: who did what in a run."""

from __future__ import annotations

import click

from virnucpro_exporter.app.report import make_report
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import path


@click.command(
    cls=Command,
    examples=[
        ("who did what, and what held the run back", "report RESULTS"),
        ("a page with pictures", "report RESULTS --html report.html"),
    ],
)
@click.argument("source", type=path, metavar="LOG_OR_OUTPUT_DIR")
@click.option("--html", type=path, metavar="FILE", help="Also write a page with pictures.")
def report(source: str, html: str | None) -> int:
    """Tell who did what, after a run or during it: from its output folder, or a metrics log."""
    click.echo(make_report(source, html))
    return 0
