"""The options that are in force, as a file of options and for programs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from virnucpro_exporter.config.settings import InForce

_COLUMN = 40
_PLAIN = re.compile(
    r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[a-z_][\w./-]*", re.IGNORECASE | re.ASCII
)


def as_yaml(options: Sequence[InForce]) -> str:
    """A file of options, with the place of each as a comment.

    Args:
        options: In the order of their sections.
    """
    lines = []
    for section, group in itertools.groupby(options, key=lambda one: one.option.section):
        lines.append(f"# {section}")
        for one in group:
            note = one.place
            if one.value is None and one.option.option.unset:
                note += f": {one.option.option.unset}"
            lines.append(f"{f'{one.option.key}: {_value(one.value)}':<{_COLUMN}} # {note}")
        lines.append("")
    return "\n".join(lines[:-1])


def as_json(options: Sequence[InForce]) -> str:
    """One JSON object: by key, the value and where it is written."""
    return json.dumps(
        {one.option.key: {"value": one.value, "from": one.place} for one in options}, indent=1
    )


def _value(value: Any) -> str:
    """JSON, which is YAML; words that mean nothing else need no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value)
