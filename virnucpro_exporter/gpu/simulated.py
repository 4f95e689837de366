"""Virtual GPUs behind the same interface as the real ones, for demonstrations and tests."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from virnucpro_exporter.gpu.sources import GPU_IS_LOST, INVALID_ARGUMENT, Found, Reading

_SIZE = 24 * 1024**3
_LIMIT = 350.0


class SimulatedSource:
    """N virtual GPUs whose values depend on (seed, index, now) alone, but for the energy used.

    Args:
        count: How many.
        seed: Another seed gives other values.
        load: Share of the time a GPU (by its id) computes at `now`, 0 to 1; a slow wave if None.
        lost: From when to when (seconds of the clock) a GPU, by its id, is lost.
        names: Model names, taken in turn.
        clock: Seconds.
    """

    backend = "simulated"

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        load: Callable[[str, float], float] | None = None,
        lost: Mapping[str, tuple[float, float]] | None = None,
        names: tuple[str, ...] = ("NVIDIA GeForce RTX 3090",),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load = load or self._wave
        self._seed = seed
        self._lost = dict(lost or {})
        self._clock = clock
        self._lock = threading.Lock()
        self._energy: dict[str, tuple[float, float]] = {}  # joules, and until when
        self._gpus = {
            f"GPU-simulated-{i}": Found(
                str(i), f"GPU-simulated-{i}", names[i % len(names)], f"00000000:{i + 1:02X}:00.0"
            )
            for i in range(count)
        }

    def open(self) -> tuple[Found, ...]:
        """List the virtual GPUs."""
        return tuple(self._gpus.values())

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """The values of one virtual GPU now."""
        if uuid not in self._gpus:
            return Reading(faults=dict.fromkeys(queries, INVALID_ARGUMENT))
        now, gpu = self._clock(), self._gpus[uuid].gpu
        begin, end = self._lost.get(gpu, (math.inf, math.inf))
        if begin <= now < end:
            return Reading(faults=dict.fromkeys(queries, GPU_IS_LOST))
        known = _values(min(1.0, max(0.0, self._load(gpu, now))))
        values = {name: known[name] for name in queries if name in known}
        if "memory_used_bytes" in queries:
            values["memory_size_bytes"] = _SIZE
        if "energy_joules" in queries:
            values["energy_joules"] = self._used(gpu, known["power_watts"], now)
        return Reading(values)

    def close(self) -> None:
        """Nothing is held."""

    def _wave(self, gpu: str, now: float) -> float:
        return 0.6 + 0.35 * math.sin(now / 20 + 1.7 * int(gpu) + 0.9 * self._seed)

    def _used(self, gpu: str, watts: float, now: float) -> float:
        """Energy since the first look, as if the power had been this since the last look."""
        with self._lock:
            joules, before = self._energy.get(gpu, (0.0, now))
            joules += watts * max(0.0, now - before)
            self._energy[gpu] = (joules, now)
            return joules


def _values(load: float) -> dict[str, Any]:
    power = round(30 + 320 * load, 1)
    return {
        "utilization_ratio": round(load, 2),
        "memory_used_bytes": int(_SIZE * (0.1 + 0.6 * load)),
        "temperature_celsius": round(35 + 40 * load, 0),
        "power_watts": power,
        "power_limit_watts": _LIMIT,
        "sm_clock_hertz": round(210 + 1500 * load) * 1e6,
        "throttle_reasons": frozenset({"sw_power_cap"} if power > 0.95 * _LIMIT else ()),
        "foreign_processes": (),
    }
