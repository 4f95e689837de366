"""The servers that `benchmarks.scrape` measures, each in a process of its own.

Run by `server` alone: python -m benchmarks.servers KIND PORT ARGUMENT...
"""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import psutil
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests import builders
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot
from virnucpro_exporter.web.server import MetricsServer

FAMILIES = 48  # of plain gauges, each with a series per GPU


class Changing:
    """A source with a newer snapshot at every look."""

    def __init__(self, run: RunSnapshot) -> None:
        self._run = run

    def latest(self) -> RunSnapshot:
        """The same values in a new snapshot."""
        return replace(self._run)


def serve_ours(port: int, gpus: str, kind: str) -> None:
    """Our server, of snapshots that never change or always do, or on the stand-in NVML."""
    run = builders.running(int(gpus))
    with ExitStack() as stack:
        source = Changing(run) if kind == "changing" else Latest(run)
        monitor: Latest[GpuSnapshot] | GPUMonitor = Latest(builders.gpus_up(int(gpus)))
        if "NVML_STUB_STATE" in os.environ:
            monitor = stack.enter_context(GPUMonitor())
            monitor.wait()
        stack.enter_context(MetricsServer(source, monitor, listen=[f"127.0.0.1:{port}"]))
        threading.Event().wait()


def serve_gauges(port: int, series: str) -> None:
    """prometheus_client's own server of plain gauges."""
    registry = CollectorRegistry()
    names = [Gauge(f"gauge_{i}", "A gauge.", ["gpu"], registry=registry) for i in range(FAMILIES)]
    for number in range(int(series)):
        names[number % FAMILIES].labels(str(number // FAMILIES)).set(number * 1.5)
    start_http_server(port, "127.0.0.1", registry)
    threading.Event().wait()


def serve_nvitop(port: int) -> None:
    """nvitop-exporter as its command starts it."""
    sys.argv = ["nvitop-exporter", "--bind-address", "127.0.0.1", "--port", str(port)]
    importlib.import_module("nvitop_exporter.cli").main()


SERVERS: dict[str, Callable[..., None]] = {
    "ours": serve_ours,
    "gauges": serve_gauges,
    "nvitop": serve_nvitop,
}


def free_port() -> int:
    """A port that is free now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@contextmanager
def server(*arguments: object, **environment: str) -> Iterator[tuple[int, psutil.Process]]:
    """One of the servers above: its port and its process.

    Raises:
        RuntimeError: It ended.
    """
    kind, *rest = map(str, arguments)
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.servers", kind, str(port), *rest]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=quiet, stderr=quiet
    ) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionError:
                    if process.poll() is not None:
                        raise RuntimeError(f"{kind} ended by itself") from None
                    time.sleep(0.1)
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()


if __name__ == "__main__":
    if library := os.environ.get("STAND_IN"):
        ctypes.CDLL(library)
    SERVERS[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
