"""What an option is, the types of values, and how the table of options is read.

An option is a field of a section whose annotation holds an `Option`:

    class Scheduling(Section):
        max_attempts: Annotated[Count, Option("Attempts per file.", "N")] = 3

The name of the field is the key in the YAML file, and with `-` for `_` the flag.
"""

from __future__ import annotations

import enum
import os
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.stores.urls import (
    WEB,
    ambiguous,
    is_url,
    put_query_aside,
    scheme_of,
    state_folder,
)

# Seconds that mean "for ever": 31 years. Longer waits, and `inf`, overflow in the calls that wait.
FOREVER = 1e9

# What the names of the environment variables of options begin with.
VARIABLE_PREFIX = "VIRNUCPRO_EXPORTER_"

# The one of `--config`, which is no option of the table.
CONFIG_VARIABLE = f"{VARIABLE_PREFIX}CONFIG"

# The one of the output folder: of a run, and of the commands that look into it.
OUTPUT_VARIABLE = f"{VARIABLE_PREFIX}OUTPUT"

# How the variables of commands begin whose options are not in the table.
COMMAND_VARIABLES = {
    name: f"{VARIABLE_PREFIX}{name.upper()}_" for name in ("gpus", "report", "status", "watch")
}


class Place(enum.Enum):
    """Where users can write an option."""

    EVERYWHERE = enum.auto()
    ARGUMENT = enum.auto()  # in the file, and on the command line without a flag
    FILE = enum.auto()  # in the file alone


@dataclass(frozen=True, slots=True)
class Option:
    """What users read about an option.

    Attributes:
        about: What it does, as a sentence; for `--help` and docs/configuration.md.
        metavar: What stands for its value in `--help`; choices and switches need none.
        unset: What happens without it, where its default is None.
        key: Its name in the YAML file, where that is not the name of the field.
        flags: How it is written on the command line, where that is not `--key`.
        place: Where it can be written.
    """

    about: str
    metavar: str = ""
    unset: str = ""
    key: str = ""
    flags: str = ""
    place: Place = Place.EVERYWHERE


class Section(BaseModel):
    """Options that belong together; the docstring's first line is their heading.

    A number may be written as an integer; nothing else is converted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Keeps the environment variables of options apart that two commands call alike.
    variables: ClassVar[str] = ""


class Kind(enum.Enum):
    """What the value of an option is."""

    SWITCH = enum.auto()
    CHOICE = enum.auto()
    WHOLE = enum.auto()
    NUMBER = enum.auto()
    TEXT = enum.auto()
    TEXTS = enum.auto()
    TABLE = enum.auto()


@dataclass(frozen=True, slots=True)
class Declared:
    """One row of the table.

    Attributes:
        path: The names of the fields that lead to the value, from the configuration down.
        section: The heading of its section.
        kind: What its value is.
        choices: The values to choose from, where there are some.
        takes_none: None is a value of its own; elsewhere it means the default.
        is_path: It is a path on this machine.
        default: Its value where nothing is given.
        variables: What the name of its environment variable has in it beside its key.
        option: What users read about it.
    """

    path: tuple[str, ...]
    section: str
    kind: Kind
    choices: tuple[Any, ...]
    takes_none: bool
    is_path: bool
    default: Any
    variables: str
    option: Option

    @property
    def key(self) -> str:
        """Its name in the YAML file, and as an argument in Python."""
        return self.option.key or self.path[-1]

    @property
    def variable(self) -> str | None:
        """The environment variable that holds its value; None where it is in the file alone."""
        if self.option.place is Place.FILE:
            return None
        return f"{VARIABLE_PREFIX}{self.variables}{self.key.upper()}"

    @property
    def flags(self) -> tuple[str, ...]:
        """How it is written on the command line."""
        if self.option.place is Place.FILE:
            return ()
        if self.option.place is Place.ARGUMENT:
            return (self.option.metavar,)
        if self.option.flags:
            return tuple(self.option.flags.split())
        name = self.key.replace("_", "-")
        return (f"--{name}/--no-{name}" if self.kind is Kind.SWITCH else f"--{name}",)


def declared(model: type[BaseModel]) -> Iterator[Declared]:
    """The options of a section, or of a configuration made of sections, in order.

    Raises:
        TypeError: A field is neither an option nor a section.
    """
    for name, info in model.model_fields.items():
        found = info.annotation
        if isinstance(found, type) and issubclass(found, Section):
            for one in declared(found):
                yield replace(one, path=(name, *one.path))
            continue
        options = [item for item in info.metadata if isinstance(item, Option)]
        if len(options) != 1:
            raise TypeError(f"{model.__name__}.{name} needs one Option in its annotation")
        base, takes_none = _base(found)
        choices = typing.get_args(base) if typing.get_origin(base) is Literal else ()
        heading = (model.__doc__ or "").splitlines()[0].rstrip(".")
        default = info.get_default()
        yield Declared(
            (name,),
            heading,
            _kind(base),
            choices,
            takes_none,
            _is_path(found, info.metadata),
            default,
            model.variables if issubclass(model, Section) else "",
            options[0],
        )


def _is_path(annotation: Any, metadata: Sequence[Any]) -> bool:
    """Whether a type, or what it is made of, is checked as a path."""
    if any(getattr(item, "func", None) in (local_path, source, destination) for item in metadata):
        return True
    if typing.get_origin(annotation) is Annotated:
        inner, *about = typing.get_args(annotation)
        return _is_path(inner, about)
    return any(_is_path(part, ()) for part in typing.get_args(annotation))


def _base(annotation: Any) -> tuple[Any, bool]:
    """A type without its annotations, and whether it may be None."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _base(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _base(next(one for one in arguments if one is not type(None)))[0], True
    return annotation, False


