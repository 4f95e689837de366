"""Processors: translate, esm2, dnabert, virnucpro, commands, Python classes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.base import Processor

# By name, so that a worker loads only what it runs.
KINDS = {
    "translate": "translate:TranslateProcessor",
    "esm2": "esm2:Esm2Processor",
    "dnabert": "dnabert:DnabertProcessor",
    "virnucpro": "virnucpro:VirnucproProcessor",
    "command": "command:CommandProcessor",
    "python": "python:PythonProcessor",
}


def build(spec: Mapping[str, Any]) -> Processor:
    """Make a processor in a worker's process.

    Args:
        spec: `kind`, one of `KINDS`, and the options of that kind; `part_bytes` may be among them,
            which is for the worker.

    Raises:
        ProcessorError: It cannot be made.
    """
    options = dict(spec)
    kind = options.pop("kind")
    options.pop("part_bytes", None)
    if kind not in KINDS:
        raise ProcessorError(f"unknown processor kind {kind!r}")
    module, _, name = KINDS[kind].partition(":")
    made: Processor = getattr(importlib.import_module(f"{__name__}.{module}"), name)(**options)
    return made
