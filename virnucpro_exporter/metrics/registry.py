"""One private registry of everything that is served, so that nothing else slips in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from virnucpro_exporter.metrics.collectors import (
    BuildCollector,
    GpuCollector,
    HealthCollector,
    Published,
    RunCollector,
    RunsCollector,
)
from virnucpro_exporter.metrics.health import GpuHealth, RunHealth, RunsHealth
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, RunSnapshot

HealthSources = Mapping[str, Published[CollectorHealth]]


def build_registry(
    coordinator: Published[RunSnapshot] | None = None,
    gpu_monitor: Published[GpuSnapshot] | None = None,
    health: HealthSources | None = None,
    *,
    process: bool = True,
    runs: Published[Sequence[RunSnapshot]] | None = None,
    linger: float | None = None,
) -> CollectorRegistry:
    """A registry of the run, the GPUs, the health of the sources, and this process.

    Args:
        coordinator: Whose `latest()` is a `RunSnapshot`, or None.
        gpu_monitor: Whose `latest()` is a `GpuSnapshot`, or None.
        health: Further sources of `CollectorHealth` by collector name (`"log"`); one given for
            `"run"` or `"gpu"` replaces the health in the snapshots.
        process: With `process_*` and `python_info`. Without them for node_exporter's textfile
            collector, which refuses names it has itself.
        runs: Further runs, each with its name as the label `run`; in place of a coordinator.
        linger: Seconds for which the endpoint stays after the end of the run, at most.
    """
    registry = CollectorRegistry()
    sources: dict[str, Published[CollectorHealth]] = {}
    of_runs: RunsHealth | None = None
    registry.register(BuildCollector())
    if coordinator is not None:
        registry.register(RunCollector(coordinator))
        sources["run"] = RunHealth(coordinator)
    if runs is not None:
        registry.register(RunsCollector(runs))
        of_runs = RunsHealth(runs)
    if gpu_monitor is not None:
        registry.register(GpuCollector(gpu_monitor))
        sources["gpu"] = GpuHealth(gpu_monitor)
    registry.register(HealthCollector({**sources, **(health or {})}, of_runs, linger))
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
    return registry
