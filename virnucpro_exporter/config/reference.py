"""Writes the options into docs/configuration.md, and as keywords for editors.

    python -m virnucpro_exporter.config.reference docs/configuration.md

Between two marks of the page stands what is generated; the rest is written by hand. The keywords
are in `keywords.py` beside this module.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import textwrap
from pathlib import Path

from virnucpro_exporter.config.options import Declared, Kind, Place, declared
from virnucpro_exporter.config.settings import RunConfig

_WIDTH = 100
_COLUMN = 30
_MARKED = re.compile(r"(?<=<!-- options: generated -->\n).*?(?=<!-- /options -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with what is generated written anew.

    Args:
        text: The page as it is.
    """
    return _MARKED.sub(lambda _: f"\n{_block()}\n{_table()}\n", text)


def _block() -> str:
    lines = ["All keys with their defaults:", "", "```yaml"]
    for heading, options in itertools.groupby(declared(RunConfig), key=lambda one: one.section):
        lines += [f"# {heading}", *itertools.chain(*map(_lines, options)), ""]
    return "\n".join([*lines[:-1], "```", ""])


def _lines(one: Declared) -> list[str]:
    """A key with its default, and what it does as a comment beside it."""
    start = f"{one.key}: {_yaml(one)}"
    about = one.option.about
    if one.choices:
        about = f"{' or '.join(map(str, one.choices))}. {about}"
    if one.option.unset:
        about = f"{about} null: {one.option.unset}."
    comment = textwrap.wrap(about, _WIDTH - _COLUMN - 2)
    first = f"{start:<{_COLUMN - 1}} # {comment[0]}"
    return [first, *(f"{'':<{_COLUMN}}# {line}" for line in comment[1:])]


def _yaml(one: Declared) -> str:
    """The default, as YAML has it."""
    if isinstance(one.default, str):
        return one.default
    return json.dumps(one.default)


def _table() -> str:
    """The options beside their keys."""
    lines = ["On the command line:", "", "| option | key | default |", "|---|---|---|"]
    for one in declared(RunConfig):
        shown = f"`{_yaml(one)}`" if one.default is not None else one.option.unset or "none"
        lines.append(f"| {_flags(one)} | `{one.key}` | {shown} |")
    return "\n".join([*lines, ""])


def _flags(one: Declared) -> str:
    if one.option.place is Place.FILE:
        return "in the file only"
    names = [name for flags in one.flags for name in flags.split("/")]
    shown = ", ".join(f"`{name}`" for name in names)
    if one.option.metavar and one.option.place is not Place.ARGUMENT:
        shown += f" `{one.option.metavar}`"
    return shown.replace("|", "\\|")


# Keywords of `run_files` that it has by itself.
_OWN = {"inputs", "output", "processor", "dask"}
_TYPES = {
    Kind.SWITCH: "bool",
    Kind.WHOLE: "int",
    Kind.NUMBER: "float",
    Kind.TEXT: "str",
    Kind.TEXTS: "Sequence[str]",
    Kind.TABLE: "Mapping[str, float]",
}
_START = '''"""Written by `reference.py` from the table of options; not by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


class RunOptions(TypedDict, total=False):
    """The options of a run, as keywords for editors and type checkers."""

'''


def keywords() -> str:
    """The text of `keywords.py`."""
    rows = [f"    {one.key}: {_type(one)}\n" for one in declared(RunConfig) if one.key not in _OWN]
    return _START + "".join(rows)


def _type(one: Declared) -> str:
    if one.key == "gpus":
        return "int | str | Sequence[int | str] | None"
    if one.choices:
        name = f"Literal[{', '.join(json.dumps(choice) for choice in one.choices)}]"
    else:
        name = _TYPES[one.kind] + (" | os.PathLike[str]" if one.is_path else "")
    return f"{name} | None"


def main() -> None:
    """Write the page anew that is named on the command line, and the keywords."""
    Path(__file__).with_name("keywords.py").write_text(keywords(), encoding="utf-8")
    path = Path(sys.argv[1])
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
