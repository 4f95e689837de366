"""The node exporter: the GPUs of a machine, without a run."""

from __future__ import annotations

import logging

from virnucpro_exporter.app.signals import until_signal
from virnucpro_exporter.config import Endpoint
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.simulated import demonstration
from virnucpro_exporter.web.server import MetricsServer

log = logging.getLogger(__name__)


def serve(endpoint: Endpoint, simulated: int | None = None) -> int:
    """Serve GPU metrics until a signal comes; of this machine's GPUs, or of so many virtual ones.

    Raises:
        UsageError: The endpoint cannot be where it is wanted.
    """
    monitor = GPUMonitor(
        source=None if simulated is None else demonstration(simulated),
        links=endpoint.gpu_links,
        processes=endpoint.gpu_processes,
    )
    server = MetricsServer(
        None,
        monitor,
        listen=endpoint.web_listen_address,
        telemetry_path=endpoint.web_telemetry_path,
        web_config=endpoint.web_config_file,
    )

    def start() -> None:
        server.start()
        log.info("metrics: %s", ", ".join(server.urls))
        monitor.start()

    def stop() -> None:
        monitor.stop()
        server.stop()

    return until_signal(start, stop)
