"""`run`: process files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app import run as app
from virnucpro_exporter.cli.options import F, PathType, TableCommand, given, path, with_table
from virnucpro_exporter.cli.output import print_end
from virnucpro_exporter.config import CONFIG_VARIABLE, RunConfig, declared, load_config
from virnucpro_exporter.errors import UsageError

INPUTS = PathType(is_checked=False)
_COMMAND = "virnucpro_exporter.command"


class RunCommand(TableCommand):
    """Keeps what follows `--` apart from the inputs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the command away, except where a shell completes it."""
        if "--" in args and not ctx.resilient_parsing:
            cut = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[cut + 1 :])
            if not ctx.meta[_COMMAND]:
                raise UsageError("write the command after `--`, or leave `--` out")
            args = args[:cut]
        return super().parse_args(ctx, args)


def run_options(function: F) -> F:
    """Add the inputs and all options of a run to a command."""
    for add in (
        click.option(
            "--config",
            "config_file",
            type=path,
            metavar="FILE.yaml",
            envvar=CONFIG_VARIABLE,
            help="Option file. Variables VIRNUCPRO_EXPORTER_... override it; flags override both.",
        ),
        with_table(declared(RunConfig)),
        click.argument("inputs", nargs=-1, metavar="INPUT... [-- PROGRAM ...]", type=INPUTS),
    ):
        function = add(function)
    return function


def settings_of(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """What was written on the command line, by the keys of the table.

    Args:
        context: Of the command.
        options: As the command was called with them.
    """
    settings = given(options)
    if not settings.get("inputs"):
        settings.pop("inputs", None)
    if command := context.meta.get(_COMMAND, ()):
        settings["command"] = command
    return settings


@click.command(
    cls=RunCommand,
    examples=[
        ("translate all files of a folder on all GPUs", "run READS/ -o TRANSLATED"),
        ("run a program on each file", "run READS/ -o OUT -- prog {input} {output}"),
        (
            "find viruses: from FASTA to tables",
            "run CONTIGS/ -o FOUND --processor virnucpro --classifier 500_model.pth",
        ),
        ("use two CPU slots, without a GPU", "run READS/ -o OUT --gpus cpu:2"),
        ("options from a file, with other GPUs", "run --config run.yaml --gpus 0,1"),
    ],
)
@run_options
@click.option("-q", "--quiet", is_flag=True, help="Show only warnings and the summary.")
@click.option("--dry-run", is_flag=True, help="Print which GPU would get which files.")
@click.pass_context
def run(
    context: click.Context,
    /,
    config_file: str | None,
    quiet: bool,  # noqa: FBT001 - click passes options by name
    dry_run: bool,  # noqa: FBT001 - likewise
    **options: Any,
) -> int:
    """Process files, folders or patterns of FASTA and FASTQ, each exactly once.

    Results go to the output folder. The same command resumes an interrupted run. A command to run
    on each file follows `--`, with {input}, {output}, {gpu} and {progress} where they belong.
    """
    settings = settings_of(context, options)
    if quiet:
        if settings.get("dashboard") or settings.get("log_level") in {"debug", "info"}:
            raise UsageError("--quiet and more output (--dashboard, --log-level): use one of them")
        settings = {"dashboard": False, "log_level": "warning", **settings}
    config = load_config(config_file, settings, os.environ)
    streams.start_logging(config.views.log_level)
    if dry_run:
        click.echo(app.plan(config))
        return 0
    app.own_process()
    return app.run(config, print_end).exit_code
