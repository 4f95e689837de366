"""Options of the command line, made from the table in `config`, and types that commands share.

An option that was not given must not hide the value in the configuration file, so only those given
are passed on, although `--help` shows all defaults.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.config.options import (
    FOREVER,
    VARIABLE_PREFIX,
    Declared,
    Kind,
    Place,
    local_path,
    output_place,
)
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.text import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

# Hidden: to look at a command where there is no GPU.
simulated_gpus = click.option(
    "--simulate-gpus",
    "simulated",
    type=click.IntRange(1, 64),
    hidden=True,
)


_EMPTY = "is empty: give a value, or leave it out (is a variable not set?)"


def text(value: str) -> str:
    """A text; an empty one is refused, for it comes from a variable that is not set."""
    if not value.strip():
        raise click.BadParameter(_EMPTY)
    return value


class PathType(click.ParamType):  # type: ignore[type-arg] # generic from click 8.2 on
    """A path on this machine, with the home folder for `~`; shells complete it.

    Args:
        kind: `file`, or `dir` where only folders make sense.
        is_checked: Whether it is checked here, and not with the other options of the table.
    """

    name = "path"

    def __init__(self, kind: str = "file", *, is_checked: bool = True) -> None:
        self._kind = kind
        self._is_checked = is_checked

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the path, if it is not checked later."""
        if not self._is_checked:
            return value
        try:
            return local_path(text(value))
        except ValueError as error:
            raise click.BadParameter(f"{error} (given: {value!r})", ctx, param) from None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Have the shell complete it as a path."""
        del ctx, param
        return [CompletionItem(incomplete, type=self._kind)]


class OutputType(PathType):
    """The output folder of a run, or its folder on this machine where results go into a store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Find the folder."""
        try:
            return output_place(text(value))
        except ValueError as error:  # without what was given, which may be secret
            raise click.BadParameter(str(error), ctx, param) from None


path = PathType()
folder = PathType("dir")
output = OutputType("dir")


class Choice(click.Choice):  # type: ignore[type-arg] # likewise
    """Values that are listed in help and completed; errors are worded as for a file.

    Args:
        choices: The values.
        is_checked: Whether they are checked here, and not with the other options of the table.
    """

    def __init__(self, choices: Sequence[str], *, is_checked: bool = True) -> None:
        super().__init__(choices)
        self._is_checked = is_checked

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take one of the values."""
        if value in self.choices or not self._is_checked:
            return value
        meant = did_you_mean(str(value), map(str, self.choices))
        raise click.BadParameter(
            f"must be one of: {', '.join(map(str, self.choices))} (given: {value!r}){meant}",
            ctx,
            param,
        )


def seconds(least: float) -> Callable[[str | float], float]:
    """Seconds of a least length; `inf` means for ever."""

    def read(value: str | float) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number >= least:
            raise click.BadParameter(f"must be seconds, at least {least:g} (given: {value!r})")
        return min(number, FOREVER)

    return read


class TableOption(click.Option):
    """An option of the table, with its section and its environment variable."""

    def __init__(self, *args: Any, section: str, variable: str | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        self.variable = variable


class TableCommand(Command):
    """Its help shows options by section, and it refuses two answers to one question."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse `--fresh --resume` and the like; click would take the last.

        Where a switch has a default, the last one wins, so that scripts can add to what they got.
        """
        for param in self.get_params(ctx):
            if param.default is not None or ctx.resilient_parsing:
                continue
            on = next((flag for flag in param.opts if flag in args), None)
            off = next((flag for flag in param.secondary_opts if flag in args), None)
            if on and off:
                raise UsageError(f"{on} and {off}: use one of them")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of no section at the end."""
        records = [
            (param.section if isinstance(param, TableOption) else "Other options", record)
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
        ]
        for section, group in itertools.groupby(records, key=lambda one: one[0]):
            with formatter.section(section):
                formatter.write_dl([record for _, record in group])

    def format_variables(self, formatter: click.HelpFormatter) -> None:
        """Write how they are named, with an example of each beginning."""
        named = {
            param.variable.removesuffix(str(param.name).upper()): param.variable
            for param in reversed(self.params)
            if isinstance(param, TableOption) and param.variable is not None
        }
        such = " or ".join(named.values())
        with formatter.section("Environment variables"):
            formatter.write_text(f"{VARIABLE_PREFIX} and an option in capitals, such as {such}.")


def with_table(
    table: Iterable[Declared], choices: Mapping[str, Sequence[str]] | None = None
) -> Callable[[F], F]:
    """A decorator that adds options to a command.

    Args:
        table: The options, in order.
        choices: Values to choose from where the table has none, by key.
    """
    options = [one for one in table if one.option.place is Place.EVERYWHERE]

    def add(function: F) -> F:
        for one in reversed(options):
            function = _option(one, (choices or {}).get(one.key, one.choices))(function)
        return function

    return add


def _option(one: Declared, choices: Sequence[Any]) -> Callable[[F], F]:
    return click.option(
        *one.flags,
        one.key,
        cls=TableOption,
        section=one.section,
        variable=one.variable,
        type=_type(one, choices),
        is_flag=one.kind is Kind.SWITCH,
        multiple=one.kind is Kind.TEXTS,
        metavar=one.option.metavar or None,
        help=one.option.about,
        default=str(one.default) if choices and one.default is not None else one.default,
        show_default=one.default is not None or one.option.unset or None,
    )


def _type(one: Declared, choices: Sequence[Any]) -> Any:
    """How an option is written and completed; the table checks its value, wherever it stands."""
    if choices:
        return Choice([str(choice) for choice in choices], is_checked=not one.choices)
    if one.is_path:
        return PathType("dir" if one.option.metavar == "DIR" else "file", is_checked=False)
    return None if one.kind is Kind.SWITCH else click.STRING


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was written on the command line."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
