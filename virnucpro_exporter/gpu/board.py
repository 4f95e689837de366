"""What the threads that ask publish, and everybody else reads without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from virnucpro_exporter.gpu import state
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot


@dataclass(slots=True)
class Gpu:
    """One GPU and the newest that is known about it.

    Attributes:
        id: Fixed from the start.
        state: Replaced as a whole.
        is_asked: It was asked for all its values once.
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
        health: How the latest pass went.
        first: Set when every GPU was asked for all its values once, or when none can be had.
        lock: Held by those who write, and never while anybody is asked anything.
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
        self._made: tuple[GpuSnapshot, tuple[object, ...], float] | None = None

    def succeeded(self, seconds: float | None, timestamp: float) -> None:
        """A pass gave an answer. Called with the lock held."""
        old = self.health
        duration = old.duration_seconds if seconds is None else seconds
        self.health = CollectorHealth(
            success=True,
            duration_seconds=duration,
            last_success_timestamp=timestamp,
            failures=old.failures,
        )

    def failed(self, why: str) -> None:
        """A pass failed. Called with the lock held."""
        old = self.health
        self.health = replace(old, success=False, failures=old.failures + 1, reason=why)

    def was_asked(self, gpu: Gpu) -> None:
        """A GPU was asked for all its values; set `first` after the last of them."""
        gpu.is_asked = True
        if all(gpu.is_asked or gpu.state.why for gpu in self.gpus):
            self.first.set()

    def snapshot(self) -> GpuSnapshot:
        """All of it as of now; the same object as long as nothing changes."""
        now, gpus = self._clock(), self.gpus
        states = [gpu.state for gpu in gpus]
        parts = (self.health, self.backend, *states)
        made = self._made
        if made is not None and now < made[2] and _same(made[1], parts):
            return made[0]
        pairs = zip(gpus, states, strict=True)
        devices = tuple(state.device(gpu.id, held, now, self.max_age) for gpu, held in pairs)
        snapshot = GpuSnapshot(self._wall_clock(), self.backend, devices, self.health)
        until = min((state.changes_at(s, now, self.max_age) for s in states), default=float("inf"))
        self._made = (snapshot, parts, until)
        return snapshot


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
