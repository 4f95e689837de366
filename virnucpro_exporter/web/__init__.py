"""HTTP server: connections, pages, passwords, TLS, discovery."""

from virnucpro_exporter.web.server import MetricsServer

__all__ = ["MetricsServer"]
