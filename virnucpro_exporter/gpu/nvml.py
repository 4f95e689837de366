"""GPU values from NVML through nvitop, with the error codes. No other module imports nvitop."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from virnucpro_exporter.gpu.sources import (
    FUNCTION_NOT_FOUND,
    NO_HANDLE,
    TIMEOUT,
    UNKNOWN,
    Found,
    Reading,
    SourceBusyError,
    SourceError,
    Verdict,
    classify,
)
from virnucpro_exporter.snapshot import (
    ECC_KINDS,
    RECOVERY_ACTIONS,
    THROTTLE_BITS,
    THROTTLE_POLICIES,
    GpuModes,
    GpuProcess,
)

# Before nvitop is loaded: with LOGLEVEL=DEBUG in the environment it would write ./nvitop.log, and
# fail where it may not. It also logs a banner each time the library is missing; the monitor logs
# that once, in one line.
_nvitop_log = logging.getLogger("nvitop.api.libnvml")
_nvitop_log.addHandler(logging.NullHandler())
_nvitop_log.propagate = False

import pynvml  # noqa: E402 - nvitop's own binding of the library
from nvitop import libnvml  # noqa: E402 - after its log is quiet

_WHY = {
    4: "no permission to use the NVIDIA driver; can this user open /dev/nvidiactl?",
    9: "the NVIDIA driver is not loaded",
    12: "the NVIDIA library libnvidia-ml.so.1 was not found; is the driver installed?",
    18: "the NVIDIA driver and library versions do not match; reboot, or reload the driver and "
    "start this program again",
}
_HIGHEST_STATE = 15  # 32 stands for unknown
_ALL_LINKS = 0xFFFFFFFF  # the scope of a field that adds up the links of NVLink
_KIB = 1024
_NO_MEMORY = 2**64 - 1  # what NVML returns for the memory of a process where that is unknown
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
_MEMORY_CLOCK = pynvml.NVML_CLOCK_MEM
_XID = pynvml.nvmlEventTypeXidCriticalError


def _utilization(handle: Any) -> dict[str, Any]:
    rates = _utilization_rates(handle)
    return {"utilization_ratio": rates.gpu / 100, "memory_copy_ratio": rates.memory / 100}


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
    return {
        "throttle_reasons": frozenset(name for bit, name in THROTTLE_BITS.items() if bits & bit)
    }


def _processes(handle: Any) -> dict[str, Any]:
    found = libnvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {"foreign_processes": tuple(process.pid for process in found)}


def _memory_clock(handle: Any) -> dict[str, Any]:
    return {"memory_clock_hertz": pynvml.nvmlDeviceGetClockInfo(handle, _MEMORY_CLOCK) * 1e6}


def _highest_clock(handle: Any) -> dict[str, Any]:
    clock = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
    return {"sm_clock_max_hertz": clock * 1e6}


def _highest_memory_clock(handle: Any) -> dict[str, Any]:
    return {"memory_clock_max_hertz": pynvml.nvmlDeviceGetMaxClockInfo(handle, _MEMORY_CLOCK) * 1e6}


def _memory_temperature(handle: Any) -> dict[str, Any]:
    celsius = _field(handle, pynvml.NVML_FI_DEV_MEMORY_TEMP)
    return {"memory_temperature_celsius": float(celsius)}


def _fan(handle: Any) -> dict[str, Any]:
    return {"fan_ratio": pynvml.nvmlDeviceGetFanSpeed(handle) / 100}


def _performance_state(handle: Any) -> dict[str, Any]:
    state = pynvml.nvmlDeviceGetPerformanceState(handle)
    if state > _HIGHEST_STATE:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return {"performance_state": state}


def _throttled_seconds(handle: Any) -> dict[str, Any]:
    times: dict[str, float] = {}
    for number, policy in enumerate(THROTTLE_POLICIES):
        try:
            times[policy] = pynvml.nvmlDeviceGetViolationStatus(handle, number).violationTime / 1e9
        except pynvml.NVMLError_NotSupported:  # noqa: PERF203 - each policy may lack on its own
            continue
    if not times:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return {"throttled_seconds": times}


def _ecc_errors(handle: Any) -> dict[str, Any]:
    return {"ecc_errors": _ecc(handle, pynvml.NVML_VOLATILE_ECC)}


def _ecc_lifetime_errors(handle: Any) -> dict[str, Any]:
    return {"ecc_lifetime_errors": _ecc(handle, pynvml.NVML_AGGREGATE_ECC)}


def _ecc(handle: Any, counter: int) -> dict[str, int]:
    ask = pynvml.nvmlDeviceGetTotalEccErrors
    return {kind: ask(handle, number, counter) for number, kind in enumerate(ECC_KINDS)}


def _remapped_rows(handle: Any) -> dict[str, Any]:
    corrected, uncorrected, is_pending, has_failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    return {
        "remapped_rows": {"corrected": corrected, "uncorrected": uncorrected},
        "row_remap_pending": bool(is_pending),
        "row_remap_failed": bool(has_failed),
    }


def _retired_pages(handle: Any) -> dict[str, Any]:
    ask = pynvml.nvmlDeviceGetRetiredPages
    causes = {
        "single_bit": pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
        "double_bit": pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
    }
    return {
        "retired_pages": {cause: len(ask(handle, number)) for cause, number in causes.items()},
        "retired_pages_pending": bool(pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)),
    }


def _recovery_action(handle: Any) -> dict[str, Any]:
    action = _field(handle, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
    if action >= len(RECOVERY_ACTIONS):  # one of a later driver
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return {"recovery_action": RECOVERY_ACTIONS[action]}


def _pcie(handle: Any) -> dict[str, Any]:
    ask = pynvml.nvmlDeviceGetPcieThroughput
    kibibytes = {
        "receive": ask(handle, pynvml.NVML_PCIE_UTIL_RX_BYTES),
        "transmit": ask(handle, pynvml.NVML_PCIE_UTIL_TX_BYTES),
    }
    return {"pcie_bytes_per_second": {way: _KIB * rate for way, rate in kibibytes.items()}}


def _pcie_replays(handle: Any) -> dict[str, Any]:
    return {"pcie_replays": pynvml.nvmlDeviceGetPcieReplayCounter(handle)}


def _nvlink(handle: Any) -> dict[str, Any]:
    fields = {
        "receive": pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
        "transmit": pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
    }
    kibibytes = {way: _field(handle, field, _ALL_LINKS) for way, field in fields.items()}
    return {"nvlink_bytes": {way: _KIB * number for way, number in kibibytes.items()}}


def _nvlink_errors(handle: Any) -> dict[str, Any]:
    fields = {
        "crc": pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
        "replay": pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
        "recovery": pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    }
    return {"nvlink_errors": {kind: _field(handle, field) for kind, field in fields.items()}}


def _process_table(handle: Any) -> dict[str, Any]:
    found = libnvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {"processes": tuple(GpuProcess(p.pid, memory_bytes=_memory_of(p)) for p in found)}


def _memory_of(process: Any) -> int | None:
    used = process.usedGpuMemory
    return int(used) if isinstance(used, int) and used != _NO_MEMORY else None


# Which member of NVML's union holds a value of each type, by the number of the type.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def _field(handle: Any, field: int, scope: int = 0) -> int:
    """One of the values that NVML identifies by number. Raises NVMLError."""
    (answer,) = pynvml.nvmlDeviceGetFieldValues(handle, [(field, scope)])
    if answer.nvmlReturn:
        raise pynvml.NVMLError(answer.nvmlReturn)
    if not 0 <= answer.valueType < len(_MEMBERS):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return int(getattr(answer.value, _MEMBERS[answer.valueType]))


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
    "memory_clock_hertz": _memory_clock,
    "sm_clock_max_hertz": _highest_clock,
    "memory_clock_max_hertz": _highest_memory_clock,
    "memory_temperature_celsius": _memory_temperature,
    "fan_ratio": _fan,
    "performance_state": _performance_state,
    "throttled_seconds": _throttled_seconds,
    "ecc_errors": _ecc_errors,
    "ecc_lifetime_errors": _ecc_lifetime_errors,
    "remapped_rows": _remapped_rows,
    "retired_pages": _retired_pages,
    "recovery_action": _recovery_action,
    "pcie_bytes_per_second": _pcie,
    "pcie_replays": _pcie_replays,
    "nvlink_bytes": _nvlink,
    "nvlink_errors": _nvlink_errors,
    "processes": _process_table,
}
_MOST_EVENTS = 100  # taken in one go, so that a GPU in a storm of them cannot hold its thread


class NvmlSource:
    """All GPUs and MIG slices that NVML lists."""

    backend = "nvitop"

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._events: dict[str, Any] = {}  # the set of events by uuid; None where there is no such
        self._initialised = False
        self._identifying: list[_Identification] = []

    def open(self) -> tuple[Found, ...]:
        """Initialise NVML anew and list its GPUs.

        Raises:
            SourceError: There is no library, no driver, no permission or no GPU.
            SourceBusyError: A GPU of the last time has not yet returned its identity.
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
        driver, cuda = _text(pynvml.nvmlSystemGetDriverVersion), _cuda_version()
        # In a thread for each: a GPU that hangs or cannot be opened must not hide the others.
        self._identifying = [_Identification(index, driver, cuda) for index in range(count)]
        deadline = time.monotonic() + _IDENTIFY_SECONDS
        found: list[Found] = []
        for thread in self._identifying:
            thread.join(max(0.0, deadline - time.monotonic()))
            found.extend(item for item, _ in thread.result)
            self._handles.update((item.uuid, handle) for item, handle in thread.result if handle)
        return tuple(found)

    def lists_more(self) -> bool:
        """Never: NVML lists a new GPU only when it is initialised again."""
        return False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """Query one GPU, until the first response that it is lost."""
        handle = self._handles.get(uuid)
        if handle is None:
            return Reading(faults=dict.fromkeys(queries, NO_HANDLE))
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

    def xids(self, uuid: str) -> tuple[int, ...] | None:
        """The XID errors of a GPU since the last call, or since the first one."""
        handle = self._handles.get(uuid)
        if handle is None:
            return None
        try:
            if uuid not in self._events:
                self._events[uuid] = None  # requested only once, until NVML is initialised again
                events = pynvml.nvmlEventSetCreate()
                pynvml.nvmlDeviceRegisterEvents(handle, _XID, events)
                self._events[uuid] = events
        except pynvml.NVMLError:  # not supported, as on a slice of a GPU, or not allowed
            return None
        events = self._events[uuid]
        if events is None:
            return None
        codes: list[int] = []
        with suppress(pynvml.NVMLError):  # a TIMEOUT means that there are no more
            while len(codes) < _MOST_EVENTS:
                codes.append(int(pynvml.nvmlEventSetWait_v2(events, 0).eventData))
        return tuple(codes)

    def close(self) -> None:
        """Shut NVML down, if this initialised it: as often as it takes to be really down."""
        self._handles = {}
        if self._initialised and not self._is_stuck():
            self._initialised = False
            for events in filter(None, self._events.values()):
                with suppress(pynvml.NVMLError):
                    pynvml.nvmlEventSetFree(events)
            self._events = {}
            with suppress(pynvml.NVMLError):  # UNINITIALIZED means that it is done
                for _ in range(_SHUTDOWNS):
                    pynvml.nvmlShutdown()

    def _is_stuck(self) -> bool:
        return any(thread.is_alive() for thread in self._identifying)


