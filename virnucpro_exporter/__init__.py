"""Run sequence files across GPUs with work stealing, and show what every GPU really does."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded when first used: a worker process starts without the parts that only its parent needs.
_WHERE = {
    "GPUMonitor": "gpu.monitor",
    "GPU_WEIGHTS": "scheduling.weights",
    "LoadBalancingDashboard": "terminal.dashboard",
    "MetricsServer": "web.server",
    "SequenceFile": "scheduling.files",
    "WorkStealingCoordinator": "execution.coordinator",
    "assign_files_weighted": "scheduling.assignment",
    "get_gpu_utilization": "gpu.monitor",
    "get_gpu_weight": "scheduling.weights",
    "run_files": "app.run",
}

__all__ = [
    "GPU_WEIGHTS",
    "GPUMonitor",
    "LoadBalancingDashboard",
    "MetricsServer",
    "SequenceFile",
    "WorkStealingCoordinator",
    "assign_files_weighted",
    "get_gpu_utilization",
    "get_gpu_weight",
    "run_files",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
