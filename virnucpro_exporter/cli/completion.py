"""`completion`: command lines that the shell completes."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class, shell_complete

from virnucpro_exporter.app import completion as app
from virnucpro_exporter.cli.help import PROGRAM, Command
from virnucpro_exporter.cli.options import Choice

# By this variable the script of a shell asks the program what may follow.
VARIABLE = "_VIRNUCPRO_EXPORTER_COMPLETE"


def complete(cli: click.Command, instruction: str) -> int:
    """Answer the script of a shell.

    Args:
        cli: The whole command line.
        instruction: What the script asks.
    """
    return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)


@click.command(
    cls=Command,
    examples=[
        ("for the shell that you use, from its next start on", "completion --install"),
        ("a script for all users", "completion bash > /etc/bash_completion.d/virnucpro-exporter"),
    ],
)
@click.argument("shell", required=False, type=Choice(app.SHELLS), metavar="[bash|zsh|fish]")
@click.option("--install", is_flag=True, help="Have the shell read the script when it starts.")
@click.pass_context
def completion(
    context: click.Context,
    shell: str | None,
    install: bool,  # noqa: FBT001 - click passes options by name
) -> int:
    """Print a script with which a shell completes commands, options and paths, or install it."""
    shell = shell or app.users_shell()
    kind = get_completion_class(shell)
    if kind is None:  # click has all of them
        raise click.BadParameter(f"must be one of: {', '.join(app.SHELLS)}")
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    if not install:
        click.echo(script)
        return 0
    path, reader = app.install(shell, script)
    by = "" if reader is None else f", and a line in {str(reader)!r} that reads it"
    click.echo(f"{str(path)!r} is written{by}; it counts from the next start of {shell} on")
    return 0
