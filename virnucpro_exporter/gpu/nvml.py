"""GPU values from NVML through nvitop, with the error codes kept. Nobody else imports nvitop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from virnucpro_exporter.gpu.sources import (
    FUNCTION_NOT_FOUND,
    INVALID_ARGUMENT,
    TIMEOUT,
    UNKNOWN,
    Found,
    Reading,
    SourceBusyError,
    SourceError,
    Verdict,
    classify,
)

# Before nvitop is loaded: with LOGLEVEL=DEBUG in the environment it would write ./nvitop.log, and
# fail where it may not. It also logs a banner each time the library is missing; the monitor says
# that once, in one line.
_nvitop_log = logging.getLogger("nvitop.api.libnvml")
_nvitop_log.addHandler(logging.NullHandler())
_nvitop_log.propagate = False

import pynvml  # noqa: E402 - nvitop's own binding of the library
from nvitop import libnvml  # noqa: E402 - after its log is quiet

_WHY = {
    4: "no permission to talk to the NVIDIA driver; may this user open /dev/nvidiactl?",
    9: "the NVIDIA driver is not loaded",
    12: "the NVIDIA library libnvidia-ml.so.1 was not found; is the driver installed?",
    18: "the NVIDIA driver and library versions do not match; reboot, or reload the driver and "
    "start this program again",
}
_THROTTLE = (
    (0x04, "sw_power_cap"),
    (0x20, "sw_thermal_slowdown"),
    (0x40, "hw_thermal_slowdown"),
    (0x80, "hw_power_brake_slowdown"),
)
_IDENTIFY_SECONDS = 3.0  # for all GPUs together; a GPU that takes longer is left for later
_SHUTDOWNS = 64  # how often others in this process may have initialised NVML, generously

# Called directly and not through nvitop's `nvmlQuery`, which costs more than the questions do and
# makes the program wait for a call that hangs, up to 120 s, at its end. nvitop's own versions are
# those that choose between what old and new drivers have; its memory methods are not used, because
# they answer the host's RAM for a GPU that has no answer.
_utilization_rates = pynvml.nvmlDeviceGetUtilizationRates
_power_usage = pynvml.nvmlDeviceGetPowerUsage
_memory_info = libnvml.nvmlDeviceGetMemoryInfo
_temperature_of = libnvml.nvmlDeviceGetTemperature
_SENSOR = pynvml.NVML_TEMPERATURE_GPU


def _utilization(handle: Any) -> dict[str, Any]:
    return {"utilization_ratio": _utilization_rates(handle).gpu / 100}


def _memory(handle: Any) -> dict[str, Any]:
    memory = _memory_info(handle)
    return {"memory_used_bytes": memory.used, "memory_size_bytes": memory.total}


def _temperature(handle: Any) -> dict[str, Any]:
    return {"temperature_celsius": float(_temperature_of(handle, _SENSOR))}


def _power(handle: Any) -> dict[str, Any]:
    return {"power_watts": _power_usage(handle) / 1e3}


def _power_limit(handle: Any) -> dict[str, Any]:
    return {"power_limit_watts": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3}


def _energy(handle: Any) -> dict[str, Any]:
    return {"energy_joules": pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3}


def _clock(handle: Any) -> dict[str, Any]:
    return {"sm_clock_hertz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6}


def _throttle(handle: Any) -> dict[str, Any]:
    try:
        bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except (pynvml.NVMLError_FunctionNotFound, AttributeError):  # its name in older drivers
        bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return {"throttle_reasons": frozenset(name for bit, name in _THROTTLE if bits & bit)}


def _processes(handle: Any) -> dict[str, Any]:
    found = libnvml.nvmlDeviceGetComputeRunningProcesses(handle)
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
        self._initialised = False
        self._identifying: list[_Identification] = []

    def open(self) -> tuple[Found, ...]:
        """Initialise NVML anew and list its GPUs.

        Raises:
            SourceError: There is no library, no driver, no permission or no GPU.
            SourceBusyError: A GPU of the last time has not yet told who it is.
        """
        if self._is_stuck():
            raise SourceBusyError
        self.close()
        try:
            pynvml.nvmlInit()
            self._initialised = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self.close()
            raise SourceError(_WHY.get(error.value, f"NVML cannot be used: {error}")) from error
        if not count:
            self.close()  # a GPU that appears later is not seen without a new initialisation
            raise SourceError("the NVIDIA driver lists no GPU")
        driver = _text(pynvml.nvmlSystemGetDriverVersion)
        # In a thread for each: a GPU that hangs or cannot be opened must not hide the others.
        self._identifying = [_Identification(index, driver) for index in range(count)]
        deadline = time.monotonic() + _IDENTIFY_SECONDS
        found: list[Found] = []
        for thread in self._identifying:
            thread.join(max(0.0, deadline - time.monotonic()))
            found.extend(item for item, _ in thread.result)
            self._handles.update((item.uuid, handle) for item, handle in thread.result if handle)
        return tuple(found)

    def lists_more(self) -> bool:
        """Never: NVML tells of a new GPU only when it is initialised again."""
        return False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """Ask one GPU. The first answer that it is lost ends the asking."""
        handle = self._handles.get(uuid)
        if handle is None:
            return Reading(faults=dict.fromkeys(queries, INVALID_ARGUMENT))
        values: dict[str, Any] = {}
        faults: dict[str, int] = {}
        for query in queries:
            try:
                values.update(_QUERIES[query](handle))
            except pynvml.NVMLError as error:  # noqa: PERF203 - each value fails on its own
                faults[query] = error.value
                if classify(error.value).verdict is Verdict.LOST:
                    break
            except AttributeError:  # a binding from before this function
                faults[query] = FUNCTION_NOT_FOUND
        return Reading(values, faults)

    def close(self) -> None:
        """Shut NVML down, if this initialised it: as often as it takes to be really down."""
        self._handles = {}
        if self._initialised and not self._is_stuck():
            self._initialised = False
            with suppress(pynvml.NVMLError):  # UNINITIALIZED is how it says that it is done
                for _ in range(_SHUTDOWNS):
                    pynvml.nvmlShutdown()

    def _is_stuck(self) -> bool:
        return any(thread.is_alive() for thread in self._identifying)


class _Identification(threading.Thread):
    """Asks one GPU who it is, and which slices it is cut into.

    Attributes:
        result: Everything found, each with its handle; a timeout until it is known.
    """

    def __init__(self, index: int, driver: str) -> None:
        super().__init__(name=f"gpu-identify-{index}", daemon=True)
        self._index = index
        self._driver = driver
        self.result = self._unknown(TIMEOUT)
        self.start()

    def run(self) -> None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(self._index)
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        except pynvml.NVMLError as error:
            self.result = self._unknown(error.value)
        except UnicodeDecodeError:
            self.result = self._unknown(UNKNOWN)
        else:
            self.result = list(self._all(handle, uuid))

    def _unknown(self, code: int) -> list[tuple[Found, Any]]:
        return [(Found(str(self._index), "", driver_version=self._driver, code=code), None)]

    def _all(self, handle: Any, uuid: str) -> Iterator[tuple[Found, Any]]:
        bus = _text(lambda handle: pynvml.nvmlDeviceGetPciInfo(handle).busId, handle)
        name = _text(pynvml.nvmlDeviceGetName, handle)
        minor = _minor(handle)
        yield Found(str(self._index), uuid, name, bus, self._driver, minor=minor), handle
        for slot, piece in _slices(handle):
            uuid = _text(pynvml.nvmlDeviceGetUUID, piece)
            if uuid:  # a slice being destroyed has none
                slice_name = _text(pynvml.nvmlDeviceGetName, piece) or name
                index = f"{self._index}:{slot}"
                yield Found(index, uuid, slice_name, bus, self._driver, minor=minor), piece


def _text(ask: Callable[..., Any], *handle: Any) -> str:
    """What a query for a text answers; empty if it fails or is no UTF-8."""
    try:
        answer = ask(*handle)
        return answer.decode() if isinstance(answer, bytes) else str(answer)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return ""


def _minor(handle: Any) -> int | None:
    with suppress(pynvml.NVMLError):
        return int(pynvml.nvmlDeviceGetMinorNumber(handle))
    return None


def _slices(handle: Any) -> Iterator[tuple[int, Any]]:
    with suppress(pynvml.NVMLError):  # most GPUs have no MIG mode
        if pynvml.nvmlDeviceGetMigMode(handle)[0]:
            for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                with suppress(pynvml.NVMLError):  # an empty slot
                    yield slot, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
