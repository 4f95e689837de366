"""Which module may import what: read from the source text, so that no allowed list has a gap.

The order of the rooms is in pyproject.toml. Here is what a contract of layers cannot say: that a
room imports nothing but what is listed, and that a foreign package has one place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "virnucpro_exporter"
ROOT = Path(__file__).parents[1] / PACKAGE

# The modules, rooms or parts of one, that may import a foreign package.
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "backports": ("sequences",),
    "bcrypt": ("web.auth",),
    "click": ("__main__", "cli"),
    "compression": ("sequences",),  # of the standard library, from Python 3.14 on
    "dask": ("cluster",),
    "distributed": ("cluster",),
    "fsspec": ("stores.access",),
    "huggingface_hub": ("processors.models",),
    "isal": ("sequences", "web.live", "web.pages"),
    "markupsafe": ("web.live",),
    "numpy": ("processors.vectors",),
    "nvitop": ("gpu.nvml",),
    "prometheus_client": ("metrics", "remote", "web"),
    "psutil": ("gpu.processes",),
    "pydantic": ("config", "registry.record", "web.web_config"),
    "pynvml": ("gpu.nvml",),
    "rich": ("terminal",),
    "safetensors": ("processors.weights",),
    "torch": (
        "processors.classifier",
        "processors.packed",
        "processors.transformer",
        "processors.vectors",
        "processors.weights",
    ),
    "transformers": ("processors.transformer",),
    "typing_extensions": ("app.run", "scheduling.message"),
    "yaml": ("config", "web.web_config"),
    # Of the standard library, what has one trade's shape.
    "sqlite3": ("journal",),
}

# What the functional core may import. Each of these computes; none of them reads a clock, a file or
# the environment, starts anything or writes anything.
_COMPUTING = frozenset(
    {
        *("__future__", "abc", "array", "bisect", "collections", "collections.abc", "dataclasses"),
        *("enum", "fractions", "functools", "heapq", "itertools", "math", "operator", "posixpath"),
        *("re", "statistics", "typing"),
    }
)
PURE: Mapping[str, frozenset[str]] = {
    "scheduling": _COMPUTING | {"errors", "snapshot", "scheduling"},
    "scheduling.message": _COMPUTING | {"typing_extensions"},  # for type checkers alone
    "scheduling.diagram": _COMPUTING | {"scheduling", "sys"},  # it writes docs/states.svg
    "snapshot": _COMPUTING | {"snapshot"},
    "history": _COMPUTING | {"snapshot"},
    "overview": _COMPUTING | {"overview", "snapshot", "text"},
    "registry.kept": _COMPUTING | {"registry.record", "snapshot"},
    "gpu.state": _COMPUTING | {"gpu.sources", "snapshot"},
    "gpu.roster": _COMPUTING | {"gpu.sources"},
    "gpu.sources": _COMPUTING | {"snapshot"},
}
# Calls that need no import, and reach out all the same.
_REACHING = {"open", "print", "input", "exec", "eval", "compile", "breakpoint", "__import__"}

# The rooms of ours that a room may import, where the layers allow more.
OURS: Mapping[str, tuple[str, ...]] = {
    "cli": ("app", "cli", "config", "errors", "streams", "text", "version"),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One import of one module.

    Attributes:
        name: What is imported; of this package, without its name in front.
        is_ours: It is a module of this package.
        line: Where.
    """

    name: str
    is_ours: bool
    line: int


def violations(module: str, source: str) -> list[str]:
    """What a module's text breaks, a line for each.

    Args:
        module: Its name, without that of the package.
        source: Its text.
    """
    tree = ast.parse(source)
    found: list[str] = []
    for item in imports(tree):
        if not item.is_ours:
            found += _foreign(module, item)
        elif (allowed := OURS.get(module.partition(".")[0])) and not _is_in(item.name, allowed):
            found.append(f"{module}:{item.line} imports {item.name}")
    found += _impure(module, tree)
    return found


def _foreign(module: str, item: Import) -> Iterator[str]:
    top = item.name.partition(".")[0]
    if top in sys.stdlib_module_names and top not in FOREIGN:
        return
    if not _is_in(module, FOREIGN.get(top, ())):
        yield f"{module}:{item.line} imports {item.name}"


def _impure(module: str, tree: ast.AST) -> Iterator[str]:
    rooms = [room for room in PURE if _is_in(module, (room,))]
    if not rooms:
        return
    allowed = PURE[max(rooms, key=len)]
    for item in imports(tree):
        ours = item.is_ours and _is_in(item.name, tuple(allowed - _COMPUTING))
        if not ours and (item.is_ours or item.name not in allowed):
            yield f"{module}:{item.line} is pure and imports {item.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _REACHING:
            yield f"{module}:{node.lineno} is pure and calls {ast.unparse(node.func)}"


def _is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def imports(tree: ast.AST) -> Iterator[Import]:
    """Everything that is imported, wherever in the text it stands.

    `from collections import abc` counts as collections, and `from virnucpro_exporter import app`
    as app.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _origins(node)
        elif isinstance(node, ast.Call) and _is_import_module(node):
            names = [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        else:
            continue
        for name in names:
            is_ours = name == PACKAGE or name.startswith(PACKAGE + ".")
            short = name.removeprefix(PACKAGE).removeprefix(".") if is_ours else name
            yield Import(short or "version", is_ours, node.lineno)


def _origins(node: ast.ImportFrom) -> list[str]:
    assert node.level == 0, "the imports of this package are absolute"
    origin = node.module or ""
    if origin != PACKAGE:
        return [origin]
    # Only the version is defined in the package itself.
    return [
        PACKAGE if alias.name == "__version__" else f"{PACKAGE}.{alias.name}"
        for alias in node.names
    ]


def _is_import_module(node: ast.Call) -> bool:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name == "import_module"


def sources() -> Iterator[tuple[str, str]]:
    """Every module of the package: its name and its text."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name or "virnucpro_exporter", path.read_text(encoding="utf-8")
