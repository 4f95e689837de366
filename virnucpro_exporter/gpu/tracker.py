"""What is known about one GPU: readings in, a `GpuDevice` out. No clock, thread or source here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from virnucpro_exporter.gpu.sources import (
    CORE,
    Found,
    Reading,
    Verdict,
    classify,
    code_name,
)
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot

_LONGEST_PROBE = 30.0
_RANGES = {
    "utilization_ratio": (0, 1),
    "temperature_celsius": (0, 150),
    "power_watts": (0, 5000),
    "power_limit_watts": (0, 5000),
}


class Tracker:
    """Follows one GPU.

    Args:
        found: Who it is.
        gpu: Its id, fixed from now on.
        foreign: From the ids of all compute processes, how many are not ours.
        max_age: Seconds after which a value is dropped.
    """

    def __init__(
        self,
        found: Found,
        gpu: str,
        foreign: Callable[[tuple[int, ...]], int] = len,
        max_age: float = 3.0,
    ) -> None:
        self.gpu = gpu
        self.found = found
        self.wants_reopen = bool(found.code)
        self._foreign = foreign
        self._max_age = max_age
        self._values: dict[str, tuple[float, Any]] = {}
        self._reasons: dict[str, str] = {"": code_name(found.code)} if found.code else {}
        self._errors: Counter[str] = Counter()
        self._ask_at: dict[str, float] = {}
        self._probe_at = 0.0
        self._probe_delay = 0.0
        self._up = False
        self._timestamp = 0.0

    def identify(self, found: Found) -> None:
        """The source was opened anew and lists this GPU: ask it everything at once."""
        self.found = found
        self.wants_reopen = bool(found.code)
        self._probe_at = 0.0
        self._ask_at.clear()

    def unlisted(self) -> None:
        """The source was opened anew and does not list this GPU any more."""
        self._down("not listed by the driver")
        self.wants_reopen = True

    def due(self, queries: tuple[str, ...], now: float) -> tuple[str, ...]:
        """Which of the queries to ask at `now`; none while a lost GPU is left alone."""
        if now < self._probe_at or not self.found.uuid:
            return ()
        return tuple(q for q in queries if now >= self._ask_at.get(q, 0.0))

    def absorb(self, reading: Reading, now: float) -> None:
        """Take in what the GPU answered at `now` (Unix seconds)."""
        verdicts = {classify(code).verdict for code in reading.faults.values()}
        for query, code in reading.faults.items():
            self._fault(query, code, now)
        if verdicts & {Verdict.LOST, Verdict.STALE}:
            self._lose(reading, now)
            return
        for name, value in reading.values.items():
            self._store(name, value, reading, now)
        if any(name in reading.values for name in CORE):
            self._up, self._timestamp, self._probe_delay = True, now, 0.0
            self.wants_reopen = False
            self._reasons.pop("", None)
        elif any(name in reading.faults for name in CORE):
            self._down(", ".join(sorted({code_name(c) for c in reading.faults.values()})))

    def _fault(self, query: str, code: int, now: float) -> None:
        fault = classify(code)
        self._values.pop(query, None)
        if query == "memory_used_bytes":
            self._values.pop("memory_size_bytes", None)
        self._reasons[query] = code_name(code)
        self._ask_at[query] = now + fault.retry_after
        if fault.counted:
            self._errors[code_name(code)] += 1

    def _lose(self, reading: Reading, now: float) -> None:
        codes = {c for c in reading.faults.values() if classify(c).verdict in _FATAL}
        self._down(", ".join(sorted(code_name(c) for c in codes)))
        self.wants_reopen = True
        self._probe_delay = min(max(1.0, 2 * self._probe_delay), _LONGEST_PROBE)
        self._probe_at = now + self._probe_delay

    def _down(self, reason: str) -> None:
        self._up = False
        self._values.clear()
        self._reasons[""] = reason

    def _store(self, name: str, value: Any, reading: Reading, now: float) -> None:
        low, high = _RANGES.get(name, (None, None))
        size = reading.values.get("memory_size_bytes")
        wrong = low is not None and high is not None and not low <= value <= high
        if name.startswith("memory") and size is not None:
            wrong = size <= 0 or reading.values.get("memory_used_bytes", 0) > size
        if wrong:
            self._values.pop(name, None)
            self._reasons[name] = f"implausible value {value}"
            return
        if name == "foreign_processes":
            value = self._foreign(value)
        self._values[name] = (now, value)
        self._reasons.pop(name, None)

    def device(self) -> GpuDevice:
        """The GPU as last seen."""
        oldest = self._timestamp - self._max_age
        values = {name: value for name, (at, value) in self._values.items() if at >= oldest}
        return GpuDevice(
            gpu=self.gpu,
            uuid=self.found.uuid,
            name=self.found.name,
            pci_bus_id=self.found.pci_bus_id,
            driver_version=self.found.driver_version,
            up=self._up,
            sample=GpuSample(self._timestamp, **values) if self._up else None,
            reasons=tuple(sorted(self._reasons.items())),
            errors=tuple(sorted(self._errors.items())),
        )


_FATAL = (Verdict.LOST, Verdict.STALE)


def fresh(snapshot: GpuSnapshot, now: float, max_age: float) -> GpuSnapshot:
    """The snapshot with every GPU down whose values are older than `max_age` seconds at `now`."""
    devices = tuple(_fresh_device(device, now, max_age) for device in snapshot.devices)
    if all(new is old for new, old in zip(devices, snapshot.devices, strict=True)):
        return snapshot
    return replace(snapshot, devices=devices)


def _fresh_device(device: GpuDevice, now: float, max_age: float) -> GpuDevice:
    # A sample from the future means that the wall clock was set back: its age is not known.
    if device.sample is None or abs(now - device.sample.timestamp) <= max_age:
        return device
    reasons = (("", "no answer for too long"), *(r for r in device.reasons if r[0]))
    return replace(device, up=False, sample=None, reasons=tuple(sorted(reasons)))
