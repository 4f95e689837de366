"""The tensors of a model's files, read one at a time: no file is in memory as a whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch

from virnucpro_exporter.errors import ProcessorError

# What a model with a head for a task puts before the names of the tensors below it.
PREFIXES = ("", "esm.")


def open_weights(folder: str, device: Any) -> Callable[[str], Any]:
    """What gives the tensors of a model by their names.

    Those in safetensors go straight to the device; those in PyTorch's format stay in their file,
    which is mapped, until they are used.

    Args:
        folder: Holds the model.
        device: Where tensors go.

    Raises:
        ProcessorError: A file cannot be read; and from what it returns: there is no such tensor.
    """
    sources: dict[str, Callable[[], Any]] = {}
    files = sorted(Path(folder).glob("model*.safetensors"))
    try:
        for path in files or sorted(Path(folder).glob("pytorch_model*.bin")):
            sources.update((_read_safetensors if files else _read_pickled)(path, device))
    except (OSError, RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ProcessorError(f"the weights in {folder!r} cannot be read ({reason})") from None

    def tensor(name: str) -> Any:
        for prefix in PREFIXES:
            if prefix + name in sources:
                return sources[prefix + name]()
        raise ProcessorError(f"the model in {folder!r} lacks weights, such as {name!r}")

    return tensor


def _read_safetensors(path: Path, device: Any) -> dict[str, Callable[[], Any]]:
    file = safetensors.safe_open(path, framework="pt", device=str(device))
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def _read_pickled(path: Path, _: Any) -> dict[str, Callable[[], Any]]:
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    return {name: partial(tensors.__getitem__, name) for name in tensors}


def _is_archive(path: Path) -> bool:
    """Whether PyTorch 1.6 or a later one wrote a file; earlier ones' cannot be mapped."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"
