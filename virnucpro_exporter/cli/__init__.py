"""Command line: options in, text and exit status out."""

from __future__ import annotations

import click

from virnucpro_exporter import __version__
from virnucpro_exporter.cli.assets import assets
from virnucpro_exporter.cli.explain import explain
from virnucpro_exporter.cli.gpus import gpus
from virnucpro_exporter.cli.report import report
from virnucpro_exporter.cli.run import run
from virnucpro_exporter.cli.serve import serve
from virnucpro_exporter.cli.simulate import simulate
from virnucpro_exporter.cli.status import status
from virnucpro_exporter.cli.watch import watch

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_SETTINGS, invoke_without_command=True)
@click.version_option(__version__, "-V", "--version", prog_name="virnucpro-exporter")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run sequence files across GPUs with work stealing, and show what every GPU really does."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


for _command in (run, status, explain, report, gpus, serve, watch, simulate, assets):
    cli.add_command(_command)
