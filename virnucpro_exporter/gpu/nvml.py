"""GPU values from NVML through nvitop, with the error codes kept. Nobody else imports nvitop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from nvitop import libnvml

from virnucpro_exporter.gpu.sources import (
    FUNCTION_NOT_FOUND,
    INVALID_ARGUMENT,
    UNKNOWN,
    Found,
    Reading,
    SourceError,
)

# nvitop logs a banner of its own each time the library is missing; the monitor says it in one line.
logging.getLogger("nvitop.api.libnvml").setLevel(logging.CRITICAL + 1)

_WHY = {
    9: "the NVIDIA driver is not loaded",
    12: "the NVIDIA library libnvidia-ml.so.1 was not found",
    18: "the NVIDIA driver and library versions do not match; reboot, or reload the driver",
    4: "no permission to talk to the NVIDIA driver",
}
_THROTTLE = (
    (0x04, "sw_power_cap"),
    (0x20, "sw_thermal_slowdown"),
    (0x40, "hw_thermal_slowdown"),
    (0x80, "hw_power_brake_slowdown"),
)
_MIG_SLOTS = 7


def _ask(function: str, *args: Any) -> Any:
    return libnvml.nvmlQuery(function, *args, ignore_errors=False)


def _utilization(handle: Any) -> dict[str, Any]:
    return {"utilization_ratio": _ask("nvmlDeviceGetUtilizationRates", handle).gpu / 100}


def _memory(handle: Any) -> dict[str, Any]:
    # nvitop's memory methods answer the host's RAM where a GPU has no answer of its own.
    memory = _ask("nvmlDeviceGetMemoryInfo", handle)
    return {"memory_used_bytes": memory.used, "memory_size_bytes": memory.total}


def _temperature(handle: Any) -> dict[str, Any]:
    sensor = libnvml.NVML_TEMPERATURE_GPU
    return {"temperature_celsius": float(_ask("nvmlDeviceGetTemperatureV", handle, sensor))}


def _power(handle: Any) -> dict[str, Any]:
    return {"power_watts": _ask("nvmlDeviceGetPowerUsage", handle) / 1e3}


def _power_limit(handle: Any) -> dict[str, Any]:
    return {"power_limit_watts": _ask("nvmlDeviceGetEnforcedPowerLimit", handle) / 1e3}


def _energy(handle: Any) -> dict[str, Any]:
    return {"energy_joules": _ask("nvmlDeviceGetTotalEnergyConsumption", handle) / 1e3}


def _clock(handle: Any) -> dict[str, Any]:
    return {"sm_clock_hertz": _ask("nvmlDeviceGetClockInfo", handle, libnvml.NVML_CLOCK_SM) * 1e6}


def _throttle(handle: Any) -> dict[str, Any]:
    bits = _ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
    return {"throttle_reasons": frozenset(name for bit, name in _THROTTLE if bits & bit)}


def _processes(handle: Any) -> dict[str, Any]:
    found = _ask("nvmlDeviceGetComputeRunningProcesses", handle)
    return {"foreign_processes": tuple(process.pid for process in found)}


_QUERIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "utilization_ratio": _utilization,
    "memory_used_bytes": _memory,
    "temperature_celsius": _temperature,
    "power_watts": _power,
    "power_limit_watts": _power_limit,
    "energy_joules": _energy,
    "sm_clock_hertz": _clock,
    "throttle_reasons": _throttle,
    "foreign_processes": _processes,
}


class NvmlSource:
    """All GPUs and MIG slices that NVML lists."""

    backend = "nvitop"

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    def open(self) -> tuple[Found, ...]:
        """Initialise NVML anew and list its GPUs.

        Raises:
            SourceError: There is no library, no driver, or no permission.
        """
        self.close()
        try:
            count = _ask("nvmlDeviceGetCount")
            driver = _text(_ask("nvmlSystemGetDriverVersion"))
        except libnvml.NVMLError as error:
            raise SourceError(_WHY.get(error.value, f"NVML cannot be used: {error}")) from error
        handles: dict[str, Any] = {}
        found = tuple(f for i in range(count) for f in self._identify(i, driver, handles))
        self._handles = handles
        return found

    def _identify(self, index: int, driver: str, handles: dict[str, Any]) -> Iterator[Found]:
        # One by one: a GPU that cannot be opened must not hide the others.
        try:
            handle = _ask("nvmlDeviceGetHandleByIndex", index)
            uuid = _text(_ask("nvmlDeviceGetUUID", handle))
        except libnvml.NVMLError as error:
            yield Found(str(index), "", driver_version=driver, code=error.value)
            return
        handles[uuid] = handle
        bus = _bus_id(handle)
        name = _name(handle)
        yield Found(str(index), uuid, name, bus, driver)
        for slot, piece in _slices(handle):
            with suppress(libnvml.NVMLError):  # a slice being destroyed is no slice
                piece_uuid = _text(_ask("nvmlDeviceGetUUID", piece))
                handles[piece_uuid] = piece
                yield Found(f"{index}:{slot}", piece_uuid, _name(piece) or name, bus, driver)

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """Ask one GPU; stops at a GPU whose handle is unknown."""
        handle = self._handles.get(uuid)
        if handle is None:
            return Reading(faults=dict.fromkeys(queries, INVALID_ARGUMENT))
        values: dict[str, Any] = {}
        faults: dict[str, int] = {}
        for query in queries:
            try:
                values.update(_QUERIES[query](handle))
            except libnvml.NVMLError as error:  # noqa: PERF203 - each value fails on its own
                faults[query] = error.value
            except AttributeError:  # an older driver or binding without this function
                faults[query] = FUNCTION_NOT_FOUND
            except UnicodeDecodeError:
                faults[query] = UNKNOWN
        return Reading(values, faults)

    def close(self) -> None:
        """Shut NVML down, as often as it was initialised."""
        self._handles = {}
        with suppress(libnvml.NVMLError):  # UNINITIALIZED is how it says that it is done
            for _ in range(64):
                libnvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _name(handle: Any) -> str:
    try:
        return _text(_ask("nvmlDeviceGetName", handle))
    except (libnvml.NVMLError, UnicodeDecodeError):
        return ""


def _bus_id(handle: Any) -> str:
    try:
        return _text(_ask("nvmlDeviceGetPciInfo", handle).busId)
    except (libnvml.NVMLError, UnicodeDecodeError):
        return ""


def _slices(handle: Any) -> Iterator[tuple[int, Any]]:
    with suppress(libnvml.NVMLError):  # most GPUs have no MIG mode
        if not _ask("nvmlDeviceGetMigMode", handle)[0]:
            return
        for slot in range(_MIG_SLOTS):
            with suppress(libnvml.NVMLError):  # an empty slot
                yield slot, _ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
