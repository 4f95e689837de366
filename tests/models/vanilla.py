"""VirNucPro's last steps written out plainly, and a classifier pickled as its training does."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn


class MLPClassifier(nn.Module):  # type: ignore[misc]  # PyTorch is not installed where types are checked
    """The layers of VirNucPro's classifier, by its names for them."""

    def __init__(self, width: int, hidden: int, classes: int = 2) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, vectors: Any) -> Any:
        hidden = torch.relu(self.bn1(self.hidden_layer(vectors)))
        return self.output_layer(self.dropout(hidden))


def make_classifier(width: int, hidden: int = 16) -> Any:
    """One with random weights and statistics."""
    torch.manual_seed(4)
    made = MLPClassifier(width, hidden)
    made.bn1.running_mean = torch.randn(hidden)
    made.bn1.running_var = torch.rand(hidden) + 0.5
    with torch.no_grad():
        made.output_layer.weight.mul_(4)
    return made.eval()


def save_classifier(path: Path, made: Any, origin: str = "__main__") -> Path:
    """Pickle a module whole, as if its class were defined in a module of another name."""
    module = sys.modules.get(origin) or types.ModuleType(origin)
    there, before = origin in sys.modules, MLPClassifier.__module__
    sys.modules[origin] = module
    module.MLPClassifier = MLPClassifier  # type: ignore[attr-defined]  # so that pickle finds it
    MLPClassifier.__module__ = origin
    try:
        torch.save(made, path)
    finally:
        MLPClassifier.__module__ = before
        del module.MLPClassifier
        if not there:
            del sys.modules[origin]
    return path
