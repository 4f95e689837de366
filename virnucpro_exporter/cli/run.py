"""`run`: process files."""

from __future__ import annotations

import logging
from typing import Any

import click

from virnucpro_exporter.app import run as app
from virnucpro_exporter.cli.options import VIEW_OPTIONS, choice, given, with_options
from virnucpro_exporter.cli.output import print_end
from virnucpro_exporter.config import load_config

_COMMAND = "virnucpro_exporter.command"

_RUN_OPTIONS = [
    click.option("--output", metavar="DIR", help="Folder for the results (required)."),
    click.option(
        "--gpus",
        metavar="all|0,1|UUID|0:1|cpu:N",
        help="Which GPUs; default: all, or one CPU slot per core where there is none.",
    ),
    click.option(
        "--dask", metavar="ADDRESS", help="Work on a Dask cluster: its scheduler, tcp://HOST:8786."
    ),
    click.option(
        "--dask-scheduler-file", metavar="FILE", help="Likewise, by the scheduler's file."
    ),
    click.option(
        "--dask-local", type=int, metavar="N", help="A Dask cluster of N workers here, to try it."
    ),
    click.option(
        "--dask-timeout",
        type=float,
        metavar="SECONDS",
        help="How long a node may be silent, or none be there; default: 60.",
    ),
    click.option(
        "--dask-exporter-port",
        type=int,
        metavar="PORT",
        help="Where `serve` listens on the nodes, for /sd; default: 9877.",
    ),
    click.option(
        "--processor",
        metavar="translate|esm2|dnabert|command|MODULE:NAME",
        help="What is done to a file; default: translate, or command after `--`.",
    ),
    click.option("--chunk-size", type=choice("300", "500"), help="For translate; default: 500."),
    click.option(
        "--model",
        metavar="NAME|DIR",
        help="For esm2 and dnabert; default: the models of VirNucPro.",
    ),
    click.option(
        "--tokens-per-batch", type=int, metavar="N", help="For esm2 and dnabert; default: 8192."
    ),
    click.option(
        "--trust-remote-code/--no-trust-remote-code",
        default=None,
        help="For dnabert: run the Python code that comes with the model.",
    ),
    click.option("--output-suffix", metavar="TEXT", help="For commands and Python; default: .out"),
    click.option("--balancer", type=choice("stealing", "static"), help="Default: stealing."),
    click.option("--gpu-weighted/--no-gpu-weighted", default=None, help="Expect faster models."),
    click.option("--stall-threshold", type=float, metavar="SECONDS", help="Default: 300."),
    click.option(
        "--on-stall",
        type=choice("report", "retry", "restart"),
        help="What happens to the file of a stalled worker; default: report.",
    ),
    click.option("--max-attempts", type=int, metavar="N", help="Per file; default: 3."),
    click.option("--file-timeout", type=float, metavar="SECONDS", help="Default: no limit."),
    click.option("--count", type=choice("estimate", "exact"), help="Default: estimate."),
    click.option(
        "--fresh/--resume",
        default=None,
        help="Forget what an earlier run finished, or keep it even if another processor did it.",
    ),
]


class _RunCommand(click.Command):
    """Keeps what follows `--` apart from the inputs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[cut + 1 :])
            args = args[:cut]
        return super().parse_args(ctx, args)


@click.command(cls=_RunCommand)
@click.argument("inputs", nargs=-1, metavar="INPUT... [-- PROGRAM ...]", type=click.UNPROCESSED)
@with_options([*_RUN_OPTIONS, *VIEW_OPTIONS])
@click.option("--config", "config_file", metavar="FILE.yaml", help="All options; flags win.")
@click.option("--dry-run", is_flag=True, help="Print which GPU would get which files, and stop.")
@click.pass_context
def run(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    config_file: str | None,
    dry_run: bool,  # noqa: FBT001 - click passes options by name
    **options: Any,
) -> int:
    """Process files, folders or patterns of FASTA and FASTQ, each exactly once.

    Results go to the output folder. The same command resumes an interrupted run. A command to run
    on each file follows `--`, with {input}, {output}, {gpu} and {progress} where they belong.
    """
    settings = given(options)
    command = context.meta.get(_COMMAND, ())
    if inputs:
        settings["inputs"] = inputs
    if command:
        settings["command"] = command
        settings.setdefault("processor", "command")
    if "chunk_size" in settings:
        settings["chunk_size"] = int(settings["chunk_size"])
    config = load_config(config_file, settings)
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(message)s")
    if dry_run:
        click.echo(app.plan(config))
        return 0
    return app.run(config, print_end).exit_code
