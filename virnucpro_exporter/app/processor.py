"""The settings of the processor that the user chose, as they are sent to workers."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virnucpro_exporter.config import Processor, Scheduling
from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.files.digests import file_digest
from virnucpro_exporter.processors.command import CommandProcessor
from virnucpro_exporter.processors.finding import check_target
from virnucpro_exporter.processors.models import DEFAULT_MODELS, find_model

FACTORY = "virnucpro_exporter.processors:build"

# A resumed run may change these: its results would differ in their rounding at most. What counts of
# the classifier is its content.
_FREE = {"tokens_per_batch", "trust_remote_code", "classifier", "joins", "part_bytes", "main"}

# The values of `--join`, as names of `workers.joining`.
_JOINS = {"concatenate": "concatenate", "header": "header", "none": "number"}
_COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zst")

VIRNUCPRO = "virnucpro"
# VirNucPro calls its classifiers 300_model.pth and 500_model.pth.
_LENGTH = re.compile("300|500")

# Journals do not contain these: earlier versions had no other values.
_DEFAULTS = {"precision": "auto"}
_NONE = object()


def processor_spec(wanted: Processor, scheduling: Scheduling) -> dict[str, Any]:
    """What a worker needs to make its processor, and to do parts of files with it.

    Raises:
        ProcessorError: There is no such processor, or what it needs is missing.
    """
    _refuse_unused(wanted)
    name = wanted.name
    spec: dict[str, Any]
    if ":" in name:
        spec = {"kind": "python", "target": name, "output_suffix": wanted.output_suffix}
        if name.startswith("__main__:"):
            spec["main"] = _script(name)
    elif name in _SPECS:
        spec = {"kind": name, **_SPECS[name](wanted)}
    else:
        known = ", ".join(_SPECS)
        raise ProcessorError(f"unknown processor {name!r}: use {known} or package.module:name")
    if name == "command":
        spec |= _joins(wanted, scheduling)
    if scheduling.part_bytes is not None:
        spec["part_bytes"] = scheduling.part_bytes
    return spec


def check_here(spec: Mapping[str, Any]) -> None:
    """Check that workers of this machine will find the user's code, which is not run.

    Raises:
        ProcessorError: They will not.
    """
    if spec["kind"] == "python":
        check_target(spec["target"])


def _script(name: str) -> str:
    """The script that `__main__` is.

    Raises:
        ProcessorError: It is no file.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        raise ProcessorError(
            f"{name!r}: workers cannot load code from an interactive session; put it into a module"
        )
    return str(Path(script).absolute())


def _refuse_unused(wanted: Processor) -> None:
    """Refuse options that the processor would ignore.

    Raises:
        ProcessorError: There is one.
    """
    name = wanted.name
    if wanted.command and name != "command":
        raise ProcessorError(f"a command after `--` and --processor {name}: use one of them")
    for option in ("classifier", "dnabert_model", "esm2_model", "keep_vectors"):
        if getattr(wanted, option) and name != VIRNUCPRO:
            flag = f"--{option.replace('_', '-')}"
            raise ProcessorError(f"{flag} is for --processor {VIRNUCPRO}, not {name!r}; remove it")
    if wanted.model and name == VIRNUCPRO:
        raise ProcessorError(f"{VIRNUCPRO} has two models: use --dnabert-model and --esm2-model")
    if wanted.model and name not in DEFAULT_MODELS:
        raise ProcessorError(
            f"--model is for --processor {' and '.join(DEFAULT_MODELS)}, not {name!r}; remove it"
        )
    if wanted.join and name != "command":
        raise ProcessorError(
            f"--join is for commands; the processor {name!r} joins results in its own way: remove "
            "--join"
        )


def _joins(wanted: Processor, scheduling: Scheduling) -> dict[str, Any]:
    """How the results of parts are joined of a command; nothing where it gets whole files.

    Raises:
        ProcessorError: They cannot be joined in this way.
    """
    if wanted.join and not scheduling.may_split:
        raise ProcessorError("--join and --split never: use one of them")
    if not (wanted.join or scheduling.split) or not scheduling.may_split:
        return {}
    if not any("{output}" in argument for argument in wanted.command):
        raise ProcessorError(
            "a command without {output} processes whole files only: remove --split and --join"
        )
    if wanted.join == "header" and wanted.output_suffix.endswith(_COMPRESSED):
        raise ProcessorError(
            "--join header cannot find the header of compressed results "
            f"({wanted.output_suffix}): use --join concatenate"
        )
    return {"joins": _JOINS[wanted.join or "concatenate"]}


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


def _virnucpro(wanted: Processor) -> dict[str, Any]:
    if wanted.classifier is None:
        raise ProcessorError(
            f"give VirNucPro's classifier: --classifier {wanted.chunk_size}_model.pth, from "
            "https://github.com/Li-Jing-1997/VirNucPro"
        )
    path = Path(wanted.classifier)
    length = _LENGTH.match(path.name)
    if length and int(length[0]) != wanted.chunk_size:
        raise ProcessorError(
            f"the classifier {wanted.classifier!r} is for chunks of {length[0]} bases, but "
            f"--chunk-size is {wanted.chunk_size}: use {wanted.chunk_size}_model.pth, or "
            f"--chunk-size {length[0]}"
        )
    try:
        with path.open("rb") as file:
            digest = file_digest(file)
    except OSError as error:
        raise ProcessorError(f"the classifier {wanted.classifier!r}: {error.strerror}") from None
    trust = wanted.trust_remote_code
    models = {
        name: str(find_model(name, model, trust_remote_code=trust, flag=f"--{name}-model"))
        for name, model in (("dnabert", wanted.dnabert_model), ("esm2", wanted.esm2_model))
    }
    return {
        "classifier": str(path.absolute()),
        "classifier_sha256": digest,
        "models": models,
        "chunk_size": wanted.chunk_size,
        "tokens_per_batch": wanted.tokens_per_batch,
        "trust_remote_code": trust,
        "precision": wanted.precision,
        "keep_vectors": wanted.keep_vectors,
    }


def _command(wanted: Processor) -> dict[str, Any]:
    if not wanted.command:
        raise ProcessorError("write the command after `--`: -- PROGRAM {input} {output}")
    CommandProcessor(wanted.command, wanted.output_suffix).check()
    return {"argv": list(wanted.command), "output_suffix": wanted.output_suffix}


_SPECS = {
    VIRNUCPRO: _virnucpro,
    "translate": _translate,
    "esm2": _embedding,
    "dnabert": _embedding,
    "command": _command,
}
