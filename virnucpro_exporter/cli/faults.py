"""Mistakes on the command line as lines: the option, what is right, and what was given."""

from __future__ import annotations

import click
from click.core import ParameterSource

from virnucpro_exporter.text import did_you_mean


def line_of(error: click.ClickException) -> str:
    """What click found wrong, in the words in which this program finds options wrong.

    Args:
        error: What click raised.
    """
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return " ".join(f"{_what(error)}{hint}".split())


def _what(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    match error:
        case click.NoSuchOption():
            known = [] if context is None else _options(context)
            meant = did_you_mean(error.option_name, known)
            return f"{error.option_name}: there is no such option{meant}"
        case click.MissingParameter(param=click.Parameter() as param):
            return f"{name_of(param)}: is missing"
        case click.BadParameter(param=click.Parameter() as param):
            right = (
                "must be true or false" if isinstance(param.type, click.types.BoolParamType) else ""
            )
            return f"{_place(param, context)}: {right or error.message}"
        case click.BadOptionUsage():
            needs = "takes no value" if "does not take" in error.message else "needs a value"
            return f"{error.option_name}: {needs}"
        case _:
            return error.format_message()


def name_of(param: click.Parameter) -> str:
    """What a parameter is called on the command line."""
    if isinstance(param, click.Argument):
        return str(param.metavar or param.name)
    return max(param.opts, key=len)


def _place(param: click.Parameter, context: click.Context | None) -> str:
    """Where a value was written: an environment variable, or the command line."""
    source = context.get_parameter_source(param.name or "") if context is not None else None
    return str(param.envvar) if source is ParameterSource.ENVIRONMENT else name_of(param)


def _options(context: click.Context) -> list[str]:
    """The flags of the command, without those that are hidden."""
    return [
        flag
        for param in context.command.get_params(context)
        if not getattr(param, "hidden", False)
        for flag in (*param.opts, *param.secondary_opts)
        if flag.startswith("--")
    ]
