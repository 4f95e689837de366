"""Command line: options in, text and exit status out."""

from __future__ import annotations

import click

from virnucpro_exporter import __version__
from virnucpro_exporter.cli.assets import assets
from virnucpro_exporter.cli.completion import completion
from virnucpro_exporter.cli.config import config
from virnucpro_exporter.cli.explain import explain
from virnucpro_exporter.cli.gpus import gpus
from virnucpro_exporter.cli.help import PROGRAM, Group
from virnucpro_exporter.cli.report import report
from virnucpro_exporter.cli.run import run
from virnucpro_exporter.cli.serve import serve
from virnucpro_exporter.cli.simulate import simulate
from virnucpro_exporter.cli.status import status
from virnucpro_exporter.cli.watch import watch

_COMMANDS = {
    "Work": (run, config),
    "Look": (status, explain, report, watch, gpus),
    "Serve metrics": (serve, assets),
    "Try": (simulate, completion),
}


@click.group(
    cls=Group,
    invoke_without_command=True,
    sections={title: [str(one.name) for one in group] for title, group in _COMMANDS.items()},
    examples=[
        ("all files of a folder, on all GPUs", "run READS/ --output RESULTS"),
        ("its progress, also after its end", "status RESULTS"),
        ("what it would look like, without a GPU or a file", "simulate"),
    ],
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run sequence files across GPUs with work stealing, and show what every GPU really does."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


for _group in _COMMANDS.values():
    for _command in _group:
        cli.add_command(_command)
