"""What a source of GPU values is, and what each NVML error code means for a GPU."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from virnucpro_exporter.snapshot import GpuModes

# Queries are named after the `GpuSample` field they fill, or the first of those that they fill.
CORE = ("utilization_ratio", "memory_used_bytes", "temperature_celsius", "power_watts")
SLOW = (
    "power_limit_watts",
    "energy_joules",
    "sm_clock_hertz",
    "throttle_reasons",
    "foreign_processes",
)
HEALTH = (
    "memory_clock_hertz",
    "sm_clock_max_hertz",
    "memory_clock_max_hertz",
    "memory_temperature_celsius",
    "fan_ratio",
    "performance_state",
    "throttled_seconds",
    "ecc_errors",
    "ecc_lifetime_errors",
    "remapped_rows",
    "retired_pages",
    "recovery_action",
)
LINKS = ("pcie_bytes_per_second", "pcie_replays", "nvlink_bytes", "nvlink_errors")
PROCESSES = ("processes",)
RARE = frozenset((*HEALTH, *LINKS, *PROCESSES))

_FILLED_BY = {
    "memory_size_bytes": "memory_used_bytes",
    "neighbour_processes": "foreign_processes",
    "memory_copy_ratio": "utilization_ratio",
    "row_remap_pending": "remapped_rows",
    "row_remap_failed": "remapped_rows",
    "retired_pages_pending": "retired_pages",
}


def query_of(name: str) -> str:
    """The query that fills a field."""
    return _FILLED_BY.get(name, name)


# Not a code of NVML: there is no handle for a query.
NO_HANDLE = -1
UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 1, 2, 3, 4
NOT_FOUND, TIMEOUT, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, UNKNOWN = (
    6,
    10,
    13,
    15,
    16,
    999,
)

CODE_NAMES: Mapping[int, str] = {
    NO_HANDLE: "not opened yet",
    1: "UNINITIALIZED",
    2: "INVALID_ARGUMENT",
    3: "NOT_SUPPORTED",
    4: "NO_PERMISSION",
    6: "NOT_FOUND",
    8: "INSUFFICIENT_POWER",
    9: "DRIVER_NOT_LOADED",
    10: "TIMEOUT",
    11: "IRQ_ISSUE",
    12: "LIBRARY_NOT_FOUND",
    13: "FUNCTION_NOT_FOUND",
    15: "GPU_IS_LOST",
    16: "RESET_REQUIRED",
    17: "OPERATING_SYSTEM",
    18: "LIB_RM_VERSION_MISMATCH",
    999: "UNKNOWN",
}


class Verdict(enum.Enum):
    """What an error code means for the GPU that returned it."""

    UNSUPPORTED = "this GPU has no such value"
    REFUSED = "this value cannot be had for now"
    RETRY = "this value failed, perhaps only once"
    LOST = "the GPU does not work, nothing it answers can be believed"
    STALE = "the handle is no longer valid, NVML must be initialised again"


@dataclass(frozen=True, slots=True)
class Fault:
    """How to treat an error code.

    Attributes:
        verdict: What it means.
        retry_after: Seconds until the value is queried again; 0 is the next cycle.
        counted: Whether it counts as an error.
    """

    verdict: Verdict
    retry_after: float = 0.0
    counted: bool = True


UNSUPPORTED = Fault(Verdict.UNSUPPORTED, 600.0, counted=False)

_FAULTS: Mapping[int, Fault] = {
    NOT_SUPPORTED: UNSUPPORTED,
    NO_PERMISSION: Fault(Verdict.REFUSED, 60.0),
    FUNCTION_NOT_FOUND: Fault(Verdict.REFUSED, 60.0),
    GPU_IS_LOST: Fault(Verdict.LOST),
    RESET_REQUIRED: Fault(Verdict.LOST),
    8: Fault(Verdict.LOST),
    11: Fault(Verdict.LOST),
    UNINITIALIZED: Fault(Verdict.STALE),
    INVALID_ARGUMENT: Fault(Verdict.STALE),
    NO_HANDLE: Fault(Verdict.STALE, counted=False),
}
_OTHER = Fault(Verdict.RETRY)


def classify(code: int) -> Fault:
    """How to treat an NVML error code (not 0)."""
    return _FAULTS.get(code, _OTHER)


def code_name(code: int) -> str:
    """NVML's name of an error code."""
    return CODE_NAMES.get(code, f"CODE_{code}")


class SourceError(Exception):
    """A source as a whole cannot be used; the message is one line for a user."""


class SourceBusyError(Exception):
    """A source cannot be opened anew for now, because a call into it has not returned."""


@dataclass(frozen=True, slots=True)
class Found:
    """A GPU that a source lists.

    Attributes:
        gpu: Its index now (`"0"`, `"0:1"` for a MIG slice).
        uuid: Its identity, empty when it could not be queried.
        name: Model name.
        pci_bus_id: Bus id.
        driver_version: Of the kernel driver.
        code: Why it could not be identified, 0 when it was.
        minor: The N of its /dev/nvidiaN, or None where the source does not provide it.
        modes: How it is set up.
    """

    gpu: str
    uuid: str
    name: str = ""
    pci_bus_id: str = ""
    driver_version: str = ""
    code: int = 0
    minor: int | None = None
    modes: GpuModes = field(default_factory=GpuModes)


@dataclass(frozen=True, slots=True)
class Reading:
    """The response of one GPU: values by `GpuSample` field, error codes by query.

    The value of `foreign_processes` is the tuple of the ids of all compute processes, and that of
    `processes` a tuple of `GpuProcess` without names.

    Attributes:
        values: The values returned.
        faults: Why the others were not.
        age: Seconds since it was measured, for a source that answers from a cache.
        is_free: Asking costs the GPU nothing, so no query is put off after a fault: what one answer
            hides, the next may show.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    age: float = 0.0
    is_free: bool = False


class GpuSource(Protocol):
    """Where values come from. `open` and `close` are never called during a `read`."""

    backend: str

    def open(self) -> tuple[Found, ...]:
        """List the GPUs, one at least, initialising afresh.

        Raises:
            SourceError: The source cannot be used.
            SourceBusyError: Not now. What was open stays open.
        """

    def lists_more(self) -> bool:
        """Whether there is, as known without a query, a GPU that the last `open` did not list."""

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """Query a GPU; may hang, never raises for a GPU's response. Raises SourceError."""

    def xids(self, uuid: str) -> tuple[int, ...] | None:
        """The XID errors of a GPU since the last call, without waiting for one; may hang.

        Returns:
            Their codes, or None where the source cannot know of any.
        """

    def close(self) -> None:
        """Release everything."""
