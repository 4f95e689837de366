from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tests import builders
from virnucpro_exporter.metrics.exposition import Format
from virnucpro_exporter.metrics.health import RunHealth, why_not_ready
from virnucpro_exporter.snapshot import CollectorHealth, GpuSnapshot, Latest, RunSnapshot, RunState
from virnucpro_exporter.web.pages import Pages


class Counting(Collector):
    """Exposes how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def collect(self) -> Iterator[Metric]:
        """Two families, the first with the count."""
        self.times += 1
        yield GaugeMetricFamily("times", "Asked.", value=self.times)
        yield GaugeMetricFamily("other", "Another.", value=0)


class Clock:
    """Time that a test moves."""

    now = 100.0


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cell() -> Latest[object]:
    return Latest(object())


@pytest.fixture
def pages(counting: Counting, cell: Latest[object], clock: Clock) -> Pages:
    registry = CollectorRegistry()
    registry.register(counting)
    counting.times = 0
    return Pages(registry, [cell], clock=lambda: clock.now)


def test_a_page_is_made_once_for_a_snapshot_and_format(pages: Pages, counting: Counting) -> None:
    """Repeated scrapes get the same bytes, compressed ones too."""
    first = pages.get(Format.TEXT, packed=True)
    assert pages.get(Format.TEXT, packed=True) is first
    assert gzip.decompress(first) == pages.get(Format.TEXT, packed=False)
    assert counting.times == 1
    pages.get(Format.OPENMETRICS, packed=False)
    assert counting.times == 2


def test_a_new_snapshot_makes_a_new_page(pages: Pages, cell: Latest[object]) -> None:
    """What was published after the page was made is in the next scrape."""
    first = pages.get(Format.TEXT, packed=False)
    cell.publish(object())
    assert pages.get(Format.TEXT, packed=False) != first


def test_no_page_outlives_a_second(pages: Pages, clock: Clock) -> None:
    """The process's own metrics move on when the sources stand still."""
    first = pages.get(Format.TEXT, packed=False)
    clock.now += 0.9
    assert pages.get(Format.TEXT, packed=False) is first
    clock.now += 0.1
    assert pages.get(Format.TEXT, packed=False) != first


def test_a_filter_selects_families(pages: Pages) -> None:
    """Only families that were asked for by name are served, and unknown names serve none."""
    page = pages.get(Format.TEXT, frozenset(["other"]), packed=False)
    assert page == b"# HELP other Another.\n# TYPE other gauge\nother 0.0\n"
    assert pages.get(Format.TEXT, frozenset(["unknown"]), packed=False) == b""


def test_other_filters_collect_nothing_anew(pages: Pages, counting: Counting) -> None:
    """A client that asks for ever other names costs no more than one scrape a snapshot."""
    for number in range(100):
        pages.get(Format.TEXT, frozenset({"times", str(number)}), packed=False)
    assert counting.times == 1


def test_filters_neither_fill_the_memory_nor_cost_others_their_page(pages: Pages) -> None:
    """However many filters clients think up, few pages are kept, and the whole one is."""
    for number in range(100):
        pages.get(Format.TEXT, frozenset([str(number)]), packed=True)
    assert len(pages._kept) <= 8
    whole = pages.get(Format.TEXT, packed=True)
    assert pages.get(Format.TEXT, packed=True) is whole


LATE = builders.NOW + 120.0
ALL_LOST = replace(
    builders.gpus_up(),
    devices=tuple(
        replace(device, up=False, sample=None, reasons=(("", "GPU_IS_LOST"),))
        for device in builders.gpus_up().devices
    ),
)


@pytest.mark.parametrize(
    ("run", "gpus", "now", "reason"),
    [
        (builders.running(), builders.gpus_up(), builders.NOW, ""),
        (builders.running(), None, builders.NOW, ""),
        (builders.running(), builders.no_gpus(), builders.NOW, ""),
        (builders.finished(), None, LATE, ""),
        (None, builders.gpus_up(), builders.NOW, ""),
        (builders.running(), None, LATE, "no sign of the run for 120 s"),
        (None, builders.gpus_up(), LATE, "the latest GPU sample is too old"),
        (None, ALL_LOST, builders.NOW, "no GPU answers (GPU 0: GPU_IS_LOST)"),
        (None, GpuSnapshot(builders.NOW), builders.NOW, "no GPU has been sampled yet"),
        (
            None,
            builders.no_gpus(),
            builders.NOW,
            "the GPUs cannot be sampled: NVML Shared Library Not Found",
        ),
    ],
)
def test_readiness_tells_why_not(
    run: RunSnapshot | None, gpus: GpuSnapshot | None, now: float, reason: str
) -> None:
    """Fresh samples and a fresh run are ready; anything else has a reason in words."""
    assert why_not_ready(run, gpus, now) == reason


def test_a_silent_coordinator_fails_and_an_ended_run_does_not() -> None:
    """The health of the run is the age of its snapshots, until it has ended."""
    run = builders.running()
    health = RunHealth(Latest(run), lambda: LATE).latest()
    assert health == CollectorHealth(success=False, last_success_timestamp=builders.NOW)
    ended = replace(run, state=RunState.FAILED)
    assert RunHealth(Latest(ended), lambda: LATE).latest().success
