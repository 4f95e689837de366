"""The bytes of the latest scrape, made once for each snapshot and format."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from isal import igzip
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family

from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.metrics.exposition import Format, render

_LEVEL = 1  # of ISA-L: as small as zlib's level 1, in a tenth of the time
_MOST_FILTERED = 8  # pages of filters, which are the client's choice, are kept beside the others
_Key = tuple[Format, frozenset[str], bool]


class Pages:
    """Renders a registry, and keeps the bytes until a source has a newer snapshot.

    Args:
        registry: What to render.
        sources: Whose snapshots decide whether the bytes are still good.
        max_age: Seconds after which they are made anew in any case: the process's own metrics
            change without a snapshot.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        sources: Sequence[Published[object]],
        max_age: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._sources = tuple(sources)
        self._max_age = max_age
        self._clock = clock
        self._made_from: list[object] = []
        self._made_at = -max_age
        self._kept: dict[_Key, bytes] = {}
        self._families: list[Family] | None = None

    def get(self, form: Format, names: frozenset[str] = frozenset(), *, packed: bool) -> bytes:
        """The exposition.

        Args:
            form: Its format.
            names: Only these families, by the name of the family or of one of its samples; all
                when empty.
            packed: Compressed by gzip.
        """
        self._forget_if_old()
        key = (form, names, packed)
        page = self._kept.get(key)
        if page is None:
            plain = self.get(form, names, packed=False) if packed else self._render(form, names)
            page = igzip.compress(plain, _LEVEL) if packed else plain
            if not names or sum(bool(key[1]) for key in self._kept) < _MOST_FILTERED:
                self._kept[key] = page
        return page

    def _forget_if_old(self) -> None:
        newest = [source.latest() for source in self._sources]
        now = self._clock()
        same = len(newest) == len(self._made_from) and all(map(_is, newest, self._made_from))
        if not same or now - self._made_at >= self._max_age:
            self._kept.clear()
            self._families = None
            self._made_from, self._made_at = newest, now

    def _render(self, form: Format, names: frozenset[str]) -> bytes:
        if not names:
            return render(self._registry.collect(), form)
        # Clients can request any number of names: that must not collect everything each time.
        if self._families is None:
            self._families = list(self._registry.collect())
        return render((f for f in self._families if _wanted(f, names)), form)


def _is(one: object, other: object) -> bool:
    return one is other


def _wanted(family: Family, names: frozenset[str]) -> bool:
    return family.name in names or any(sample.name in names for sample in family.samples)
