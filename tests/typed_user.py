"""A script of a user, whose types `make lint` checks; nothing here is ever run.

Each public name is typed without `Any`, and mistakes in options are seen.
"""

from __future__ import annotations

from pathlib import Path

from typing_extensions import assert_type  # in `typing` from Python 3.11 on

from virnucpro_exporter import (
    GPU_WEIGHTS,
    GPUMonitor,
    LoadBalancingDashboard,
    MetricsServer,
    SequenceFile,
    WorkStealingCoordinator,
    assign_files_weighted,
    get_gpu_utilization,
    get_gpu_weight,
    run_files,
)
from virnucpro_exporter.execution.coordinator import GpuMetrics
from virnucpro_exporter.snapshot import RunSnapshot, StealEvent


class Embed:
    """A processor of the user's own."""

    def process(self, file: Path) -> int:
        """How many sequences there are."""
        return len(file.name)


def whole_run() -> None:
    """Processes, options and what comes of it."""
    run = run_files(Path("READS"), "OUT", Embed, gpus=[0, 1], max_attempts=2, on_stall="retry")
    assert_type(run, RunSnapshot)
    assert_type(run.files_completed, int)
    assert_type(run.failures, tuple[tuple[str, str], ...])
    run_files("READS", "OUT", max_atempts=2)  # type: ignore[call-arg]
    run_files("READS", "OUT", max_attempts="2")  # type: ignore[arg-type]
    run_files("READS", "OUT", on_stall="retri")  # type: ignore[arg-type]


def own_threads(coordinator: WorkStealingCoordinator) -> None:
    """The coordinator alone."""
    for file in coordinator.worker("0"):
        assert_type(file, SequenceFile)
    assert_type(coordinator.next_file("0"), SequenceFile | None)
    assert_type(coordinator.get_gpu_metrics(), dict[str, GpuMetrics])
    assert_type(coordinator.get_recent_steal_events(), list[StealEvent])
    assert_type(coordinator.detect_stalled_workers(), list[str])
    assert_type(coordinator.detect_load_imbalance(), bool)
    assert_type(coordinator.snapshot(), RunSnapshot)
    coordinator.record_progress("0", "many")  # type: ignore[arg-type]


def views(coordinator: WorkStealingCoordinator) -> None:
    """GPUs, metrics and the table."""
    with GPUMonitor() as gpus, MetricsServer(coordinator, gpus) as server:
        assert_type(server.urls, tuple[str, ...])
        assert_type(gpus.get_gpu_utilization(0), dict[str, float | None])
        assert_type(get_gpu_utilization("0:1"), dict[str, float | None])
        LoadBalancingDashboard(coordinator, gpus, update_interval=1.0).start()
        LoadBalancingDashboard(gpus, coordinator)  # type: ignore[arg-type]


def weights(files: list[SequenceFile]) -> None:
    """How files are shared out at first."""
    assert_type(GPU_WEIGHTS, dict[str, float])
    assert_type(get_gpu_weight("NVIDIA A100-SXM4-80GB"), float)
    assert_type(assign_files_weighted(files, {"0": 1.0}), dict[str, list[SequenceFile]])
