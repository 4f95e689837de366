"""Virtual GPUs behind the same interface as the real ones, for demonstrations and tests."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from virnucpro_exporter.gpu.sources import (
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    Found,
    Reading,
    query_of,
)
from virnucpro_exporter.snapshot import GpuProcess

_GIB = 1024**3
_DRIVER = "simulated"

# Memory (GiB) and power limit (W) by the model part of the name, for the values to look right.
_MODELS = {
    "3090": (24, 350.0),
    "A100": (80, 400.0),
    "H100": (80, 700.0),
}
_OTHER_MODEL = (24, 300.0)

# A GPU warms up and cools down towards the level set by its power, with this time constant.
_WARMING_SECONDS = 10.0
_OFF_THE_BUS = 79  # the XID error of a GPU that is lost


@dataclass(frozen=True, slots=True)
class Activity:
    """What a virtual GPU does.

    Attributes:
        compute: Share of the time with a kernel running, 0 to 1.
        power: Share of the way from idle power to the limit, 0 to 1.
        memory: Share of the memory in use, 0 to 1.
        is_lost: It has fallen off the bus and does not respond.
    """

    compute: float = 0.0
    power: float = 0.0
    memory: float = 0.01
    is_lost: bool = False


class SimulatedSource:
    """Virtual GPUs whose values follow their given activity.

    Args:
        names: The model name of each GPU.
        activity: What a GPU, by its id, does at this moment; called from any thread.
        seed: Another seed gives other UUIDs and another noise.
        clock: Monotonic seconds.
    """

    backend = "simulated"

    def __init__(
        self,
        names: Sequence[str],
        activity: Callable[[str], Activity],
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._activity = activity
        self._clock = clock
        self._gpus = {
            uuid: _Gpu(Found(str(i), uuid, name, f"00000000:{i + 1:02X}:00.0", _DRIVER), uuid)
            for i, name in enumerate(names)
            for uuid in [f"GPU-simulated-{seed}-{i}"]
        }

    def open(self) -> tuple[Found, ...]:
        """List the virtual GPUs."""
        return tuple(gpu.found for gpu in self._gpus.values())

    def lists_more(self) -> bool:
        """Never: there are as many as there were."""
        return False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """The values of one virtual GPU now."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            return Reading(faults=dict.fromkeys(queries, INVALID_ARGUMENT))
        activity = self._activity(gpu.found.gpu)
        if activity.is_lost:
            return Reading(faults=dict.fromkeys(queries, GPU_IS_LOST))
        known = gpu.values(activity, self._clock())
        values = {name: value for name, value in known.items() if query_of(name) in queries}
        faults = dict.fromkeys(set(queries) - set(values), NOT_SUPPORTED)
        return Reading(values, faults)

    def xids(self, uuid: str) -> tuple[int, ...]:
        """One when a virtual GPU is lost: that it has fallen off the bus."""
        gpu = self._gpus.get(uuid)
        return () if gpu is None else gpu.xids(self._activity(gpu.found.gpu))

    def close(self) -> None:
        """Nothing is held."""


def demonstration(count: int) -> SimulatedSource:
    """Some virtual GPUs that compute in slow waves, to look at the program without a real one."""
    models = ("NVIDIA GeForce RTX 3090", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3")
    names = [models[index % len(models)] for index in range(count)]

    def wave(gpu: str) -> Activity:
        share = 0.6 + 0.35 * math.sin(time.monotonic() / 20 + 1.7 * int(gpu))
        return Activity(share, share, 0.1 + 0.6 * share)

    return SimulatedSource(names, wave)


class _Gpu:
    """One virtual GPU: its temperature lags behind, and its energy adds up."""

    def __init__(self, found: Found, seed: str) -> None:
        self.found = found
        self._seed = seed
        models = (values for part, values in _MODELS.items() if part in found.name)
        self._memory_gib, self._limit = next(models, _OTHER_MODEL)
        self._lock = threading.Lock()
        self._at: float | None = None
        self._temperature = _resting(0.0)
        self._energy = 0.0
        self._was_lost = False

    def values(self, activity: Activity, now: float) -> dict[str, Any]:
        """All values at `now`, which never goes back."""
        noise = random.Random(f"{self._seed}/{now}")  # noqa: S311 - a flicker, no secret
        flicker = noise.uniform(0.96, 1.0) if activity.compute < 1.0 else 1.0
        idle = 0.08 * self._limit
        share = min(1.0, activity.power * noise.uniform(0.92, 1.04))
        power = idle + share * (self._limit - idle)
        with self._lock:
            elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
            self._at = now
            lag = math.exp(-elapsed / _WARMING_SECONDS)
            warm = _resting(activity.power)
            self._temperature = warm + (self._temperature - warm) * lag
            self._energy += power * elapsed
            temperature, energy = self._temperature, self._energy
        size = self._memory_gib * _GIB
        return {
            "utilization_ratio": round(activity.compute * flicker, 2),
            "memory_used_bytes": int(size * activity.memory),
            "memory_size_bytes": size,
            "temperature_celsius": float(round(temperature)),
            "power_watts": round(power, 1),
            "power_limit_watts": self._limit,
            "energy_joules": round(energy, 3),
            "sm_clock_hertz": round(210 + 1500 * share) * 1e6,
            "throttle_reasons": frozenset(),
            "foreign_processes": (),
            "memory_copy_ratio": round(0.6 * activity.compute * flicker, 2),
            "memory_clock_hertz": 1.593e9,
            "sm_clock_max_hertz": 1.71e9,
            "memory_clock_max_hertz": 1.593e9,
            "memory_temperature_celsius": float(round(temperature + 6)),
            "performance_state": 0 if activity.compute else 8,
            "ecc_errors": {"corrected": 0, "uncorrected": 0},
            "ecc_lifetime_errors": {"corrected": 0, "uncorrected": 0},
            "remapped_rows": {"corrected": 0, "uncorrected": 0},
            "row_remap_pending": False,
            "row_remap_failed": False,
            "recovery_action": "none",
            "fan_ratio": round(0.3 + 0.5 * share, 2),
            "throttled_seconds": dict.fromkeys(("power", "thermal"), 0.0),
            "retired_pages": {"single_bit": 0, "double_bit": 0},
            "retired_pages_pending": False,
            "pcie_bytes_per_second": {"receive": 4e9 * share, "transmit": 4e8 * share},
            "pcie_replays": 0,
            "nvlink_bytes": dict.fromkeys(("receive", "transmit"), int(1e6 * energy)),
            "nvlink_errors": dict.fromkeys(("crc", "replay", "recovery"), 0),
            "processes": (GpuProcess(os.getpid(), memory_bytes=int(size * activity.memory)),),
        }

    def xids(self, activity: Activity) -> tuple[int, ...]:
        """That the GPU has fallen off the bus, once each time it is lost."""
        with self._lock:
            is_new = activity.is_lost and not self._was_lost
            self._was_lost = activity.is_lost
        return (_OFF_THE_BUS,) if is_new else ()


def _resting(power: float) -> float:
    """The temperature (Celsius) at which a GPU settles."""
    return 32.0 + 42.0 * power
