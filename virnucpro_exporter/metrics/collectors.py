"""Snapshots as metric families, made anew at every scrape so that no value can outlive its source.

A source is anything with `latest()`. Reading it takes no lock of the scheduler and asks no GPU.
What is None in a snapshot has no sample here.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Protocol, TypeVar

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from virnucpro_exporter import __version__
from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.snapshot import (
    CollectorHealth,
    DurationHistogram,
    GpuDevice,
    GpuSnapshot,
    RunSnapshot,
    WorkerSnapshot,
)

T_co = TypeVar("T_co", covariant=True)
Labels = dict[str, str]
Value = float | None

_ALL_PAIRS_UP_TO = 16  # GPUs
_EXEMPLAR_CHARACTERS = 100  # OpenMetrics allows 128 for the name and the value of all labels


class Source(Protocol[T_co]):
    """Whatever holds the newest of a series of snapshots."""

    def latest(self) -> T_co:
        """The newest snapshot."""


class RunCollector(Collector):
    """The run, its workers and their steals.

    Args:
        source: A coordinator, or anything else whose `latest()` is a `RunSnapshot`.
    """

    def __init__(self, source: Source[RunSnapshot]) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshot."""
        run = self._source.latest()
        yield from _run_families(run)
        workers = [({"gpu": w.gpu}, w) for w in run.workers]
        for metric, read in _WORKER_VALUES:
            yield _family(metric, ((labels, read(w)) for labels, w in workers))
        yield _durations((labels, w.durations) for labels, w in workers)
        for metric, label, values in _WORKER_ENUMS:
            yield _enumerated(metric, label, values, run.workers)
        yield from _steal_families(run)

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        metrics = (*_RUN_METRICS, *(m for m, _ in _WORKER_VALUES), c.FILE_DURATION)
        return map(_empty, (*metrics, *(m for m, _, _ in _WORKER_ENUMS), *_STEAL_METRICS))


