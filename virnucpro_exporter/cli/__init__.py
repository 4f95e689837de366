"""Command line: options in, text and exit status out."""

from __future__ import annotations

import click

from virnucpro_exporter import __version__
from virnucpro_exporter.cli.help import PROGRAM, Commands, Group

_SECTIONS = {
    "Work": ("run", "config"),
    "Look": ("status", "explain", "report", "watch", "gpus"),
    "Serve metrics": ("serve", "assets"),
    "Try": ("simulate", "completion"),
}


@click.group(
    cls=Group,
    invoke_without_command=True,
    commands=Commands(__name__, [name for names in _SECTIONS.values() for name in names]),
    sections=_SECTIONS,
    examples=[
        ("process all files of a folder on all GPUs", "run READS/ --output RESULTS"),
        ("progress, or the result", "status RESULTS"),
        ("a simulated run, without GPUs or files", "simulate"),
    ],
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.pass_context
def cli(context: click.Context) -> None:
    """Process sequence files on several GPUs with work stealing, and monitor the GPUs."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)
