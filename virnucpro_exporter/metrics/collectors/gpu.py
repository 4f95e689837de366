"""The GPUs as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.metrics.collectors.families import (
    Published,
    Value,
    empty,
    family,
    labels,
    labels_each,
)
from virnucpro_exporter.metrics.exposition import Labels
from virnucpro_exporter.snapshot import (
    RECOVERY_ACTIONS,
    THROTTLE_REASONS,
    GpuDevice,
    GpuSample,
    GpuSnapshot,
)
from virnucpro_exporter.text import clean

_VALUES: Sequence[tuple[c.Metric, Callable[[GpuSample], Value]]] = (
    (c.GPU_UTILIZATION, attrgetter("utilization_ratio")),
    (c.GPU_MEMORY_USED, attrgetter("memory_used_bytes")),
    (c.GPU_MEMORY_SIZE, attrgetter("memory_size_bytes")),
    (c.GPU_TEMPERATURE, attrgetter("temperature_celsius")),
    (c.GPU_POWER, attrgetter("power_watts")),
    (c.GPU_POWER_LIMIT, attrgetter("power_limit_watts")),
    (c.GPU_ENERGY, attrgetter("energy_joules")),
    (c.GPU_SM_CLOCK, attrgetter("sm_clock_hertz")),
    (c.GPU_FOREIGN, attrgetter("foreign_processes")),
    (c.GPU_MEMORY_COPY, attrgetter("memory_copy_ratio")),
    (c.GPU_MEMORY_CLOCK, attrgetter("memory_clock_hertz")),
    (c.GPU_SM_CLOCK_MAX, attrgetter("sm_clock_max_hertz")),
    (c.GPU_MEMORY_CLOCK_MAX, attrgetter("memory_clock_max_hertz")),
    (c.GPU_MEMORY_TEMPERATURE, attrgetter("memory_temperature_celsius")),
    (c.GPU_FAN, attrgetter("fan_ratio")),
    (c.GPU_STATE, attrgetter("performance_state")),
    (c.GPU_REMAP_PENDING, attrgetter("row_remap_pending")),
    (c.GPU_REMAP_FAILED, attrgetter("row_remap_failed")),
    (c.GPU_RETIREMENT_PENDING, attrgetter("retired_pages_pending")),
    (c.GPU_PCIE_REPLAYS, attrgetter("pcie_replays")),
)
# Values with a label of their own, whose values are the keys.
_PARTS: Sequence[tuple[c.Metric, Callable[[GpuSample], Mapping[str, Value] | None]]] = (
    (c.GPU_THROTTLED_SECONDS, attrgetter("throttled_seconds")),
    (c.GPU_ECC, attrgetter("ecc_errors")),
    (c.GPU_ECC_LIFETIME, attrgetter("ecc_lifetime_errors")),
    (c.GPU_REMAPPED_ROWS, attrgetter("remapped_rows")),
    (c.GPU_RETIRED_PAGES, attrgetter("retired_pages")),
    (c.GPU_PCIE, attrgetter("pcie_bytes_per_second")),
    (c.GPU_NVLINK, attrgetter("nvlink_bytes")),
    (c.GPU_NVLINK_ERRORS, attrgetter("nvlink_errors")),
)


class GpuCollector(Collector):
    """What every GPU answered.

    Args:
        source: A GPU monitor, or anything else whose `latest()` is a `GpuSnapshot`.
    """

    def __init__(self, source: Published[GpuSnapshot]) -> None:
        self._source = source

    def __repr__(self) -> str:
        return f"GpuCollector({self._source!r})"

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshot."""
        gpus = self._source.latest()
        yield family(c.GPU_MONITOR_INFO, [(labels(backend=gpus.backend), 1)])
        yield family(c.GPU_INFO, ((_identity(d), 1) for d in gpus.devices))
        yield family(c.GPU_UP, ((labels(gpu=d.gpu), d.up) for d in gpus.devices))
        samples = [(labels(gpu=d.gpu), d.sample) for d in gpus.devices if d.up and d.sample]
        for metric, read in _VALUES:
            yield family(metric, [(of_gpu, read(sample)) for of_gpu, sample in samples])
        for metric, parts in _PARTS:
            yield family(metric, _parts(metric, parts, gpus.devices))
        yield family(c.GPU_THROTTLED, _throttled(gpus.devices))
        yield family(c.GPU_RECOVERY, _recovery(gpus.devices))
        xids = [(labels(gpu=d.gpu, xid=str(x.xid)), x) for d in gpus.devices for x in d.xids]
        yield family(c.GPU_XIDS, ((of_xid, x.count) for of_xid, x in xids))
        yield family(c.GPU_XID_LAST, ((of_xid, x.last_timestamp) for of_xid, x in xids))
        yield family(c.GPU_PROCESS_MEMORY, _processes(gpus.devices))
        errors = ((labels(gpu=d.gpu, code=code), n) for d in gpus.devices for code, n in d.errors)
        yield family(c.GPU_ERRORS, errors)

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        values = (metric for metric, _ in _VALUES)
        parts = (metric for metric, _ in _PARTS)
        xids = (c.GPU_XIDS, c.GPU_XID_LAST)
        others = (c.GPU_THROTTLED, c.GPU_RECOVERY, *xids, c.GPU_PROCESS_MEMORY, c.GPU_ERRORS)
        return map(empty, (c.GPU_MONITOR_INFO, c.GPU_INFO, c.GPU_UP, *values, *parts, *others))


