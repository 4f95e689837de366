"""What is known about the GPUs at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# NVIDIA's words for why clocks are held down, for the policies that do it, for memory errors, and
# for what the driver recommends; policies, kinds and actions in the order of NVML's own numbers.
THROTTLE_REASONS = (
    "sw_power_cap",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "hw_slowdown",
    "sync_boost",
    "applications_clocks_setting",
    "display_clock_setting",
)
# Their bits in what the driver answers. GpuIdle (0x01) is none of them: it holds nothing down.
THROTTLE_BITS = dict(
    zip((0x04, 0x20, 0x40, 0x80, 0x08, 0x10, 0x02, 0x100), THROTTLE_REASONS, strict=True)
)
THROTTLE_POLICIES = (
    "power",
    "thermal",
    "sync_boost",
    "board_limit",
    "low_utilization",
    "reliability",
)
ECC_KINDS = ("corrected", "uncorrected")
RECOVERY_ACTIONS = (
    "none",
    "gpu_reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex_domain",
    "bus_reset",
    "system_reboot",
)


@dataclass(frozen=True, slots=True)
class GpuModes:
    """How a GPU is set up; empty where it is not known.

    Attributes:
        cuda_version: The newest CUDA that the driver runs, for example `12.4`.
        mig_profile: Of a MIG slice, for example `1g.10gb`.
        persistence: `on` or `off`.
        ecc: `on` or `off`.
    """

    cuda_version: str = ""
    mig_profile: str = ""
    persistence: str = ""
    ecc: str = ""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A compute process on a GPU.

    Attributes:
        pid: Its id, in the namespace of the driver.
        name: Of its program; empty where it is not known.
        user: Who runs it; empty where it is not known.
        memory_bytes: Memory of the GPU that it holds, or None where the driver does not report it.
    """

    pid: int
    name: str = ""
    user: str = ""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class XidErrors:
    """The XID errors of one code.

    Attributes:
        xid: NVIDIA's code.
        count: How many came.
        last_timestamp: Unix seconds at which the last one came.
    """

    xid: int
    count: int
    last_timestamp: float


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What one GPU answered, in base units. None is a value that it cannot give.

    Attributes:
        timestamp: Unix seconds at which the values were read.
        utilization_ratio: Share of the last period with a kernel running, 0 to 1.
        memory_used_bytes: Memory in use.
        memory_size_bytes: Memory installed.
        temperature_celsius: Of the GPU die.
        power_watts: Drawn now.
        power_limit_watts: Enforced limit.
        energy_joules: Since the driver was loaded.
        sm_clock_hertz: Clock of the streaming multiprocessors.
        throttle_reasons: Names of the active reasons, some of `THROTTLE_REASONS`,
            or None when the GPU does not report it.
        foreign_processes: Compute processes that no run on this machine has started.
        neighbour_processes: Those that other runs on this machine have started.
        memory_copy_ratio: Share of the last period in which memory was read or written, 0 to 1.
        memory_clock_hertz: Clock of the memory.
        sm_clock_max_hertz: The highest clock of the streaming multiprocessors.
        memory_clock_max_hertz: The highest clock of the memory.
        memory_temperature_celsius: Of the memory.
        fan_ratio: Speed of the fan over the highest one that it is meant for.
        performance_state: From 0, the fastest, to 15.
        throttled_seconds: Since the driver was loaded, by policy (`power`, `thermal`,
            `sync_boost`, `board_limit`, `low_utilization`, `reliability`).
        ecc_errors: Since the driver was loaded, `corrected` and `uncorrected`.
        ecc_lifetime_errors: Since the GPU was made, likewise.
        remapped_rows: Rows of memory that were replaced, by the errors that were the cause.
        row_remap_pending: A row is replaced at the next reset.
        row_remap_failed: A row could not be replaced.
        retired_pages: Pages of memory taken out of use, `single_bit` and `double_bit` by the cause.
        retired_pages_pending: Pages are taken out of use at the next reset.
        recovery_action: What NVIDIA's driver recommends: one of `RECOVERY_ACTIONS`.
        pcie_bytes_per_second: Over the last 20 ms, by direction (`receive`, `transmit`).
        pcie_replays: Transfers over PCIe that were repeated.
        nvlink_bytes: Over all links since the driver was loaded, by direction.
        nvlink_errors: Over all links: `crc`, `replay` and `recovery`.
        processes: The compute processes with their memory and owner.
    """

    timestamp: float
    utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_size_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    sm_clock_hertz: float | None = None
    throttle_reasons: frozenset[str] | None = None
    foreign_processes: int | None = None
    neighbour_processes: int | None = None
    memory_copy_ratio: float | None = None
    memory_clock_hertz: float | None = None
    sm_clock_max_hertz: float | None = None
    memory_clock_max_hertz: float | None = None
    memory_temperature_celsius: float | None = None
    fan_ratio: float | None = None
    performance_state: int | None = None
    throttled_seconds: Mapping[str, float] | None = None
    ecc_errors: Mapping[str, int] | None = None
    ecc_lifetime_errors: Mapping[str, int] | None = None
    remapped_rows: Mapping[str, int] | None = None
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    retired_pages: Mapping[str, int] | None = None
    retired_pages_pending: bool | None = None
    recovery_action: str | None = None
    pcie_bytes_per_second: Mapping[str, float] | None = None
    pcie_replays: int | None = None
    nvlink_bytes: Mapping[str, int] | None = None
    nvlink_errors: Mapping[str, int] | None = None
    processes: tuple[GpuProcess, ...] | None = None

    @property
    def memory_ratio(self) -> float | None:
        """Share of the memory in use, 0 to 1, or None when it is not known."""
        if self.memory_used_bytes is None or not self.memory_size_bytes:
            return None
        return self.memory_used_bytes / self.memory_size_bytes


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU: its identity and its state.

    Attributes:
        gpu: The id used everywhere (`"0"`, `"0:1"` for a MIG slice, `"gpu07/0"` for one of many
            machines), fixed when first seen.
        uuid: NVML's identity of the device.
        name: Model name.
        pci_bus_id: For example `00000000:C3:00.0`.
        driver_version: Of the kernel driver.
        node: The machine it is in, where there are many; else empty.
        up: It answered the latest query, and that answer is fresh.
        sample: Its values, or None when it is not up.
        reasons: Why a value is missing, by the name of the `GpuSample` field; the key `""` is why
            the whole GPU is down.
        errors: NVML errors since the start, by code name.
        minor: The N of its /dev/nvidiaN, which is the same in every container; None if not known.
        modes: How it is set up.
        last_answer_timestamp: Unix seconds of its latest answer that can be believed; None before
            the first, and where that is not known.
        xids: The XID errors that the driver reported since the start, one entry for each code.
    """

    gpu: str
    uuid: str = ""
    name: str = ""
    pci_bus_id: str = ""
    driver_version: str = ""
    node: str = ""
    up: bool = False
    sample: GpuSample | None = None
    reasons: tuple[tuple[str, str], ...] = ()
    errors: tuple[tuple[str, int], ...] = ()
    minor: int | None = None
    modes: GpuModes = field(default_factory=GpuModes)
    xids: tuple[XidErrors, ...] = ()
    last_answer_timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class CollectorHealth:
    """The state of a source of data, separate from the data.

    Attributes:
        success: The latest pass succeeded; None before the first pass.
        duration_seconds: How long it took, or None before the first.
        last_success_timestamp: Unix seconds, or None before the first success.
        failures: Passes that failed.
        reason: Why the latest pass failed, in one line; empty after a success.
    """

    success: bool | None = None
    duration_seconds: float | None = None
    last_success_timestamp: float | None = None
    failures: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """All GPUs at one moment.

    Attributes:
        timestamp: Unix seconds.
        backend: `"nvitop"`, `"nvidia-smi"`, `"simulated"` or `"none"`.
        devices: Every GPU that was ever seen, in the order of their ids.
        health: How the monitor itself fares.
    """

    timestamp: float
    backend: str = "none"
    devices: tuple[GpuDevice, ...] = ()
    health: CollectorHealth = field(default_factory=CollectorHealth)

    def is_busy_for_run(self, gpu: str) -> bool:
        """Whether a GPU is known to compute, and for this run alone."""
        samples = (device.sample for device in self.devices if device.gpu == gpu and device.up)
        return any(
            sample is not None
            and sample.foreign_processes == 0
            and not sample.neighbour_processes
            and bool(sample.utilization_ratio)
            for sample in samples
        )
