"""What the sampling threads publish, and all other threads read without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from virnucpro_exporter.gpu import state
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot

# A difference between the clocks that has changed by so much means that one was set.
_STEP_SECONDS = 0.5


@dataclass(slots=True)
class Gpu:
    """One GPU and its newest values.

    Attributes:
        id: Fixed from the start.
        state: Replaced as a whole.
        is_asked: It was queried for all its values once.
    """

    id: str
    state: state.GpuState
    is_asked: bool = False


class Board:
    """The newest of every GPU, each part of it immutable and replaced by one reference.

    Args:
        max_age: Seconds for which a value may be shown.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.

    Attributes:
        gpus: Every GPU ever seen, in the order of the ids.
        backend: Which source is used.
        health: How the latest pass went; when the last one succeeded is in the snapshot alone.
        first: Set when every GPU was queried for all its values once, or when none can be had.
        lock: Held by writers, and never during a query.
    """

    def __init__(
        self, max_age: float, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self.max_age = max_age
        self.gpus: tuple[Gpu, ...] = ()
        self.backend = "none"
        self.health = CollectorHealth()
        self.first = threading.Event()
        self.lock = threading.Lock()
        self._succeeded_at: float | None = None
        self._offset = 0.0  # of the wall clock to the other one, as of the last snapshot
        self._made: tuple[GpuSnapshot, tuple[object, ...], float] | None = None

    def succeeded(self, seconds: float | None, at: float) -> None:
        """A pass that began at this moment succeeded. Called with the lock held."""
        old = self.health
        duration = old.duration_seconds if seconds is None else seconds
        self._succeeded_at = at
        self.health = CollectorHealth(
            success=True,
            duration_seconds=duration,
            failures=old.failures,
        )

    def failed(self, why: str) -> None:
        """A pass failed. Called with the lock held."""
        old = self.health
        self.health = replace(old, success=False, failures=old.failures + 1, reason=why)

    def was_asked(self, gpu: Gpu) -> None:
        """A GPU was queried for all its values; set `first` after the last of them."""
        gpu.is_asked = True
        if all(gpu.is_asked or gpu.state.why for gpu in self.gpus):
            self.first.set()

    def snapshot(self) -> GpuSnapshot:
        """All of it as of now; the same object as long as nothing changes."""
        now, wall, gpus = self._clock(), self._wall_clock(), self.gpus
        states = [gpu.state for gpu in gpus]
        parts = (self.health, self.backend, *states)
        made = self._made
        was_set = abs(wall - now - self._offset) > _STEP_SECONDS
        if made is not None and now < made[2] and _same(made[1], parts) and not was_set:
            return made[0]
        self._offset = wall - now
        pairs = zip(gpus, states, strict=True)
        devices = tuple(state.device(gpu.id, held, now, self.max_age) for gpu, held in pairs)
        at = self._succeeded_at
        last_success = None if at is None else at + self._offset
        health = replace(self.health, last_success_timestamp=last_success)
        snapshot = GpuSnapshot(wall, self.backend, devices, health)
        until = min((state.changes_at(s, now, self.max_age) for s in states), default=float("inf"))
        self._made = (snapshot, parts, until)
        return snapshot


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
