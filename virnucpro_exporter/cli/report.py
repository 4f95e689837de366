"""`report`: a summary of the runs in an output folder."""

from __future__ import annotations

import time

import click

from virnucpro_exporter.app.report import make_report
from virnucpro_exporter.app.tables import report_json, report_tsv, write_failed
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import output, path
from virnucpro_exporter.config import OUTPUT_VARIABLE
from virnucpro_exporter.errors import UsageError


@click.command(
    cls=Command,
    examples=[
        ("the work of each GPU, and what slowed the run", "report RESULTS"),
        ("an HTML report with charts", "report RESULTS --html report.html"),
        ("a table of all files for MultiQC", "report RESULTS --tsv > virnucpro_mqc.tsv"),
        ("the paths of failed files", "report RESULTS --failed-list failed.txt"),
    ],
)
@click.argument("source", type=output, metavar="LOG_OR_OUTPUT_DIR", envvar=OUTPUT_VARIABLE)
@click.option("--html", type=path, metavar="FILE", help="Also write an HTML report with charts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with all files.")
@click.option(
    "--tsv",
    "as_tsv",
    is_flag=True,
    help="Print a TSV table of files, for MultiQC.",
)
@click.option(
    "--failed-list",
    type=path,
    metavar="FILE",
    help="Also write the paths of failed files.",
)
def report(
    source: str,
    html: str | None,
    as_json: bool,  # noqa: FBT001 - click passes options by name
    as_tsv: bool,  # noqa: FBT001 - likewise
    failed_list: str | None,
) -> int:
    """Summarise a run, after or during it, from its output folder or a metrics log."""
    if as_json and as_tsv:
        raise UsageError("--json and --tsv: use one of them")
    text = make_report(source, html)
    if failed_list is not None:
        write_failed(source, failed_list)
    if as_json:
        text = report_json(source, time.time())
    elif as_tsv:
        text = report_tsv(source)
    click.echo(text)
    return 0