class _Identification(threading.Thread):
    """Queries the identity of one GPU, and the slices it is partitioned into.

    Attributes:
        result: Everything found, each with its handle; a timeout until it is known.
    """

    def __init__(self, index: int, driver: str, cuda: str) -> None:
        super().__init__(name=f"gpu-identify-{index}", daemon=True)
        self._index = index
        self._driver = driver
        self._cuda = cuda
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
        persistence = _mode(pynvml.nvmlDeviceGetPersistenceMode, handle)
        ecc = _mode(lambda handle: pynvml.nvmlDeviceGetEccMode(handle)[0], handle)
        modes = GpuModes(self._cuda, persistence=persistence, ecc=ecc)
        found = Found(str(self._index), uuid, name, bus, self._driver, minor=minor, modes=modes)
        yield found, handle
        for slot, piece in _slices(handle):
            uuid = _text(pynvml.nvmlDeviceGetUUID, piece)
            if uuid:  # a slice being destroyed has none
                slice_name = _text(pynvml.nvmlDeviceGetName, piece) or name
                index = f"{self._index}:{slot}"
                profile = _mig_profile(slice_name, piece)
                yield (
                    replace(
                        found,
                        gpu=index,
                        uuid=uuid,
                        name=slice_name,
                        modes=replace(modes, mig_profile=profile),
                    ),
                    piece,
                )


