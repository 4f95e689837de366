"""Prometheus metrics: the catalogue, the collectors and the server."""

from virnucpro_exporter.metrics.collectors import GpuCollector, HealthCollector, RunCollector
from virnucpro_exporter.metrics.push import GatewayPusher, TextfileWriter
from virnucpro_exporter.metrics.registry import build_registry
from virnucpro_exporter.metrics.server import MetricsServer

__all__ = [
    "GatewayPusher",
    "GpuCollector",
    "HealthCollector",
    "MetricsServer",
    "RunCollector",
    "TextfileWriter",
    "build_registry",
]
