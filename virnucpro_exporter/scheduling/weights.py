"""Expected speeds of GPU models, before anything is measured.

The table is a starting point: the scheduler learns each worker's real speed from its progress.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

# The specified speeds, relative to an RTX 3090.
_KNOWN: dict[str, float] = {
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

# NVIDIA's figures, from its data sheets and architecture papers: dense FP16 tensor throughput with
# FP32 accumulation (TFLOPS), and memory bandwidth (GB/s).
_FIGURES: dict[str, tuple[float, float]] = {
    "V100": (125, 900),
    "T4": (65, 320),
    "A6000": (154.8, 768),
    "A10": (125, 600),
    "A10G": (70, 600),
    "A100": (312, 1555),
    "A30": (165, 933),
    "4090": (165.2, 1008),
    "L4": (121, 300),
    "L40": (181, 864),
    "L40S": (362, 864),
    "RTX 6000 Ada": (364, 960),
    "5060": (38.4, 448),
    "5060 Ti": (47.4, 448),
    "5070": (61.7, 672),
    "5070 Ti": (87.9, 896),
    "5080": (112.6, 960),
    "5090": (209.5, 1792),
    "H100": (989, 3350),
    "H200": (989, 4800),
    "GH200": (990, 4000),
    "B200": (2250, 8000),
    "GB200": (2500, 8000),
}
# The known model from which others are derived: of the same architecture, or of the previous one.
_RELATIVES: dict[str, tuple[str, ...]] = {
    "V100": ("T4",),
    "A6000": ("A10", "A10G"),
    "A100": ("A30",),
    "4090": (
        *("L4", "L40", "L40S", "RTX 6000 Ada"),
        *("5060", "5060 Ti", "5070", "5070 Ti", "5080", "5090"),
    ),
    "H100": ("H200", "GH200", "B200", "GB200"),
}


def _derived(model: str, relative: str) -> float:
    """The weight of a relative times the fourth root of both ratios, rounded to 0.05.

    The fourth root fits the known weights: relative to an RTX 3090 (71 TFLOPS, 936 GB/s) it gives
    2.7 for an H100, 1.2 for an A6000 and 0.9 for an RTX 3080.
    """
    (throughput, bandwidth), (base, base_bandwidth) = _FIGURES[model], _FIGURES[relative]
    ratio = throughput / base * bandwidth / base_bandwidth
    return round(20 * _KNOWN[relative] * math.sqrt(math.sqrt(ratio))) / 20


# A model matches a name that contains all of its words, so every variant ("NVIDIA GeForce RTX 3080
# Ti", "Tesla V100-SXM2-32GB") matches its row, and an L40S does not match the L4.
GPU_WEIGHTS: dict[str, float] = _KNOWN | {
    model: _derived(model, relative) for relative, models in _RELATIVES.items() for model in models
}

DEFAULT_WEIGHT = 1.0


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Z0-9]+", name.upper()))


def _find(name: str, table: Mapping[str, float]) -> float | None:
    words = _words(name)
    matches = [(len(_words(model)), w) for model, w in table.items() if _words(model) <= words]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def is_known_gpu(name: str, table: Mapping[str, float] = GPU_WEIGHTS) -> bool:
    """Whether the table contains this GPU's model; otherwise its weight is only the default."""
    return _find(name, table) is not None


def get_gpu_weight(name: str, table: Mapping[str, float] = GPU_WEIGHTS) -> float:
    """Look up the speed of a GPU model.

    Args:
        name: The model name as the driver reports it, for example `"NVIDIA H100 80GB HBM3"`.
        table: Model to speed relative to an RTX 3090. The matching model with the most words wins.

    Returns:
        The weight; `DEFAULT_WEIGHT` for a model that is not in the table.
    """
    weight = _find(name, table)
    return DEFAULT_WEIGHT if weight is None else weight
