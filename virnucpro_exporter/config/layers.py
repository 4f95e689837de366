"""The layers of options: the command line, the environment, a file, Python.

A later layer overrides an earlier one. Each layer gives the origin of its options, for errors and
for `config show`.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel

from virnucpro_exporter.config.options import (
    COMMAND_VARIABLES,
    CONFIG_VARIABLE,
    VARIABLE_PREFIX,
    Declared,
    Kind,
    declared,
)
from virnucpro_exporter.stores.urls import without_secrets
from virnucpro_exporter.text import did_you_mean

_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)


class Fault(NamedTuple):
    """What is wrong with an option, as one line, and the line of the file where it is, or 0."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Layer:
    """Options from one place.

    Attributes:
        values: By key.
        place: Where an option is written, by its key.
        shows_key: The place does not name the option, so an error has to.
        is_file: It is a file, which may hold what does not matter for a run.
        faults: What could not be read.
        lines: Where in the file options are, by key.
    """

    values: Mapping[str, Any]
    place: Callable[[str], str]
    shows_key: bool = False
    is_file: bool = False
    faults: Sequence[Fault] = ()
    lines: Mapping[str, int] = field(default_factory=dict)

    def fault(self, key: str, within: Sequence[str], what: str) -> Fault:
        """A fault of an option.

        Args:
            key: The option.
            within: Where in a list or a table the fault is.
            what: What is wrong, and what is right.
        """
        name = ".".join((key, *within))
        place = self.place(key)
        parts = (place, name if self.shows_key else "", what)
        return Fault(self.lines.get(key, 0), ": ".join(part for part in parts if part))


def from_python(options: Mapping[str, Any]) -> Layer:
    """Options that are arguments in Python."""
    return Layer(options, lambda _: "", shows_key=True)


def from_command_line(model: type[BaseModel], options: Mapping[str, Any]) -> Layer:
    """Options as they are written on the command line, by key.

    Args:
        model: The options of the command.
        options: Texts, switches and lists of texts.
    """
    table = {one.key: one for one in declared(model)}
    flags = {key: one.flags[0].split("/")[0] for key, one in table.items() if one.flags}
    values = {key: _value(table[key], value) for key, value in options.items()}
    return Layer(values, lambda key: flags.get(key, f"--{key.replace('_', '-')}"))


def from_environment(model: type[BaseModel], environment: Mapping[str, str]) -> Layer:
    """Options that environment variables hold.

    A variable that is like that of an option is a misspelt one. Others are left alone: Kubernetes
    makes some of the name of a service.

    Args:
        model: The options of the command.
        environment: All variables.
    """
    table = {one.key: one for one in declared(model)}
    names = {key: one.variable for key, one in table.items() if one.variable}
    values: dict[str, Any] = {}
    faults = []
    for key, name in names.items():
        if name in environment:
            try:
                values[key] = _value(table[key], environment[name], splits=True)
            except ValueError as error:
                faults.append(
                    Fault(0, f"{name}: {error} (given: {without_secrets(environment[name])!r})")
                )
    return Layer(values, lambda key: str(names[key]), faults=tuple(faults))


def misspelt_variables(
    models: Iterable[type[BaseModel]], environment: Mapping[str, str]
) -> list[Fault]:
    """A fault for each environment variable whose name resembles that of an option.

    Commands whose options are not in the table check their own variables.

    Args:
        models: All sections whose options have variables.
        environment: The environment of the process.
    """
    known = {CONFIG_VARIABLE} | {
        one.variable for model in models for one in declared(model) if one.variable
    }
    short = {name.removeprefix(VARIABLE_PREFIX) for name in known}
    faults = []
    others = tuple(COMMAND_VARIABLES.values())
    for name in sorted(environment):
        if name.startswith(VARIABLE_PREFIX) and name not in known and not name.startswith(others):
            meant = did_you_mean(name.removeprefix(VARIABLE_PREFIX), short)
            if meant:
                faults.append(Fault(0, f"{name}: there is no such option{meant}"))
    return faults


def _value(one: Declared, given: Any, *, splits: bool = False) -> Any:
    """What a text stands for, by what the option takes; a text that is none of it stays a text.

    Raises:
        ValueError: A list cannot be split as a shell does it.
    """
    if not isinstance(given, str):
        return given
    text = given.strip()
    found: Any = given
    if one.kind is Kind.SWITCH:
        found = _SWITCHES.get(text.lower(), given)
    elif one.kind is Kind.WHOLE and _WHOLE.fullmatch(text):
        found = int(text)
    elif one.kind is Kind.NUMBER:
        with contextlib.suppress(ValueError):
            found = float(text)
    elif one.kind is Kind.CHOICE:
        found = next((choice for choice in one.choices if str(choice) == text), given)
    elif one.kind is Kind.TEXTS and splits and text:
        found = tuple(shlex.split(text))
    return found
