"""`completion`: shell completion of command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class, shell_complete

from virnucpro_exporter.app import completion as app
from virnucpro_exporter.cli.help import PROGRAM, Command
from virnucpro_exporter.cli.options import Choice

# With this variable the script of a shell requests completions from the program.
VARIABLE = "_VIRNUCPRO_EXPORTER_COMPLETE"


def complete(cli: click.Command, instruction: str) -> int:
    """Answer a request of the completion script.

    Args:
        cli: The whole command line.
        instruction: The request of the script.
    """
    return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)


@click.command(
    cls=Command,
    examples=[
        ("install for your shell; takes effect in new shells", "completion --install"),
        ("a script for all users", "completion bash > /etc/bash_completion.d/virnucpro-exporter"),
    ],
)
@click.argument("shell", required=False, type=Choice(app.SHELLS), metavar="[bash|zsh|fish]")
@click.option("--install", is_flag=True, help="Install the script in the shell's start-up files.")
@click.pass_context
def completion(
    context: click.Context,
    shell: str | None,
    install: bool,  # noqa: FBT001 - click passes options by name
) -> int:
    """Print or install the script that completes commands, options and paths in a shell."""
    shell = shell or app.users_shell()
    kind = get_completion_class(shell)
    if kind is None:  # click has all of them
        raise click.BadParameter(f"must be one of: {', '.join(app.SHELLS)}")
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    if not install:
        click.echo(script)
        return 0
    path, reader = app.install(shell, script)
    by = "" if reader is None else f", and a line in {str(reader)!r} that loads it"
    click.echo(f"wrote {str(path)!r}{by}; it takes effect in new shells")
    return 0
