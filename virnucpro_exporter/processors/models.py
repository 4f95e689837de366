"""Finds the models of the embedding processors on this machine, before any work begins.

Nothing is downloaded, and neither PyTorch nor transformers is imported: this runs in the parent,
where a missing model has to be one clear line at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module, util
from pathlib import Path
from typing import Any

from virnucpro_exporter.errors import ProcessorError

DEFAULT_MODELS = {"esm2": "facebook/esm2_t36_3B_UR50D", "dnabert": "zhihan1996/DNABERT-S"}
WEIGHTS = ("*.safetensors", "*.bin")


def find_model(
    processor: str, name: str | None, *, trust_remote_code: bool, flag: str = "--model"
) -> Path:
    """The folder of a model that a processor can load.

    Args:
        processor: `esm2` or `dnabert`.
        name: A folder, or a name in the Hugging Face cache; None: the processor's default.
        trust_remote_code: Whether Python code that comes with the model may be run.
        flag: The option that names the model, for error messages.

    Raises:
        ProcessorError: PyTorch or transformers is missing, or the model is, or the processor
            cannot use it.
    """
    missing = [package for package in ("torch", "transformers") if not util.find_spec(package)]
    if missing:
        needed = " and ".join(missing)
        raise ProcessorError(
            f"{processor} needs {needed}: in the checkout, pip install '.[models]'"
        )
    name = name or DEFAULT_MODELS[processor]
    folder = Path(name).absolute() if Path(name).is_dir() else _cached(name, flag)
    fault = _fault(processor, _config(folder), trust_remote_code=trust_remote_code)
    if fault:
        raise ProcessorError(f"the model {name!r} {fault}")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise ProcessorError(f"the model {name!r} has no weights in {str(folder)!r}")
    return folder


def width_of(folder: str) -> int:
    """How many values a vector of a model has.

    Raises:
        ProcessorError: Its configuration does not contain that.
    """
    width = _config(Path(folder)).get("hidden_size")
    if not isinstance(width, int):
        raise ProcessorError(f"the configuration of the model in {folder!r} lacks `hidden_size`")
    return width


def _cached(name: str, flag: str) -> Path:
    hub = import_module("huggingface_hub")  # comes with transformers
    try:
        config = hub.try_to_load_from_cache(name, "config.json")
    except ValueError:  # a path, not a name
        raise ProcessorError(f"the model {name!r} is neither a folder nor a model name") from None
    if not isinstance(config, str):
        raise ProcessorError(
            f"the model {name!r} is not on this machine; get it with `hf download {name}`, "
            f"or give its folder with {flag}"
        )
    return Path(config).parent


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ProcessorError(f"{str(path)!r} cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise ProcessorError(f"{str(path)!r} is not a model configuration")
    return config


def _fault(processor: str, config: Mapping[str, Any], *, trust_remote_code: bool) -> str:
    """Why a processor cannot use a model of this configuration; empty when it can."""
    kind = config.get("model_type")
    if processor == "esm2" and kind != "esm":
        return f"is of type {kind!r}; esm2 needs one of type 'esm'"
    # Without its code, transformers would load other layers and leave their weights random.
    has_code = "AutoModel" in config.get("auto_map", ())
    if processor == "dnabert" and has_code and not trust_remote_code:
        return "contains its own Python code; add --trust-remote-code if you trust it"
    return ""
