"""Metrics: catalogue, collectors, exposition, registry, push."""

from virnucpro_exporter.metrics.collectors import GpuCollector, HealthCollector, RunCollector
from virnucpro_exporter.metrics.push import GatewayPusher, TextfileWriter
from virnucpro_exporter.metrics.registry import build_registry

__all__ = [
    "GatewayPusher",
    "GpuCollector",
    "HealthCollector",
    "RunCollector",
    "TextfileWriter",
    "build_registry",
]
