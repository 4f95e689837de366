"""Virtual GPUs behind the same interface as the real ones, for demonstrations and tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from virnucpro_exporter.gpu.sources import GPU_IS_LOST, NOT_SUPPORTED, Found, Reading

_SIZE = 24 * 1024**3


class SimulatedSource:
    """N virtual GPUs whose values depend on (seed, index, now) alone.

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
        now, gpu = self._clock(), self._gpus[uuid].gpu
        begin, end = self._lost.get(gpu, (math.inf, math.inf))
        if begin <= now < end:
            return Reading(faults=dict.fromkeys(queries, GPU_IS_LOST))
        load = min(1.0, max(0.0, self._load(gpu, now)))
        known = _values(load)
        values = {name: known[name] for name in queries if name in known}
        if "memory_used_bytes" in queries:
            values["memory_size_bytes"] = _SIZE
        missing = [name for name in queries if name not in known]
        return Reading(values, dict.fromkeys(missing, NOT_SUPPORTED))

    def close(self) -> None:
        """Nothing is held."""

    def _wave(self, gpu: str, now: float) -> float:
        return 0.6 + 0.35 * math.sin(now / 20 + 1.7 * int(gpu) + 0.9 * self._seed)


def _values(load: float) -> dict[str, Any]:
    return {
        "utilization_ratio": round(load, 2),
        "memory_used_bytes": int(_SIZE * (0.1 + 0.6 * load)),
        "temperature_celsius": round(35 + 40 * load, 0),
        "power_watts": round(30 + 320 * load, 1),
        "power_limit_watts": 350.0,
        "sm_clock_hertz": round(210 + 1500 * load) * 1e6,
        "throttle_reasons": frozenset(),
        "foreign_processes": (),
    }
