"""Immutable values: a run and its GPUs at one moment.

The scheduler and the GPU monitor publish these; the metrics, the terminal and the log read them.
Nothing here depends on where a value came from. An unknown value is None, never 0.

Two kinds of time appear. `*_timestamp` and `*_time` are Unix seconds on the wall clock, for people
and for Prometheus. Durations are measured on the monotonic clock of the process
that took the snapshot.

Import the names from here, whatever module defines them.
"""

from virnucpro_exporter.snapshot.gpu import (
    ECC_KINDS,
    RECOVERY_ACTIONS,
    THROTTLE_BITS,
    THROTTLE_POLICIES,
    THROTTLE_REASONS,
    CollectorHealth,
    GpuDevice,
    GpuModes,
    GpuProcess,
    GpuSample,
    GpuSnapshot,
    XidErrors,
)
from virnucpro_exporter.snapshot.latest import Latest, SourceSilentError
from virnucpro_exporter.snapshot.machine import Machine
from virnucpro_exporter.snapshot.node import Node
from virnucpro_exporter.snapshot.run import (
    DURATION_BUCKETS,
    PAIRED_WORKERS,
    WHOLE,
    DurationHistogram,
    RunEnd,
    RunResult,
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
    is_imbalanced,
)

__all__ = [
    "DURATION_BUCKETS",
    "ECC_KINDS",
    "PAIRED_WORKERS",
    "RECOVERY_ACTIONS",
    "THROTTLE_BITS",
    "THROTTLE_POLICIES",
    "THROTTLE_REASONS",
    "WHOLE",
    "CollectorHealth",
    "DurationHistogram",
    "GpuDevice",
    "GpuModes",
    "GpuProcess",
    "GpuSample",
    "GpuSnapshot",
    "Latest",
    "Machine",
    "Node",
    "RunEnd",
    "RunResult",
    "RunSnapshot",
    "RunState",
    "SourceSilentError",
    "StealEvent",
    "WorkerSnapshot",
    "WorkerState",
    "XidErrors",
    "is_imbalanced",
]
