"""VirNucPro's classifier: read from its file without running what is in there, and applied.

The file is a pickled module of a class `MLPClassifier`. A pickle can name any function of Python
and have it called, so PyTorch reads this one with an allow-list: the few classes that such a module
consists of, each of which stands for an empty class of ours. What arrives is a tree of names and
tensors; the layers are made anew from the tensors.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from virnucpro_exporter.errors import ProcessorError

CLASSES = 2  # others, and virus
MODULE = "MLPClassifier"
# Where the class was when it was pickled: in a script, or in a module of VirNucPro or of a fork.
ORIGINS = ("__main__", "prediction", "train", "units", "virnucpro.pipeline.models")


class _Pickled:
    """A module of the file: its attributes, and nothing that could be called."""

    def part(self, kind: str, name: str) -> Any:
        """A module, parameter or buffer of this one, by its name, or None."""
        found = self.__dict__.get(f"_{kind}s")
        return found.get(name) if isinstance(found, Mapping) else None


class _Layer(_Pickled):
    """A layer of the file."""


class _Root(_Pickled):
    """The whole of the file."""


_LAYERS = (
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.dropout.Dropout",
)


def _stand_in(base: type[_Pickled], path: str) -> type[_Pickled]:
    """A class of ours which PyTorch takes for the one of a path."""
    module, _, name = path.rpartition(".")
    return type(name, (base,), {"__module__": module})


_ALLOWED = [
    *(_stand_in(_Root, f"{origin}.{MODULE}") for origin in ORIGINS),
    *(_stand_in(_Layer, path) for path in _LAYERS),
    set,
]


class Classifier:
    """Scores how similar vectors are to those of viruses.

    Args:
        tensors: Weights and statistics by `layer.name`, as a module's state has them.
        eps: What batch normalisation adds to the variance.

    Attributes:
        width: Values of a vector that it takes.
    """

    def __init__(self, tensors: Mapping[str, Any], eps: float) -> None:
        self._hidden = tensors["hidden_layer.weight"], tensors["hidden_layer.bias"]
        self._norm = [
            tensors[f"bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        ]
        self._output = tensors["output_layer.weight"], tensors["output_layer.bias"]
        self._eps = eps
        self.width: int = self._hidden[0].shape[1]

    def to(self, device: Any) -> Classifier:
        """Move it to a device, and return it."""
        self._hidden = tuple(tensor.to(device) for tensor in self._hidden)
        self._norm = [tensor.to(device) for tensor in self._norm]
        self._output = tuple(tensor.to(device) for tensor in self._output)
        return self

    def scores(self, vectors: Any) -> Any:
        """The two scores of each vector, which add up to 1: of others, and of viruses.

        Args:
            vectors: float32, one row for each; the nucleotides' values come first.
        """
        with torch.inference_mode():
            hidden = torch.nn.functional.linear(vectors, *self._hidden)
            hidden = torch.nn.functional.batch_norm(hidden, *self._norm, eps=self._eps).relu_()
            return torch.nn.functional.linear(hidden, *self._output).softmax(dim=1)


def load_classifier(path: str, sha256: str | None = None) -> Classifier:
    """Read a classifier; nothing of the file is run.

    Args:
        path: The file.
        sha256: What it is to contain, where that is known.

    Raises:
        ProcessorError: It cannot be read, holds anything else than VirNucPro's classifier, or has
            changed.
    """
    try:
        content = Path(path).read_bytes()
        with torch.serialization.safe_globals(_ALLOWED):
            root = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ProcessorError(f"the classifier {path!r}: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001 - a file of unknown origin may make PyTorch fail in any way
        raise ProcessorError(f"{_refusal(path)} ({_reason(error)})") from None
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise ProcessorError(f"the classifier {path!r} has changed since the run began")
    if not isinstance(root, _Root):
        kind = "a single layer" if isinstance(root, _Layer) else f"of type {type(root).__name__!r}"
        raise ProcessorError(f"{_refusal(path)} (it is {kind})")
    tensors, eps = _contents(root, path)
    return Classifier(tensors, eps)


def _refusal(path: str) -> str:
    return f"{path!r} is not a VirNucPro classifier and was not loaded"


def _reason(error: Exception) -> str:
    """What PyTorch found, without its advice to trust the file; one line."""
    text = " ".join(str(error).split())
    if "GLOBAL " in text:  # "Unsupported global: GLOBAL os.system was not an allowed global ..."
        return f"it refers to {text.partition('GLOBAL ')[2].split(' ')[0]}"
    for mark in ("WeightsUnpickler error:", "Unpickler error:"):
        text = text.partition(mark)[2].strip() or text
    return text[:200] or type(error).__name__


def _contents(root: _Root, path: str) -> tuple[dict[str, Any], float]:
    """The tensors of the three layers, of shapes that fit each other."""
    tensors: OrderedDict[str, Any] = OrderedDict()
    for layer, kinds in _TENSORS.items():
        module = root.part("module", layer)
        for name, kind in kinds.items():
            found = module.part(kind, name) if isinstance(module, _Layer) else None
            if not isinstance(found, torch.Tensor) or not found.is_floating_point():
                raise ProcessorError(f"{_refusal(path)} (it lacks {layer}.{name})")
            tensors[f"{layer}.{name}"] = found.detach().float()
    eps = root.part("module", "bn1").__dict__.get("eps")
    shape = tensors["hidden_layer.weight"].shape
    hidden, width = (*shape, 0, 0)[:2]
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(tensors, (hidden,))
    wanted["hidden_layer.weight"] = (hidden, width)
    wanted["output_layer.weight"] = (CLASSES, hidden)
    wanted["output_layer.bias"] = (CLASSES,)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise ProcessorError(f"{_refusal(path)} ({name} has the shape {list(tensor.shape)})")
        if not torch.isfinite(tensor).all():
            raise ProcessorError(f"{_refusal(path)} ({name} has values that are not finite)")
    if not isinstance(eps, float):
        raise ProcessorError(f"{_refusal(path)} (it lacks bn1.eps)")
    return dict(tensors), eps


_TENSORS: Mapping[str, Mapping[str, str]] = {
    "hidden_layer": {"weight": "parameter", "bias": "parameter"},
    "bn1": {
        "running_mean": "buffer",
        "running_var": "buffer",
        "weight": "parameter",
        "bias": "parameter",
    },
    "output_layer": {"weight": "parameter", "bias": "parameter"},
}
