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

from virnucpro_exporter.config.layers import Fault, Layer
from virnucpro_exporter.config.options import Kind
from virnucpro_exporter.errors import ConfigError

# An option is a list or a table of scalars; deeper ones are mistakes or attacks.
_DEEPEST = 10

# Aliases can make a small file stand for more values than there is memory.
_MOST_VALUES = 250_000

_MOST_CHARACTERS = 16_000_000

_TAG = "tag:yaml.org,2002:"


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """The file is YAML, but not of options.

    Args:
        what: What is wrong, and what is right.
        line: Where; None where the whole file is at fault.
    """

    def __init__(self, what: str, line: int | None = None) -> None:
        self.line = line
        super().__init__(what)


class _Hopeless(_Refused):
    """What else is in the file does not matter."""


class _Loader(yaml.SafeLoader):
    """Builds values by what an option takes, and no more of them than make sense."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        super().__init__(text)
        self.lines: dict[str, int] = {}
        self.refused: list[_Refused] = []
        self._kinds = kinds
        self._depth = 0
        self._values_left = _MOST_VALUES

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build the tree; PyYAML's way needs a stack as deep as the tree."""
        with self._deeper(self.peek_event()):  # type: ignore[no-untyped-call]
            return super().compose_node(parent, index)

    def options(self) -> dict[str, Any]:
        """The options of the file, by key; those that cannot be read are in `refused`."""
        root = self.get_single_node()
        if root is None or root.tag == _TAG + "null":
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise _Refused("write one `option: value` per line", _line(root))
        found: dict[str, Any] = {}
        for name, value in root.value:
            with self._noting():
                key = self._key(name, self.lines)
                found[key] = self._value(key, value, self._kinds.get(key, Kind.TEXT))
        return found

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Go on after a fault, so that all are found at once."""
        try:
            yield
        except _Hopeless:
            raise
        except _Refused as refused:
            self.refused.append(refused)

    def _key(self, name: yaml.Node, lines: dict[str, int]) -> str:
        line = _line(name)
        if not isinstance(name, yaml.ScalarNode):
            raise _Refused("write one `option: value` per line", line)
        key = str(name.value)
        if key in lines:
            raise _Refused(f"{key} is written twice, in lines {lines[key]} and {line}", line)
        lines[key] = line
        return key

    def _table(self, node: yaml.MappingNode, kind: Kind) -> dict[str, Any]:
        lines: dict[str, int] = {}
        return {
            (key := self._key(name, lines)): self._value(key, value, kind)
            for name, value in node.value
        }

    def _value(self, key: str, node: yaml.Node, kind: Kind) -> Any:
        self._values_left -= 1
        if not self._values_left:
            raise _Hopeless(f"{key}: more than {_MOST_VALUES:,} values", _line(node))
        with self._deeper(node):
            if isinstance(node, yaml.MappingNode):
                return self._table(node, kind)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(key, one, kind) for one in node.value]
            return self._scalar(key, node, kind)

    def _scalar(self, key: str, node: yaml.Node, kind: Kind) -> Any:
        text, type_ = str(node.value), node.tag.removeprefix(_TAG)
        if not text and type_ == "null":
            what = "is empty; write a value, or null for the default, or remove the line"
            raise _Refused(f"{key}: {what}", _line(node))
        if kind in (Kind.TEXT, Kind.TEXTS, Kind.CHOICE) and type_ in ("int", "float", "timestamp"):
            return int(text) if kind is Kind.CHOICE and text.isdecimal() else text
        if kind in (Kind.NUMBER, Kind.TABLE) and type_ == "str":
            with contextlib.suppress(ValueError):
                return float(text)
        if type_ == "int" and (":" in text or text.lstrip("+-0") != text.lstrip("+-") != "0"):
            what = f"YAML reads {text} as {self.construct_object(node)}"
            raise _Refused(f"{key}: {what}; write the number in decimal digits", _line(node))
        return self.construct_object(node, deep=True)

    @contextlib.contextmanager
    def _deeper(self, at: yaml.Event | yaml.Node) -> Iterator[None]:
        if self._depth == _DEEPEST:
            raise _Hopeless("it is nested too deeply", _line(at))
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


def _line(at: yaml.Event | yaml.Node) -> int:
    return 0 if at.start_mark is None else at.start_mark.line + 1


def _read(file: str) -> str:
    with Path(file).open(encoding="utf-8") as stream:
        text = stream.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise _Refused(f"it has more than {_MOST_CHARACTERS:,} characters")
    return text


def read_yaml(file: str, kinds: Mapping[str, Kind]) -> Layer:
    """The options that a YAML file holds.

    Args:
        file: Its path.
        kinds: What each option takes.

    Raises:
        ConfigError: The file cannot be read, or is not a table of options.
    """
    try:
        loader = _Loader(_read(file), kinds)
        try:
            values = loader.options()
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    except _Refused as refused:
        raise ConfigError(_at(file, refused).text) from None
    return Layer(
        values,
        lambda key: f"{file}:{loader.lines[key]}",
        shows_key=True,
        is_file=True,
        faults=[_at(file, refused) for refused in loader.refused],
        lines=loader.lines,
    )


def _at(file: str, refused: _Refused) -> Fault:
    place = file if refused.line is None else f"{file}:{refused.line}"
    return Fault(refused.line or 0, f"{place}: {refused}")
