"""Snapshots as metric families, made anew at every scrape so that no value can outlive its source.

A source is anything with `latest()`. Reading it takes no lock of the scheduler and queries no GPU.
What is None in a snapshot has no sample here.
"""

from virnucpro_exporter.metrics.collectors.families import Published
from virnucpro_exporter.metrics.collectors.gpu import GpuCollector
from virnucpro_exporter.metrics.collectors.health import BuildCollector, HealthCollector
from virnucpro_exporter.metrics.collectors.run import RunCollector, RunsCollector

__all__ = [
    "BuildCollector",
    "GpuCollector",
    "HealthCollector",
    "Published",
    "RunCollector",
    "RunsCollector",
]
