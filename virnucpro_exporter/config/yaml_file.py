"""Reading a YAML file of options.

PyYAML follows YAML 1.1, in which `1:0` is sixty, `010` is eight, `1e3` is a text and of two equal
keys the last one counts. Here texts and numbers are what they look like, by the kind of value that
an option takes, and the rest is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from virnucpro_exporter.config.options import Kind
from virnucpro_exporter.errors import ConfigError

# An option is a list or a table of scalars; deeper ones are mistakes or attacks.
_DEEPEST = 10

# Aliases can make a small file stand for more values than there is memory.
_MOST_VALUES = 250_000

_MOST_CHARACTERS = 16_000_000

_TAG = "tag:yaml.org,2002:"


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """The file is YAML, but not of options."""


class _Loader(yaml.SafeLoader):
    """Builds values by what an option takes, and no more of them than make sense."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        super().__init__(text)
        self._kinds = kinds
        self._depth = 0
        self._values_left = _MOST_VALUES

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build the tree; PyYAML's way needs a stack as deep as the tree."""
        with self._deeper(self.peek_event()):  # type: ignore[no-untyped-call]
            return super().compose_node(parent, index)

    def options(self) -> dict[str, Any]:
        """The options of the file, by key."""
        root = self.get_single_node()
        if root is None or root.tag == _TAG + "null":
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise _Refused("write one `option: value` a line")
        return self._table(root, None)

    def _table(self, node: yaml.MappingNode, kind: Kind | None) -> dict[str, Any]:
        """A mapping; values of the whole file have the kinds of their keys, others its own."""
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, value in node.value:
            line = _line(name)
            if not isinstance(name, yaml.ScalarNode):
                raise _Refused(f"line {line}: write one `option: value` a line")
            key = name.value
            if key in lines:
                raise _Refused(f"{key} is written twice, in lines {lines[key]} and {line}")
            lines[key] = line
            found[key] = self._value(key, value, kind or self._kinds.get(key, Kind.TEXT))
        return found

    def _value(self, key: str, node: yaml.Node, kind: Kind) -> Any:
        self._values_left -= 1
        if not self._values_left:
            raise _Refused(f"{key}: more than {_MOST_VALUES:,} values")
        with self._deeper(node):
            if isinstance(node, yaml.MappingNode):
                return self._table(node, kind)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(key, one, kind) for one in node.value]
            return self._scalar(key, node, kind)

    def _scalar(self, key: str, node: yaml.Node, kind: Kind) -> Any:
        text, type_ = str(node.value), node.tag.removeprefix(_TAG)
        if not text and type_ == "null":
            raise _Refused(f"{key}: is empty; write a value, null for the default, or no such line")
        if kind in (Kind.TEXT, Kind.TEXTS, Kind.CHOICE) and type_ in ("int", "float", "timestamp"):
            return int(text) if kind is Kind.CHOICE and text.isdecimal() else text
        if kind in (Kind.NUMBER, Kind.TABLE) and type_ == "str":
            with contextlib.suppress(ValueError):
                return float(text)
        if type_ == "int" and (":" in text or text.lstrip("+-0") != text.lstrip("+-") != "0"):
            raise _Refused(f"{key}: {text} is another number in YAML; write it in decimal digits")
        return self.construct_object(node, deep=True)

    @contextlib.contextmanager
    def _deeper(self, at: yaml.Event | yaml.Node) -> Iterator[None]:
        if self._depth == _DEEPEST:
            raise _Refused(f"line {_line(at)}: it is nested too deeply")
        self._depth += 1
        yield
        self._depth -= 1


def _line(at: yaml.Event | yaml.Node) -> int:
    return 0 if at.start_mark is None else at.start_mark.line + 1


def _read(file: str) -> str:
    with Path(file).open(encoding="utf-8") as stream:
        text = stream.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise _Refused(f"it has more than {_MOST_CHARACTERS:,} characters")
    return text


def read_yaml(file: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The options that a YAML file holds, by key.

    Args:
        file: Its path.
        kinds: What each option takes.

    Raises:
        ConfigError: The file cannot be read, or is not a table of options.
    """
    try:
        loader = _Loader(_read(file), kinds)
        try:
            return loader.options()
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    except _Refused as refused:
        raise ConfigError(f"{file}: {refused}") from None
