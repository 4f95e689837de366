"""What one metrics endpoint serves: the runs of a machine, and its GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virnucpro_exporter.snapshot.gpu import GpuSnapshot
from virnucpro_exporter.snapshot.run import RunSnapshot


@dataclass(frozen=True, slots=True)
class Machine:
    """One endpoint at one moment.

    Attributes:
        runs: By name; a run that serves by itself has the name "".
        gpus: All its GPUs.
    """

    runs: Mapping[str, RunSnapshot] = field(default_factory=dict)
    gpus: GpuSnapshot = field(default_factory=lambda: GpuSnapshot(0.0))