class GpuCollector(Collector):
    """What every GPU answered.

    Args:
        source: A GPU monitor, or anything else whose `latest()` is a `GpuSnapshot`.
    """

    def __init__(self, source: Source[GpuSnapshot]) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshot."""
        gpus = self._source.latest()
        yield _family(c.GPU_MONITOR_INFO, [({"backend": gpus.backend}, 1)])
        yield _family(c.GPU_INFO, ((_identity(d), 1) for d in gpus.devices))
        yield _family(c.GPU_UP, (({"gpu": d.gpu}, d.up) for d in gpus.devices))
        samples = [({"gpu": d.gpu}, d.sample) for d in gpus.devices if d.up and d.sample]
        for metric, read in _GPU_VALUES:
            yield _family(metric, ((labels, read(sample)) for labels, sample in samples))
        throttled = (
            ({**labels, "reason": reason}, reason in sample.throttle_reasons)
            for labels, sample in samples
            if sample.throttle_reasons is not None
            for reason in c.THROTTLE_REASONS
        )
        yield _family(c.GPU_THROTTLED, throttled)
        errors = (({"gpu": d.gpu, "code": code}, n) for d in gpus.devices for code, n in d.errors)
        yield _family(c.GPU_ERRORS, errors)

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        values = (metric for metric, _ in _GPU_VALUES)
        return map(
            _empty,
            (c.GPU_MONITOR_INFO, c.GPU_INFO, c.GPU_UP, *values, c.GPU_THROTTLED, c.GPU_ERRORS),
        )


class HealthCollector(Collector):
    """How the sources of data fare, told apart from the data.

    Args:
        sources: By the name of the collector, whatever holds its newest `CollectorHealth`.
    """

    def __init__(self, sources: Mapping[str, Source[CollectorHealth]]) -> None:
        self._sources = dict(sources)

    def collect(self) -> Iterator[Family]:
        """All families of the newest health of each source."""
        newest = [({"collector": name}, s.latest()) for name, s in self._sources.items()]
        for metric, read in _HEALTH_VALUES:
            yield _family(metric, ((labels, read(health)) for labels, health in newest))

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        return (_empty(metric) for metric, _ in _HEALTH_VALUES)


class BuildCollector(Collector):
    """The versions of the exporter and of what it stands on."""

    def __init__(self) -> None:
        # Looked up once: reading a package's metadata takes longer than all the rest of a scrape.
        self._labels = {
            "version": __version__,
            "python_version": platform.python_version(),
            "nvitop_version": importlib.metadata.version("nvitop"),
        }

    def collect(self) -> Iterator[Family]:
        """One constant family."""
        yield _family(c.BUILD_INFO, [(self._labels, 1)])


_RUN_METRICS = (
    c.RUN_INFO,
    c.RUN_STATE,
    c.RUN_START,
    c.RUN_COMPLETION,
    c.RUN_FILES,
    c.LOAD_IMBALANCED,
    c.STALL_THRESHOLD,
)
_WORKER_VALUES: Sequence[tuple[c.Metric, Callable[[WorkerSnapshot], Value]]] = (
    (c.FILES_COMPLETED, attrgetter("files_completed")),
    (c.FILE_FAILURES, attrgetter("file_failures")),
    (c.SEQUENCES, attrgetter("sequences_processed")),
    (c.RESIDUES, attrgetter("residues_processed")),
    (c.THROUGHPUT, attrgetter("throughput")),
    (c.QUEUE_FILES, attrgetter("queue_depth")),
    (c.QUEUE_RESIDUES, attrgetter("queue_residues")),
    (c.WORKER_UP, attrgetter("is_alive")),
    (c.WORKER_INFLIGHT, attrgetter("inflight_files")),
    (c.WORKER_BUSY, attrgetter("busy_seconds")),
    (c.WORKER_STARVED, attrgetter("starved_seconds")),
    (c.WORKER_PROGRESS, attrgetter("last_progress_time")),
    (c.WORKER_STALLED, attrgetter("is_stalled")),
    (c.WORKER_STALLS, attrgetter("stalls")),
    (c.WORKER_RESTARTS, attrgetter("restarts")),
    (c.STEAL_ATTEMPTS, attrgetter("steal_attempts")),
)
_Enumerated = tuple[c.Metric, str, dict[str, Callable[[WorkerSnapshot], Value]]]
_WORKER_ENUMS: Sequence[_Enumerated] = (
    (
        c.STEAL_FAILURES,
        "reason",
        {"empty": attrgetter("steals_empty"), "declined": attrgetter("steals_declined")},
    ),
    (
        c.SECOND_ATTEMPTS,
        "outcome",
        {"won": attrgetter("second_attempts_won"), "lost": attrgetter("second_attempts_lost")},
    ),
)
_STEAL_METRICS = (c.STEALS, c.STOLEN_RESIDUES, c.RESTEALS, c.LATE_RESULTS)
_GPU_VALUES = (
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
_HEALTH_VALUES = (
    (c.COLLECTOR_SUCCESS, attrgetter("success")),
    (c.COLLECTOR_DURATION, attrgetter("duration_seconds")),
    (c.COLLECTOR_LAST_SUCCESS, attrgetter("last_success_timestamp")),
    (c.COLLECTOR_FAILURES, attrgetter("failures")),
)


def _run_families(run: RunSnapshot) -> Iterator[Family]:
    identity = {"run_id": run.run_id, "processor": run.processor, "balancer": run.balancer}
    states = ((state, run.state.value == state) for state in c.RUN_STATES)
    files = zip(
        c.FILE_STATES,
        (run.files_queued, run.files_processing, run.files_completed, run.files_failed),
        strict=True,
    )
    yield _family(c.RUN_INFO, [(identity, 1)])
    yield _family(c.RUN_STATE, (({"state": state}, value) for state, value in states))
    yield _family(c.RUN_START, [({}, run.start_timestamp)])
    yield _family(c.RUN_COMPLETION, [({}, run.estimated_completion_timestamp)])
    yield _family(c.RUN_FILES, (({"state": state}, n) for state, n in files))
    yield _family(c.LOAD_IMBALANCED, [({}, run.load_imbalanced)])
    yield _family(c.STALL_THRESHOLD, [({}, run.stall_threshold)])


def _steal_families(run: RunSnapshot) -> Iterator[Family]:
    gpus = [w.gpu for w in run.workers]
    pairs = itertools.permutations(gpus, 2) if len(gpus) <= _ALL_PAIRS_UP_TO else ()
    zeros = dict.fromkeys(pairs, 0)
    for metric, happened in ((c.STEALS, run.steals), (c.STOLEN_RESIDUES, run.stolen_residues)):
        counts = {**zeros, **dict(happened)}
        yield _family(
            metric, (({"victim": victim, "thief": t}, n) for (victim, t), n in counts.items())
        )
    yield _family(c.RESTEALS, [({}, run.resteals)])
    yield _family(c.LATE_RESULTS, [({}, run.late_results)])


def _enumerated(
    metric: c.Metric,
    label: str,
    values: Mapping[str, Callable[[WorkerSnapshot], Value]],
    workers: Iterable[WorkerSnapshot],
) -> Family:
    """A family with one sample for each worker and value of `label`."""
    return _family(
        metric,
        (({"gpu": w.gpu, label: name}, read(w)) for w in workers for name, read in values.items()),
    )


def _identity(device: GpuDevice) -> Labels:
    return {
        "gpu": device.gpu,
        "uuid": device.uuid,
        "name": device.name,
        "pci_bus_id": device.pci_bus_id,
        "driver_version": device.driver_version,
    }


def _empty(metric: c.Metric) -> Family:
    return Family(metric.family, metric.help, metric.kind, metric.unit)


def _family(metric: c.Metric, values: Iterable[tuple[Labels, Value]]) -> Family:
    """The metric with a sample for every value that is known."""
    family = _empty(metric)
    family.samples = [
        Sample(metric.name, labels, float(value)) for labels, value in values if value is not None
    ]
    return family


def _durations(histograms: Iterable[tuple[Labels, DurationHistogram]]) -> Family:
    """The histogram of file durations; file names appear only as exemplars."""
    metric = c.FILE_DURATION
    family = _empty(metric)
    for labels, histogram in histograms:
        cumulated = list(itertools.accumulate(histogram.counts))
        family.samples += [
            Sample(f"{metric.name}_bucket", {**labels, "le": le}, float(n), None, _exemplar(latest))
            for le, n, latest in zip(c.BUCKETS, cumulated, histogram.exemplars, strict=True)
        ]
        family.samples += [
            Sample(f"{metric.name}_count", labels, float(cumulated[-1])),
            Sample(f"{metric.name}_sum", labels, histogram.total_seconds),
        ]
    return family


def _exemplar(latest: tuple[str, float, float] | None) -> Exemplar | None:
    if latest is None:
        return None
    name, seconds, timestamp = latest
    # Some parsers (prometheus_client 0.26) lose count of escaped quotes in an exemplar.
    shown = name.encode("utf-8", "backslashreplace").decode().replace('"', "'")
    return Exemplar({"file": shown[-_EXEMPLAR_CHARACTERS:]}, seconds, timestamp)
