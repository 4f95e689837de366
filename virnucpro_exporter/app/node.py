"""The node exporter: the GPUs of a machine, and the runs that come and go on it."""

from __future__ import annotations

import logging
import os

from virnucpro_exporter.app.signals import until_signal
from virnucpro_exporter.config import Serve
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.simulated import demonstration
from virnucpro_exporter.registry.finder import RunFinder
from virnucpro_exporter.registry.folder import for_serve
from virnucpro_exporter.registry.storage import RunStorage, state_folder
from virnucpro_exporter.web.discovery import RunDiscovery, RunTarget
from virnucpro_exporter.web.server import MetricsServer

log = logging.getLogger(__name__)


def serve(config: Serve, simulated: int | None = None) -> int:
    """Serve metrics of GPUs and runs until a signal comes.

    Args:
        config: Where, and which runs.
        simulated: How many virtual GPUs to show in place of this machine's, or None.

    Raises:
        UsageError: The endpoint cannot be where it is wanted, or runs not be looked for.
    """
    finder = RunFinder(
        for_serve(config.run_registry, os.environ),
        config.keep_seconds,
        RunStorage(state_folder(config.state_dir, os.environ)),
    )
    monitor = GPUMonitor(
        source=None if simulated is None else demonstration(simulated),
        links=config.gpu_links,
        processes=config.gpu_processes,
        runs=finder.processes,
    )
    server = MetricsServer(
        None,
        monitor,
        listen=config.web_listen_address,
        telemetry_path=config.web_telemetry_path,
        web_config=config.web_config_file,
        runs=finder,
        nodes=RunDiscovery(_Targets(finder)),
    )

    def start() -> None:
        server.start()
        log.info("metrics: %s", ", ".join(server.urls))
        finder.start()
        monitor.start()

    def stop() -> None:
        finder.stop()
        monitor.stop()
        server.stop()

    return until_signal(start, stop)


class _Targets:
    """The runs that serve by themselves, as the page for Prometheus reads them."""

    def __init__(self, finder: RunFinder) -> None:
        self._finder = finder

    def latest(self) -> list[RunTarget]:
        """Those that go on."""
        found = ((kept.name, kept.record.address) for kept in self._finder.live())
        return [
            RunTarget(name, at.port, at.path, at.scheme, at.is_local)
            for name, at in found
            if at is not None
        ]
