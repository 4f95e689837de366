"""`run`: process files."""

from __future__ import annotations

from typing import Any

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app import run as app
from virnucpro_exporter.cli.options import TableCommand, given, path, with_table
from virnucpro_exporter.cli.output import print_end
from virnucpro_exporter.config import RunConfig, declared, load_config
from virnucpro_exporter.errors import UsageError

_COMMAND = "virnucpro_exporter.command"


class _RunCommand(TableCommand):
    """Keeps what follows `--` apart from the inputs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[cut + 1 :])
            if not ctx.meta[_COMMAND]:
                raise UsageError("write the command after `--`, or leave `--` out")
            args = args[:cut]
        return super().parse_args(ctx, args)


@click.command(cls=_RunCommand)
@click.argument("inputs", nargs=-1, metavar="INPUT... [-- PROGRAM ...]", type=click.UNPROCESSED)
@with_table(declared(RunConfig))
@click.option(
    "--config", "config_file", type=path, metavar="FILE.yaml", help="All options; flags win."
)
@click.option("-q", "--quiet", is_flag=True, help="No table, and warnings and the summary alone.")
@click.option("--dry-run", is_flag=True, help="Print which GPU would get which files, and stop.")
@click.pass_context
def run(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    config_file: str | None,
    quiet: bool,  # noqa: FBT001 - click passes options by name
    dry_run: bool,  # noqa: FBT001 - likewise
    **options: Any,
) -> int:
    """Process files, folders or patterns of FASTA and FASTQ, each exactly once.

    Results go to the output folder. The same command resumes an interrupted run. A command to run
    on each file follows `--`, with {input}, {output}, {gpu} and {progress} where they belong.
    """
    settings = given(options)
    if quiet:
        if settings.get("dashboard") or settings.get("log_level") in {"debug", "info"}:
            raise UsageError("--quiet and more output (--dashboard, --log-level): use one of them")
        settings = {"dashboard": False, "log_level": "warning", **settings}
    command = context.meta.get(_COMMAND, ())
    if inputs:
        settings["inputs"] = inputs
    if command:
        settings["command"] = command
    config = load_config(config_file, settings)
    streams.start_logging(config.views.log_level)
    if dry_run:
        click.echo(app.plan(config))
        return 0
    app.own_process()
    return app.run(config, print_end).exit_code
