"""Run sequence files across GPUs with work stealing, and show what every GPU really does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of the names below
    from virnucpro_exporter.app.run import run_files
    from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
    from virnucpro_exporter.gpu.monitor import GPUMonitor, get_gpu_utilization
    from virnucpro_exporter.scheduling.assignment import assign_files_weighted
    from virnucpro_exporter.scheduling.files import SequenceFile
    from virnucpro_exporter.scheduling.weights import GPU_WEIGHTS, get_gpu_weight
    from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard
    from virnucpro_exporter.web.server import MetricsServer

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


def __dir__() -> list[str]:
    """The public names, also those that were not used yet."""
    return sorted({*globals(), *__all__})
