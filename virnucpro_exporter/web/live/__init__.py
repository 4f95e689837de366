"""The live page: what runs and GPUs do, for people with a browser and without Grafana."""

from virnucpro_exporter.web.live.source import LivePage

__all__ = ["LivePage"]
