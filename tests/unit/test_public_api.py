"""The names that users import."""

from __future__ import annotations

import subprocess
import sys

import virnucpro_exporter


def test_every_public_name_can_be_imported() -> None:
    """Each name of `__all__` is found."""
    for name in virnucpro_exporter.__all__:
        assert getattr(virnucpro_exporter, name) is not None


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
