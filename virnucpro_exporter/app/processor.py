"""The processor that the user chose, as a worker is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virnucpro_exporter.config import Processor
from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.command import CommandProcessor
from virnucpro_exporter.processors.models import DEFAULT_MODELS, find_model

FACTORY = "virnucpro_exporter.processors:build"

# A resumed run may change these: its results would differ in their rounding at most.
_FREE = {"tokens_per_batch", "trust_remote_code"}

# Journals say nothing of these: an earlier version knew no other values.
_DEFAULTS = {"precision": "auto"}
_NONE = object()


def processor_spec(wanted: Processor) -> dict[str, Any]:
    """What a worker needs to make its processor.

    Raises:
        ProcessorError: There is no such processor, or what it needs is missing.
    """
    name = wanted.name
    if wanted.command and name != "command":
        raise ProcessorError(f"a command was given, but the processor is {name!r}; leave one out")
    if wanted.model and name not in DEFAULT_MODELS:
        raise ProcessorError(f"a model was given, but the processor is {name!r}, which takes none")
    if ":" in name:
        return {"kind": "python", "target": name, "output_suffix": wanted.output_suffix}
    if name not in _SPECS:
        known = ", ".join(_SPECS)
        raise ProcessorError(f"{name!r} is none: use {known} or package.module:name")
    return {"kind": name, **_SPECS[name](wanted)}


def describe(spec: Mapping[str, Any]) -> str:
    """A processor with all that its results depend on, in one line."""
    options = [
        name
        for name, value in spec.items()
        if name != "kind" and name not in _FREE and _DEFAULTS.get(name, _NONE) != value
    ]
    shown = ", ".join(f"{name} {spec[name]!r}" for name in options)
    return f"{spec['kind']} ({shown})"


def _translate(wanted: Processor) -> dict[str, Any]:
    return {"chunk_size": wanted.chunk_size}


def _embedding(wanted: Processor) -> dict[str, Any]:
    trust = wanted.trust_remote_code
    folder = find_model(wanted.name, wanted.model, trust_remote_code=trust)
    return {
        "model": str(folder),
        "tokens_per_batch": wanted.tokens_per_batch,
        "trust_remote_code": trust,
        "precision": wanted.precision,
    }


def _command(wanted: Processor) -> dict[str, Any]:
    if not wanted.command:
        raise ProcessorError("write the command after `--`: -- PROGRAM {input} {output}")
    CommandProcessor(wanted.command, wanted.output_suffix).check()
    return {"argv": list(wanted.command), "output_suffix": wanted.output_suffix}


_SPECS = {
    "translate": _translate,
    "esm2": _embedding,
    "dnabert": _embedding,
    "command": _command,
}
