"""How the exporter itself fares, as metrics."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from virnucpro_exporter import __version__
from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.metrics.collectors.families import (
    NO_LABELS,
    Published,
    Value,
    empty,
    family,
    labels,
)
from virnucpro_exporter.snapshot import CollectorHealth

_VALUES: Sequence[tuple[c.Metric, Callable[[CollectorHealth], Value]]] = (
    (c.COLLECTOR_SUCCESS, attrgetter("success")),
    (c.COLLECTOR_DURATION, attrgetter("duration_seconds")),
    (c.COLLECTOR_LAST_SUCCESS, attrgetter("last_success_timestamp")),
    (c.COLLECTOR_FAILURES, attrgetter("failures")),
)


class HealthCollector(Collector):
    """The health of the sources of data, in families separate from the data.

    Args:
        sources: The source of the newest `CollectorHealth` of each collector, by its name.
        runs: The health of further runs in progress, by the name of the run.
        linger: The longest time for which the endpoint of a run stays after its end, in seconds;
            None: it is not the endpoint of a run.
    """

    def __init__(
        self,
        sources: Mapping[str, Published[CollectorHealth]],
        runs: Published[Sequence[tuple[str, CollectorHealth]]] | None = None,
        linger: float | None = None,
    ) -> None:
        self._sources = dict(sources)
        self._runs = runs
        self._linger = linger

    def collect(self) -> Iterator[Family]:
        """All families of the newest health of each source."""
        newest = [(labels(collector=name), s.latest()) for name, s in self._sources.items()]
        present = () if self._runs is None else self._runs.latest()
        yield family(c.ENDPOINT_LINGER, [(NO_LABELS, self._linger)])
        newest += [(labels(collector="run", run=name), health) for name, health in present]
        for metric, read in _VALUES:
            yield family(metric, [(of_source, read(health)) for of_source, health in newest])

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        return map(empty, (c.ENDPOINT_LINGER, *(metric for metric, _ in _VALUES)))


class BuildCollector(Collector):
    """The versions of the exporter and of what it stands on."""

    def __init__(self) -> None:
        # Looked up once: reading a package's metadata takes longer than all the rest of a scrape.
        self._labels = labels(
            version=__version__,
            python_version=platform.python_version(),
            nvitop_version=importlib.metadata.version("nvitop"),
        )

    def collect(self) -> Iterator[Family]:
        """One constant family."""
        yield family(c.BUILD_INFO, [(self._labels, 1)])
