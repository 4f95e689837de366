"""How fast a GPU is expected to be, before anything was measured.

The table is a starting point: the scheduler learns each worker's real speed from its progress.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Relative to an RTX 3090. A model matches a name that has all of its words, so every variant
# ("NVIDIA GeForce RTX 3080 Ti", "Tesla V100-SXM2-32GB") finds its row.
GPU_WEIGHTS: dict[str, float] = {
    "3090": 1.00,
    "3080": 0.90,
    "4080": 1.35,
    "4090": 1.50,
    "A6000": 1.10,
    "A100": 1.20,
    "H100": 2.50,
    "V100 16GB": 0.75,
    "V100 32GB": 0.80,
    "V100": 0.75,
}

DEFAULT_WEIGHT = 1.0


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Z0-9]+", name.upper()))


def _find(name: str, table: Mapping[str, float]) -> float | None:
    words = _words(name)
    matches = [(len(_words(model)), w) for model, w in table.items() if _words(model) <= words]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def is_known_gpu(name: str, table: Mapping[str, float] = GPU_WEIGHTS) -> bool:
    """Whether the table has the model of this GPU; if not, its weight is only the default."""
    return _find(name, table) is not None


def get_gpu_weight(name: str, table: Mapping[str, float] = GPU_WEIGHTS) -> float:
    """Look up the speed of a GPU model.

    Args:
        name: The model name as the driver gives it, for example `"NVIDIA H100 80GB HBM3"`.
        table: Model to speed relative to an RTX 3090. The model with the most words in common wins.

    Returns:
        The weight; `DEFAULT_WEIGHT` for a model that the table does not have.
    """
    weight = _find(name, table)
    return DEFAULT_WEIGHT if weight is None else weight
