"""A scripted source of GPU values for tests, a sampler in virtual time, and waiting for threads."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from virnucpro_exporter.gpu.sampler import Sampler
from virnucpro_exporter.gpu.sources import (
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    Found,
    GpuSource,
    Reading,
)
from virnucpro_exporter.gpu.threads import Turn
from virnucpro_exporter.snapshot import GpuDevice

SLOWEST = 30.0  # seconds: no machine is as slow as this
FAST = 0.01

VALUES: dict[str, Any] = {
    "utilization_ratio": 0.37,
    "memory_used_bytes": 20,
    "memory_size_bytes": 80,
    "temperature_celsius": 61.0,
    "power_watts": 312.0,
    "power_limit_watts": 700.0,
    "energy_joules": 5e3,
    "sm_clock_hertz": 1.98e9,
    "throttle_reasons": frozenset[str](),
    "foreign_processes": (),
    "memory_clock_hertz": 1e9,
    "sm_clock_max_hertz": 2e9,
    "memory_clock_max_hertz": 1e9,
    "memory_temperature_celsius": 70.0,
    "fan_ratio": 0.5,
    "performance_state": 0,
    "throttled_seconds": {"power": 0.0},
    "ecc_errors": {"corrected": 0},
    "ecc_lifetime_errors": {"corrected": 0},
    "remapped_rows": {"corrected": 0},
    "retired_pages": {"single_bit": 0},
    "recovery_action": "none",
}


class ScriptedSource:
    """Answers what a test tells it to.

    Attributes:
        uuids: The GPUs, in the order of their indices.
        wrong: By uuid, what to raise in the place of an answer, or a code for every query.
        opening: What to raise in the place of opening.
        opened: How often it was opened.
        reads: The uuid and the queries of each read.
        came: By uuid, the XID errors that were not told yet.
    """

    def __init__(self, *uuids: str, backend: str = "scripted") -> None:
        self.backend = backend
        self.uuids = list(uuids)
        self.wrong: dict[str, Exception | int] = {}
        self.opening: Exception | None = None
        self.opened = 0
        self.reads: list[tuple[str, tuple[str, ...]]] = []
        self.came: dict[str, tuple[int, ...]] = {}
        self.stuck = threading.Event()
        self.stuck.set()

    def open(self) -> tuple[Found, ...]:
        self.opened += 1
        if self.opening is not None:
            raise self.opening
        return tuple(Found(str(i), uuid, "Model") for i, uuid in enumerate(self.uuids))

    def lists_more(self) -> bool:
        return False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        self.reads.append((uuid, queries))
        if uuid == "stuck":
            self.stuck.wait(60)
        wrong = self.wrong.get(uuid, 0 if uuid in self.uuids else INVALID_ARGUMENT)
        if isinstance(wrong, Exception):
            raise wrong
        if wrong:
            return Reading(faults=dict.fromkeys(queries, wrong))
        names = [*queries, *(["memory_size_bytes"] if "memory_used_bytes" in queries else [])]
        known = {name: VALUES[name] for name in names if name in VALUES}
        return Reading(known, dict.fromkeys(set(queries) - set(known), NOT_SUPPORTED))

    def xids(self, uuid: str) -> tuple[int, ...]:
        came, self.came = self.came.get(uuid, ()), {**self.came, uuid: ()}
        return came

    def close(self) -> None:
        self.opened = -abs(self.opened)


class VirtualTurns:
    """Turns in virtual time, one after the other.

    Attributes:
        now: Monotonic seconds.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Turn]] = []

    def spawn(self, name: str, turn: Turn) -> None:
        del name
        heapq.heappush(self._due, (self.now, next(self._numbers), turn))

    def stop(self) -> bool:
        self._due.clear()
        return True

    def run(self, until: Callable[[], object], seconds: float) -> None:
        """Take turns until a condition holds, or fail after so many seconds."""
        end = self.now + seconds
        while not until():
            assert self._due, "no turn is left"
            at, _, turn = heapq.heappop(self._due)
            assert at <= end, "it never happened"
            self.now = max(self.now, at)
            heapq.heappush(self._due, (self.now + turn(), next(self._numbers), turn))


class Watched:
    """A sampler that asks once a second, in virtual time or in threads."""

    def __init__(
        self,
        *sources: GpuSource,
        max_age: float = SLOWEST,
        reopen_after: float = 0.0,
        extra: tuple[str, ...] = (),
        turns: VirtualTurns | None = None,
    ) -> None:
        self._turns = turns
        if turns is None:
            self.sampler = Sampler(sources, FAST, reopen_after, extra=extra)
        else:
            self.sampler = Sampler(
                sources,
                1.0,
                reopen_after,
                extra=extra,
                turns=turns,
                clock=lambda: turns.now,
                wall_clock=lambda: 1e9 + turns.now,
            )
        self.board = self.sampler.board
        self.board.max_age = max_age

    def until(self, condition: Callable[[], object], seconds: float = 3600.0) -> None:
        """Go on until a condition holds."""
        if self._turns is None:
            until(condition)
        else:
            self._turns.run(condition, seconds)

    def device(self, gpu: int) -> GpuDevice:
        """The GPU at this place."""
        return self.board.snapshot().devices[gpu]

    def is_up(self, *gpus: int) -> bool:
        """Whether all of these are."""
        devices = self.board.snapshot().devices
        return len(devices) > max(gpus) and all(devices[gpu].up for gpu in gpus)

    def why(self, gpu: int, value: str = "") -> str:
        """Why a GPU is down, or has no such value; empty if it is not so."""
        return dict(self.device(gpu).reasons).get(value, "")


Watch = Callable[..., Watched]


@pytest.fixture
def watch_virtually() -> Watch:
    """Starts samplers in virtual time."""

    def start(*sources: GpuSource, **options: Any) -> Watched:
        watched = Watched(*sources, **options, turns=VirtualTurns())
        watched.sampler.start()
        return watched

    return start


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Starts samplers in threads, and stops them in the end."""
    running: list[Sampler] = []

    def start(*sources: GpuSource, **options: Any) -> Watched:
        watched = Watched(*sources, **options)
        watched.sampler.start()
        running.append(watched.sampler)
        return watched

    yield start
    for sampler in running:
        sampler.stop()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds, however slow the machine is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
