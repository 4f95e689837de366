"""`config`: the options in effect, and checks of option files."""

from __future__ import annotations

import os
from typing import Any

import click

from virnucpro_exporter.cli.help import Command, Group
from virnucpro_exporter.cli.options import path
from virnucpro_exporter.cli.run import RunCommand, run_options, settings_of
from virnucpro_exporter.config import as_json, as_yaml, check_file, in_force
from virnucpro_exporter.text import counted

EXAMPLES = [
    ("options in effect, and their sources", "config show --config run.yaml --gpus 0,1"),
    ("write a file with all options", "config show > run.yaml"),
    ("list all errors in a file", "config check run.yaml"),
]


@click.group(cls=Group, sections={"Commands": ("show", "check")}, examples=EXAMPLES)
def config() -> None:
    """Show the options in effect and their sources, or check an option file."""


@click.command(cls=RunCommand, examples=EXAMPLES[:2])
@run_options
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
@click.option("--changed", is_flag=True, help="Only options that differ from their default.")
@click.pass_context
def show(
    context: click.Context,
    /,
    config_file: str | None,
    is_json: bool,  # noqa: FBT001 - click passes options by name
    changed: bool,  # noqa: FBT001 - likewise
    **options: Any,
) -> int:
    """Show the options in effect for a run with these options, and their sources.

    An option comes from a default, a file, an environment variable or the command line. What is
    printed can be used as a file of options.
    """
    found = in_force(config_file, settings_of(context, options), os.environ)
    if changed:
        found = [one for one in found if one.place != "default"]
    click.echo(as_json(found) if is_json else as_yaml(found))
    return 0


@click.command(cls=Command, examples=EXAMPLES[2:])
@click.argument("file", type=path, metavar="FILE.yaml")
def check(file: str) -> int:
    """Check an option file: print one line per error, and exit with status 2 on any.

    No run is started, and the folders in the file are not checked.
    """
    click.echo(f"{file}: {counted(check_file(file), 'option')}, no errors")
    return 0


for _command in (show, check):
    config.add_command(_command)
