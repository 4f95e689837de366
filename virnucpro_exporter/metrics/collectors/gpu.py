"""The GPUs as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot

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
)


class GpuCollector(Collector):
    """What every GPU answered.

    Args:
        source: A GPU monitor, or anything else whose `latest()` is a `GpuSnapshot`.
    """

    def __init__(self, source: Published[GpuSnapshot]) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshot."""
        gpus = self._source.latest()
        yield family(c.GPU_MONITOR_INFO, [(labels(backend=gpus.backend), 1)])
        yield family(c.GPU_INFO, ((_identity(d), 1) for d in gpus.devices))
        yield family(c.GPU_UP, ((labels(gpu=d.gpu), d.up) for d in gpus.devices))
        samples = [(labels(gpu=d.gpu), d.sample) for d in gpus.devices if d.up and d.sample]
        for metric, read in _VALUES:
            yield family(metric, [(of_gpu, read(sample)) for of_gpu, sample in samples])
        yield family(c.GPU_THROTTLED, _throttled(gpus.devices))
        errors = ((labels(gpu=d.gpu, code=code), n) for d in gpus.devices for code, n in d.errors)
        yield family(c.GPU_ERRORS, errors)

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        values = (metric for metric, _ in _VALUES)
        return map(
            empty,
            (c.GPU_MONITOR_INFO, c.GPU_INFO, c.GPU_UP, *values, c.GPU_THROTTLED, c.GPU_ERRORS),
        )


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
        **node,
    )


def _throttled(devices: Sequence[GpuDevice]) -> Iterator[tuple[Labels, Value]]:
    """Each reason of each GPU that can tell."""
    for device in devices:
        active = device.sample.throttle_reasons if device.up and device.sample else None
        if active is not None:
            sets = labels_each("reason", c.THROTTLE_REASONS, gpu=device.gpu)
            for reason, of_reason in zip(c.THROTTLE_REASONS, sets, strict=True):
                yield of_reason, reason in active
