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


class SourceSilentError(Exception):
    """A source has no present values; those it had must not be shown as if they were.

    Args:
        what: The source, for example its address.
        since: Unix seconds of its last answer, or None if there never was one.
        reason: Why, in one line.
    """

    def __init__(self, what: str, since: float | None, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what, self.since, self.reason = what, since, reason
