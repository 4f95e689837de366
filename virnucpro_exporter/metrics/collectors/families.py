"""What all collectors make their families with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.metrics.exposition import Labels

T_co = TypeVar("T_co", covariant=True)
Value = float | None

# A sample from all its fields. A scrape has thousands: the constructor, which is a Python function
# for the sake of the defaults, would take a fifth of its time.
make_sample: Callable[[tuple[Any, ...]], Sample] = functools.partial(tuple.__new__, Sample)

# The fields after name, labels, value, timestamp and exemplar: how many depends on the version.
NO_MORE = (None,) * (len(Sample._fields) - 5)
_BARE = (None, None, *NO_MORE)

NO_LABELS = Labels()
# Label sets are kept from one scrape to the next, those of about eight thousand GPUs at most: a
# scrape of more makes all of them anew, which takes most of its time.
_MOST_KEPT = 65_536


class Published(Protocol[T_co]):
    """Whatever holds the newest of a series of snapshots."""

    def latest(self) -> T_co:
        """The newest snapshot."""


@functools.lru_cache(_MOST_KEPT)
def labels(**pairs: str) -> Labels:
    """The label set with these pairs."""
    return Labels(pairs)


@functools.lru_cache(_MOST_KEPT)
def labels_each(name: str, values: tuple[str, ...], **pairs: str) -> tuple[Labels, ...]:
    """A label set with these pairs for each value of another label."""
    return tuple(Labels({**pairs, name: value}) for value in values)


def empty(metric: c.Metric) -> Family:
    """The metric without a sample."""
    return Family(metric.family, metric.help, metric.kind, metric.unit)


def family(metric: c.Metric, values: Iterable[tuple[Labels, Value]]) -> Family:
    """The metric with a sample for every value that is known."""
    made, name = empty(metric), metric.name
    made.samples = [
        make_sample((name, labels, float(value)) + _BARE)  # noqa: RUF005 - unpacking is a fifth slower
        for labels, value in values
        if value is not None
    ]
    return made
