"""The node exporter: the GPUs of a machine, without a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from virnucpro_exporter.app.signals import until_signal
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.simulated import demonstration
from virnucpro_exporter.web.server import DEFAULT_LISTEN, MetricsServer

__all__ = ["DEFAULT_LISTEN", "serve"]

log = logging.getLogger(__name__)


def serve(
    listen: Sequence[str], path: str, web_config: str | None, simulated: int | None = None
) -> int:
    """Serve GPU metrics until a signal comes; of this machine's GPUs, or of so many virtual ones.

    Raises:
        UsageError: The endpoint cannot be where it is wanted.
    """
    monitor = GPUMonitor(source=None if simulated is None else demonstration(simulated))
    server = MetricsServer(None, monitor, listen=listen, telemetry_path=path, web_config=web_config)

    def start() -> None:
        server.start()
        log.info("metrics: %s", ", ".join(server.urls))
        monitor.start()

    def stop() -> None:
        monitor.stop()
        server.stop()

    return until_signal(start, stop)
