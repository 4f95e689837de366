"""What is known about the GPUs at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field


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
        throttle_reasons: Names of the active reasons (`sw_power_cap`, `sw_thermal_slowdown`,
            `hw_thermal_slowdown`, `hw_power_brake_slowdown`), or None when the GPU cannot tell.
        foreign_processes: Compute processes that the run did not start.
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

    @property
    def memory_ratio(self) -> float | None:
        """Share of the memory in use, 0 to 1, or None when it is not known."""
        if self.memory_used_bytes is None or not self.memory_size_bytes:
            return None
        return self.memory_used_bytes / self.memory_size_bytes


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """Who a GPU is, and how it fares.

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
        reasons: Why a value is missing, by the name of the `GpuSample` field; the key `""` says why
            the whole GPU is down.
        errors: NVML errors since the start, by code name.
        minor: The N of its /dev/nvidiaN, which is the same in every container; None if not known.
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


@dataclass(frozen=True, slots=True)
class CollectorHealth:
    """How a source of data fares, told apart from the data.

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
            sample is not None and sample.foreign_processes == 0 and bool(sample.utilization_ratio)
            for sample in samples
        )
