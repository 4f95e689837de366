"""What is done to a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.base import Processor


def build(spec: Mapping[str, Any]) -> Processor:
    """Make a processor in a worker's process.

    Args:
        spec: `kind` (`translate`, `command` or `python`) and the options of that kind.

    Raises:
        ProcessorError: It cannot be made.
    """
    options = dict(spec)
    kind = options.pop("kind")
    # Imported when wanted: a worker need not load what it does not run.
    if kind == "translate":
        from virnucpro_exporter.processors.translate import TranslateProcessor  # noqa: PLC0415

        return TranslateProcessor(**options)
    if kind == "command":
        from virnucpro_exporter.processors.command import CommandProcessor  # noqa: PLC0415

        return CommandProcessor(**options)
    if kind == "python":
        from virnucpro_exporter.processors.python import PythonProcessor  # noqa: PLC0415

        return PythonProcessor(**options)
    raise ProcessorError(f"there is no kind of processor called {kind!r}")
