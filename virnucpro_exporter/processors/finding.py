"""Whether a user's class or function is there, without running any of its code."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.text import did_you_mean


def check_target(target: str) -> None:
    """Check that a module has the name that workers will load from it.

    Args:
        target: `package.module:name`.

    Raises:
        ProcessorError: There is no such module or name, or the module is no Python.
    """
    module, separator, name = target.partition(":")
    if not (module and separator and name):
        raise ProcessorError(f"{target!r} must have the form package.module:name")
    if module == "__main__":
        return
    try:
        spec = _spec(module)
    except (ImportError, ValueError) as error:
        raise ProcessorError(f"{target!r}: {error}") from error
    if spec is None:
        raise ProcessorError(f"{target!r}: no module {module!r} in this folder or on sys.path")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return  # its names are known only once it is loaded
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise ProcessorError(f"{target!r}: {spec.origin}: {error}") from error
    names = set(_names(tree))
    first = name.partition(".")[0]
    if first not in names and not names & {"*", "__getattr__"}:
        meant = did_you_mean(first, names)
        raise ProcessorError(f"{target!r}: {spec.origin} has no {first!r}{meant}")


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is; packages on the way are not loaded."""
    if module in sys.modules:
        return sys.modules[module].__spec__
    found: importlib.machinery.ModuleSpec | None = None
    path = None
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        name = ".".join(parts[:number])
        if number > 1 and path is None:
            return None
        known = sys.modules.get(name)
        found = known.__spec__ if known is not None else None
        for finder in () if found else sys.meta_path:
            found = finder.find_spec(name, path)
            if found is not None:
                break
        if found is None and path is None:  # workers look into the current folder, too
            here = [os.getcwd()]  # noqa: PTH109 - a plain text is wanted
            found = importlib.machinery.PathFinder.find_spec(name, here)
        if found is None:
            return None
        path = found.submodule_search_locations
    return found


def _names(tree: ast.Module) -> Iterator[str]:
    """What a module binds, also below `if` and `try`; `*` where it imports all of another."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0]
