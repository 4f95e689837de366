"""A Prometheus whose past is made of snapshots, so that what it answers never changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.registry import CollectorRegistry

from tests.monitoring.programs import Labels, Prometheus, tool

Line = tuple[str, Labels, float, float]


def scraped(registry: CollectorRegistry, target: Labels, at: float) -> Iterator[Line]:
    """What a scrape of a registry leaves in Prometheus.

    Args:
        registry: Of an exporter.
        target: The labels of the target, `job` and `instance`.
        at: When it is scraped, in Unix seconds.
    """
    yield "up", target, 1.0, at
    for family in registry.collect():
        for sample in family.samples:
            labels = {name: text for name, text in sample.labels.items() if text}
            yield sample.name, labels | target, float(sample.value), at


def remembering(folder: Path, lines: Iterable[Line]) -> Prometheus:
    """A Prometheus that has these samples, and scrapes nothing.

    Args:
        folder: Its own.
        lines: Metric, labels, value and Unix seconds.
    """
    folder.mkdir(parents=True)
    text = folder / "samples.txt"
    with text.open("w") as file:
        for name, labels, value, at in lines:
            pairs = ",".join(f'{label}="{content}"' for label, content in labels.items())
            file.write(f"{name}{{{pairs}}} {value!r} {at:.3f}\n")
        file.write("# EOF\n")
    made = tool("promtool", "tsdb", "create-blocks-from", "openmetrics", text, folder / "data")
    assert made.returncode == 0, made.stdout
    return Prometheus(folder, {})
