"""How help is laid out: commands and options in groups, then examples."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import click

from virnucpro_exporter.cli.faults import name_of
from virnucpro_exporter.config import COMMAND_VARIABLES
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.text import did_you_mean

PROGRAM = "virnucpro-exporter"

_SETTINGS = {"max_content_width": 100}

_LONGEST = 200  # of a first sentence, in characters: it is wrapped, never cut


class _ShortHelp(click.Command):
    """One that has `-h` beside `--help`.

    In whatever context it is first used: click keeps the help option of that one, which need not
    be the context of the whole program.
    """

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """The names of the option."""
        del ctx
        return ["-h", "--help"]


class Command(_ShortHelp):
    """A command with examples.

    The options of a command in `COMMAND_VARIABLES` can be environment variables, which `variables`
    lists: by its name, what it stands for on the command line.

    Args:
        examples: Command lines without the name of the program, each with what it does.
    """

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": _SETTINGS, **kwargs})
        self.examples = examples
        self._prefix = COMMAND_VARIABLES.get(self.name or "")
        if self._prefix is not None:
            for param in self.params:
                if param.envvar is None and not getattr(param, "hidden", False):
                    param.envvar = self._prefix + _key(param)
        self.variables = {
            str(param.envvar): name_of(param) for param in self.params if param.envvar is not None
        }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse variables of the command that are empty or misspelt, which click would ignore.

        Raises:
            UsageError: There are some.
        """
        if not ctx.resilient_parsing:
            self._check_variables()
        return super().parse_args(ctx, args)

    def _check_variables(self) -> None:
        faults = [
            f"{name}: is empty: give a value, or leave it out (is a variable not set?)"
            for name in self.variables
            if not os.environ.get(name, "-").strip()
        ]
        if self._prefix is not None:
            known = [name.removeprefix(self._prefix) for name in self.variables]
            for name in sorted(os.environ):
                if name.startswith(self._prefix) and name not in self.variables:
                    # One that is like none is left alone: Kubernetes makes some of its services.
                    meant = did_you_mean(name.removeprefix(self._prefix), known)
                    faults += [f"{name}: there is no such option{meant}"] if meant else []
        if faults:
            raise UsageError(*faults)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what follows the options: environment variables, and the examples last."""
        super().format_epilog(ctx, formatter)
        self.format_variables(formatter)
        write_examples(formatter, self.examples)

    def format_variables(self, formatter: click.HelpFormatter) -> None:
        """Write which environment variables there are."""
        if self.variables:
            with formatter.section("Environment variables"):
                formatter.write_dl([(option, name) for name, option in self.variables.items()])


def _key(param: click.Parameter) -> str:
    """What the name of a parameter's environment variable ends with."""
    return max(param.opts, key=len).lstrip("-").replace("-", "_").upper()


class Commands(MutableMapping[str, click.Command]):
    """Commands by name, each loaded when it is wanted: a run starts sooner without the others.

    Args:
        package: Where the module of each command is; it has the command's name, and so has what
            it defines.
        names: All of them, in order.
    """

    def __init__(self, package: str, names: Sequence[str]) -> None:
        self._package = package
        self._commands: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if command is None:
            module = importlib.import_module(f"{self._package}.{name}")
            command = self._commands[name] = getattr(module, name)
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


class Group(_ShortHelp, click.Group):
    """Commands in sections.

    Args:
        sections: The names of the commands of each section.
        examples: As of a command.
    """

    def __init__(
        self,
        *args: Any,
        sections: Mapping[str, Sequence[str]],
        examples: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{"context_settings": _SETTINGS, **kwargs})
        self.sections = sections
        self.examples = examples

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, section by section."""
        del ctx
        width = max(len(name) for name in self.commands)
        for section, names in self.sections.items():
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (f"{name:<{width}}", self.commands[name].get_short_help_str(_LONGEST))
                        for name in names
                    ]
                )
        write_examples(formatter, self.examples)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest a similar one.

        Raises:
            UsageError: There is none of this name.
        """
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            if name.startswith("-"):
                ctx.fail(f"{name}: there is no such option; options follow the command")
            meant = did_you_mean(name, self.list_commands(ctx))
            raise UsageError(
                f"{name}: there is no such command{meant} (see {ctx.command_path} --help)"
            )
        return super().resolve_command(ctx, args)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]]) -> None:
    """Write command lines, each below what it does."""
    if not examples:
        return
    with formatter.section("Examples"):
        for what, words in examples:
            formatter.write(f"{'':>{formatter.current_indent}}# {what}\n")
            formatter.write(f"{'':>{formatter.current_indent}}{PROGRAM} {words}\n")
