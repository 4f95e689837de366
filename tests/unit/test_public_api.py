"""The names that users import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import virnucpro_exporter


def test_every_public_name_can_be_imported() -> None:
    """Each name of `__all__` is found."""
    for name in virnucpro_exporter.__all__:
        assert getattr(virnucpro_exporter, name) is not None


def test_public_names_are_listed_before_they_are_used() -> None:
    """`dir()` and completion in a fresh interpreter know every public name."""
    script = "import virnucpro_exporter as v; print(sorted(set(v.__all__) - set(dir(v))))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_type_checkers_see_each_name_where_it_is_loaded_from() -> None:
    """The imports for type checkers and the table of lazy names agree."""
    tree = ast.parse(Path(virnucpro_exporter.__file__).read_text())
    seen = {
        alias.name: (node.module or "").removeprefix("virnucpro_exporter.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == virnucpro_exporter._WHERE
    assert set(seen) == set(virnucpro_exporter.__all__)


def test_a_worker_starts_without_the_parts_of_its_parent() -> None:
    """Importing the worker's module loads neither Rich nor nvitop nor the metrics."""
    script = (
        "import sys, virnucpro_exporter.workers.main\n"
        "print(sorted({'rich', 'nvitop', 'prometheus_client', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
