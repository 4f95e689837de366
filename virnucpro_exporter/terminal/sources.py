"""Where a display takes its values from."""

from __future__ import annotations

from typing import Protocol

from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot


class RunLatest(Protocol):
    """Publishes the run."""

    def latest(self) -> RunSnapshot:
        """The newest snapshot."""


class RunNow(Protocol):
    """A coordinator in a pipeline of the user's own."""

    def snapshot(self) -> RunSnapshot:
        """The run at this moment."""


class GpuLatest(Protocol):
    """Publishes the GPUs."""

    def latest(self) -> GpuSnapshot:
        """The newest snapshot."""
