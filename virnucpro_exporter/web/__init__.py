"""The HTTP server: connections, pages, passwords, TLS and service discovery."""

from virnucpro_exporter.web.server import MetricsServer

__all__ = ["MetricsServer"]