def _text(ask: Callable[..., Any], *handle: Any) -> str:
    """The result of a query for a text; empty if it fails or is no UTF-8."""
    try:
        answer = ask(*handle)
        return answer.decode() if isinstance(answer, bytes) else str(answer)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return ""


def _cuda_version() -> str:
    with suppress(pynvml.NVMLError):
        major, rest = divmod(pynvml.nvmlSystemGetCudaDriverVersion_v2(), 1000)
        return f"{major}.{rest // 10}"
    return ""


def _mode(ask: Callable[[Any], int], handle: Any) -> str:
    """Whether a mode is on; empty where there is none."""
    with suppress(pynvml.NVMLError):
        return "on" if ask(handle) else "off"
    return ""


def _mig_profile(name: str, piece: Any) -> str:
    """NVIDIA's name for the size of a slice: part of its own name since driver 470."""
    named = re.search(r"\bMIG (\S+)", name)
    if named is not None:
        return named[1]
    with suppress(pynvml.NVMLError):
        size = pynvml.nvmlDeviceGetAttributes(piece)
        whole, part = size.gpuInstanceSliceCount, size.computeInstanceSliceCount
        memory = math.ceil(size.memorySizeMB / 1024)
        return f"{whole}g.{memory}gb" if part == whole else f"{part}c.{whole}g.{memory}gb"
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