def _identity(device: GpuDevice) -> Labels:
    # On one machine that would be its host name, which the target of the scrape has already: as
    # `instance`, and often as a `node` of its own.
    node = {"node": device.node} if device.node else {}
    return labels(
        gpu=device.gpu,
        uuid=device.uuid,
        name=device.name,
        pci_bus_id=device.pci_bus_id,
        driver_version=device.driver_version,
        **asdict(device.modes),
        **node,
    )


def _parts(
    metric: c.Metric,
    read: Callable[[GpuSample], Mapping[str, Value] | None],
    devices: Sequence[GpuDevice],
) -> Iterator[tuple[Labels, Value]]:
    """Each part of a value, for the GPUs that report it."""
    label = metric.labels[-1]
    for device in devices:
        known = read(device.sample) if device.up and device.sample else None
        for part, value in (known or {}).items():
            (of_part,) = labels_each(label, (part,), gpu=device.gpu)
            yield of_part, value


def _recovery(devices: Sequence[GpuDevice]) -> Iterator[tuple[Labels, Value]]:
    for device in devices:
        wanted = device.sample.recovery_action if device.up and device.sample else None
        if wanted is not None:
            sets = labels_each("action", RECOVERY_ACTIONS, gpu=device.gpu)
            for action, of_action in zip(RECOVERY_ACTIONS, sets, strict=True):
                yield of_action, action == wanted


def _processes(devices: Sequence[GpuDevice]) -> Iterator[tuple[Labels, Value]]:
    for device in devices:
        for process in (device.sample.processes if device.up and device.sample else None) or ():
            pid, name = str(process.pid), clean(process.name)
            # Not kept as other label sets are: processes come and go.
            of_process = {"gpu": device.gpu, "pid": pid, "process": name, "user": process.user}
            yield Labels(of_process), process.memory_bytes


def _throttled(devices: Sequence[GpuDevice]) -> Iterator[tuple[Labels, Value]]:
    """Each throttle reason, for the GPUs that report them."""
    for device in devices:
        active = device.sample.throttle_reasons if device.up and device.sample else None
        if active is not None:
            sets = labels_each("reason", THROTTLE_REASONS, gpu=device.gpu)
            for reason, of_reason in zip(THROTTLE_REASONS, sets, strict=True):
                yield of_reason, reason in active
