"""The processor that the user chose, as a worker is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virnucpro_exporter.config import RunConfig
from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.command import CommandProcessor

FACTORY = "virnucpro_exporter.processors:build"


def processor_spec(config: RunConfig) -> dict[str, Any]:
    """What a worker needs to make its processor.

    Raises:
        ProcessorError: There is no such processor.
    """
    name = config.processor
    if config.command and name != "command":
        raise ProcessorError(f"a command was given, but the processor is {name!r}; leave one out")
    if name == "translate":
        return {"kind": "translate", "chunk_size": config.chunk_size}
    if name == "command":
        if not config.command:
            raise ProcessorError("write the command after `--`: -- PROGRAM {input} {output}")
        CommandProcessor(config.command, config.output_suffix).check()
        argv = list(config.command)
        return {"kind": "command", "argv": argv, "output_suffix": config.output_suffix}
    if ":" in name:
        return {"kind": "python", "target": name, "output_suffix": config.output_suffix}
    raise ProcessorError(f"{name!r} is none: use translate, command or package.module:name")


def describe(spec: Mapping[str, Any]) -> str:
    """A processor with all that its results depend on, in one line."""
    options = {name: value for name, value in spec.items() if name != "kind"}
    shown = ", ".join(f"{name} {value!r}" for name, value in options.items())
    return f"{spec['kind']} ({shown})"
