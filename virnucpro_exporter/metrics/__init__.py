"""Prometheus metrics: the catalogue, the collectors and the server."""
