"""Whether what is served can be believed: the health of the sources, and readiness."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, RunSnapshot, RunState

STALE_AFTER = 60.0  # seconds, as in the alert on stale collectors
_ENDED = (RunState.COMPLETED, RunState.FAILED)


class RunHealth:
    """The health of a run, judged by the heartbeat of its loop.

    A pipeline with threads of its own has no such loop; then by the age of its snapshots.

    Args:
        source: Whose `latest()` is a `RunSnapshot`.
        clock: Unix seconds.
    """

    def __init__(
        self, source: Published[RunSnapshot], clock: Callable[[], float] = time.time
    ) -> None:
        self._source = source
        self._clock = clock

    def latest(self) -> CollectorHealth:
        """Success while the loop turns, and after the last turn of a run that has ended."""
        return _health(self._source.latest(), self._clock())


class RunsHealth:
    """The health of each of several runs that go on, likewise.

    Args:
        source: Whose `latest()` are runs with names of their own.
        clock: Unix seconds.
    """

    def __init__(
        self, source: Published[Sequence[RunSnapshot]], clock: Callable[[], float] = time.time
    ) -> None:
        self._source = source
        self._clock = clock

    def latest(self) -> list[tuple[str, CollectorHealth]]:
        """By the name of the run."""
        now = self._clock()
        return [(run.name, _health(run, now)) for run in self._source.latest() if run.end is None]


def _health(run: RunSnapshot, now: float) -> CollectorHealth:
    alive = _alive(run)
    success = run.state in _ENDED or now - alive <= STALE_AFTER
    return CollectorHealth(success=success, last_success_timestamp=alive)


def _alive(run: RunSnapshot) -> float:
    """Unix seconds of the run loop's last heartbeat; of a run that has ended, of its snapshot."""
    silent = 0.0 if run.state in _ENDED else run.heartbeat_age
    return run.timestamp - (silent or 0.0)


class GpuHealth:
    """The health of a GPU monitor, from its snapshots.

    Args:
        source: `latest()` returns a `GpuSnapshot`.
    """

    def __init__(self, source: Published[GpuSnapshot]) -> None:
        self._source = source

    def latest(self) -> CollectorHealth:
        """As of the newest snapshot."""
        return self._source.latest().health


def why_not_ready(run: RunSnapshot | None, gpus: GpuSnapshot | None, now: float) -> str:
    """Why the metrics would mislead, in one line; empty when they would not.

    A run may well use no GPU, so a machine without any is a fault only where GPUs are all there is.

    Args:
        run: The newest snapshot of the run, or None when there is no run.
        gpus: The newest snapshot of the GPUs, or None when no monitor runs.
        now: Unix seconds.
    """
    if run is not None and run.state not in _ENDED and now - _alive(run) > STALE_AFTER:
        return f"no sign of the run for {now - _alive(run):.0f} s"
    if gpus is None or (run is not None and not gpus.devices):
        return ""
    return _why_no_gpus(gpus, now)


def _why_no_gpus(gpus: GpuSnapshot, now: float) -> str:
    health = gpus.health
    if health.success is None:
        return "no GPU has been sampled yet"
    if not health.success:
        return f"the GPUs cannot be sampled: {health.reason}"
    if health.last_success_timestamp is None or now - health.last_success_timestamp > STALE_AFTER:
        return "the latest GPU sample is too old"
    if gpus.devices and not any(device.up for device in gpus.devices):
        first = gpus.devices[0]
        return f"no GPU answers (GPU {first.gpu}: {dict(first.reasons).get('', 'unknown')})"
    return ""