def _kind(base: Any) -> Kind:
    origin = typing.get_origin(base)
    if origin is Literal:
        return Kind.CHOICE
    kinds = {
        bool: Kind.SWITCH,
        int: Kind.WHOLE,
        float: Kind.NUMBER,
        str: Kind.TEXT,
        tuple: Kind.TEXTS,
        dict: Kind.TABLE,
    }
    return kinds[origin or base]


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: give a value, or leave it out (is a variable not set?)")
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def local_path(value: str) -> str:
    """A path on this machine, with the home folder for `~`.

    Raises:
        ValueError: It is a URL, or the home folder of a user who does not exist.
    """
    if is_url(value):
        raise ValueError("must be a path on this machine, not a URL; download or mount it")
    if not value.startswith("~") or os.path.lexists(value):
        return value
    name, slash, rest = value.partition("/")
    # An empty HOME would make `~/out` a folder of the root.
    home = os.path.expanduser(name) if os.environ.get("HOME") != "" or name != "~" else ""  # noqa: PTH111 - Path refuses an unknown user with an error of its own
    if not os.path.isdir(home):  # noqa: PTH112 - likewise
        raise ValueError("is in a home folder that does not exist; for a name with ~, write ./~")
    return home.rstrip("/") + slash + rest or "/"


def source(value: str) -> str:
    """A path on this machine, or the URL of an object without its query, which is put aside.

    Raises:
        ValueError: It is neither.
    """
    if not is_url(value):
        return local_path(value)
    try:
        return put_query_aside(value)
    except UsageError as error:
        raise ValueError(error.detail) from None


def _distinct(values: Any) -> Any:
    """Inputs, before their queries are put aside: two must not become one."""
    if isinstance(values, list | tuple):
        url = ambiguous(value for value in values if isinstance(value, str))
        if url is not None:
            raise ValueError(
                f"{url!r} is given with different query strings, without which an input is named: "
                "download these files first"
            )
    return values


def destination(value: str) -> str:
    """A folder on this machine, or the URL of a prefix of a bucket.

    Raises:
        ValueError: It is neither.
    """
    if not is_url(value):
        return local_path(value)
    url = source(value)
    if scheme_of(url) in WEB:
        raise ValueError("results go to s3:// or gs://, not to a web server")
    if "/" not in url.partition("://")[2].rstrip("/"):
        raise ValueError("add a prefix to the bucket, such as s3://BUCKET/RESULTS")
    return url


def output_place(value: str) -> str:
    """The folder of a run on this machine, also of one whose results go into a store.

    Raises:
        ValueError: It is neither a folder nor a prefix of a bucket.
    """
    place = destination(value)
    return state_folder(place) if is_url(place) else place


def _forever(value: float) -> float:
    return min(value, FOREVER)


Text = Annotated[str, AfterValidator(_text)]
LocalPath = Annotated[Text, AfterValidator(local_path)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Destination = Annotated[Text, AfterValidator(destination)]
Sources = Annotated[
    tuple[Annotated[Text, AfterValidator(source)], ...],
    Field(strict=False),
    BeforeValidator(_distinct),
]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0), AfterValidator(_forever)]
SecondsOrZero = Annotated[float, Field(ge=0), AfterValidator(_forever)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _ids(value: Any) -> Any:
    """Ids of GPUs may be written as numbers, and as a list: `0`, `[0, 1]`."""
    items = value if isinstance(value, list | tuple) else [value]
    if items and all(isinstance(item, int | str) and not isinstance(item, bool) for item in items):
        return ",".join(str(item) for item in items)
    return value


Ids = Annotated[Text, BeforeValidator(_ids)]
