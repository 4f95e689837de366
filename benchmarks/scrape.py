"""What a scrape costs, beside nvitop-exporter and prometheus_client's own server, in one run.

Run: python benchmarks/scrape.py [--scrapes 100000]

Every server is a process of its own; the client asks as Prometheus does, for OpenMetrics and gzip,
on one kept connection. Times are medians over 100 scrapes after 10.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import importlib
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prometheus_client import CollectorRegistry, Gauge, start_http_server  # noqa: E402 - after the path

from tests import builders  # noqa: E402 - after the path
from tests.nvml_stub.stub import build  # noqa: E402 - after the path
from virnucpro_exporter.gpu.monitor import GPUMonitor  # noqa: E402 - after the path
from virnucpro_exporter.metrics import MetricsServer  # noqa: E402 - after the path
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot  # noqa: E402 - after the path

REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,"
    b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\n\r\n"
)
MIB = 1024 * 1024


class Changing:
    """A source with a newer snapshot at every look."""

    def __init__(self, run: RunSnapshot) -> None:
        self._run = run

    def latest(self) -> RunSnapshot:
        """The same values in a new snapshot."""
        return replace(self._run)


def serve_ours(port: int, gpus: int, kind: str) -> None:
    """Our server, of snapshots that never change or always do, or on the stand-in NVML."""
    run = builders.running(gpus)
    with ExitStack() as stack:
        source = Changing(run) if kind == "changing" else Latest(run)
        monitor: Latest[GpuSnapshot] | GPUMonitor = Latest(builders.gpus_up(gpus))
        if "NVML_STUB_STATE" in os.environ:
            monitor = stack.enter_context(GPUMonitor())
            monitor.wait()
        stack.enter_context(MetricsServer(source, monitor, listen=[f"127.0.0.1:{port}"]))
        threading.Event().wait()


def serve_gauges(port: int, series: int) -> None:
    """prometheus_client's own server of plain gauges, forty to a GPU."""
    registry = CollectorRegistry()
    names = [Gauge(f"gauge_{i}", "A gauge.", ["gpu"], registry=registry) for i in range(48)]
    for number in range(series):
        names[number % 48].labels(str(number // 48)).set(number * 1.5)
    start_http_server(port, "127.0.0.1", registry)
    threading.Event().wait()


def serve_nvitop(port: int) -> None:
    """nvitop-exporter as its command starts it."""
    sys.argv = ["nvitop-exporter", "--bind-address", "127.0.0.1", "--port", str(port)]
    importlib.import_module("nvitop_exporter.cli").main()


@contextmanager
def server(*arguments: object, **environment: str) -> Iterator[tuple[int, psutil.Process]]:
    """One of the servers above, in a process of its own: its port and the process."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", *map(str, (arguments[0], port, *arguments[1:]))]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=quiet, stderr=quiet
    ) as process:
        try:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionError:
                    time.sleep(0.1)
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()


def connect(port: int) -> socket.socket:
    """A connection as Prometheus makes it."""
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def scrape(client: socket.socket) -> tuple[bytes, bool]:
    """One scrape: the body as it was sent, and whether the server keeps the connection."""
    client.sendall(REQUEST)
    with client.makefile("rb") as stream:
        kept, length = stream.readline().startswith(b"HTTP/1.1"), -1
        while (line := stream.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return stream.read(length), kept


def measure(port: int, times: int = 100) -> tuple[float, bytes]:
    """The median of some scrapes in ms, connecting included where needed, and the last text."""
    seconds, body, client = [], b"", connect(port)
    for _ in range(times + max(1, times // 10)):
        begin = time.perf_counter()
        body, kept = scrape(client)
        if not kept:
            client.close()
            client = connect(port)
        seconds.append(time.perf_counter() - begin)
    client.close()
    text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    return 1000 * statistics.median(seconds[-times:]), text


def row(name: str, port: int, times: int = 100) -> float:
    """Measure one server and print its line."""
    median, text = measure(port, times)
    samples = sum(not line.startswith(b"#") for line in text.splitlines())
    print(f"  {name:<44} {median:8.2f} ms {len(text) / 1000:9.1f} kB {samples:7} samples")
    return median


def eight_gpus(stub: dict[str, str]) -> None:
    """All families of 8 GPUs, beside nvitop-exporter on the same stand-in NVML."""
    print("8 GPUs on one stand-in NVML")
    with server("ours", 8, "changing", **stub) as (port, _):
        first = row("ours, each a new snapshot", port)
    with server("ours", 8, "still", **stub) as (port, _):
        again = row("ours, within one snapshot", port)
    with server("nvitop", **stub) as (port, _):
        time.sleep(3.0)  # it has no families before its first samples
        peer = row("nvitop-exporter", port)
    print(f"  ratio: new snapshot {first / peer:.2f}, within one {again / peer:.2f}")


def many_gpus() -> None:
    """1,024 GPUs, beside as many plain gauges of prometheus_client."""
    print("1,024 GPUs")
    with server("ours", 1024, "changing") as (port, _):
        first = row("ours, each a new snapshot", port, 10)
        series = sum(not line.startswith(b"#") for line in measure(port, 1)[1].splitlines())
    with server("ours", 1024, "still") as (port, _):
        row("ours, within one snapshot", port, 10)
    with server("gauges", series) as (port, _):
        peer = row("prometheus_client, as many gauges", port, 10)
    print(f"  ratio: {first / peer:.2f}")


def flat_memory(scrapes: int) -> None:
    """Resident memory over many scrapes."""
    with server("ours", 8, "still") as (port, process):
        client = connect(port)
        begin, points = time.perf_counter(), []
        for number in range(scrapes + 1):
            scrape(client)
            if number % (scrapes // 4) == 0:
                points.append(process.memory_info().rss / MIB)
        rate = scrapes / (time.perf_counter() - begin)
        client.close()
    shown = ", ".join(f"{point:.1f}" for point in points)
    print(f"memory over {scrapes:,} scrapes ({rate:,.0f}/s): {shown} MiB")


def slow_readers() -> None:
    """40 clients that ask for a large scrape and do not read it."""
    print("40 readers of 1,024 GPUs that do not read")
    for name, arguments in (
        ("ours", ("ours", 1024, "still")),
        ("prometheus_client", ("gauges", 44_000)),
    ):
        with server(*arguments) as (port, process), ExitStack() as stack:
            measure(port, 1)
            before = process.memory_info().rss
            for _ in range(40):
                client = stack.enter_context(connect(port))
                # Without gzip: the larger answer.
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            deadline, peak = time.monotonic() + 12.0, before
            while time.monotonic() < deadline:
                peak = max(peak, process.memory_info().rss)
                time.sleep(0.05)
            print(f"  {name:<20} from {before / MIB:.0f} to {peak / MIB:.0f} MiB at most")


def half_open() -> None:
    """400 clients that never end their request."""
    print("400 half-open connections")
    for name, arguments in (("ours", ("ours", 8, "still")), ("prometheus_client", ("gauges", 500))):
        with server(*arguments) as (port, process), ExitStack() as stack:
            clients = [stack.enter_context(connect(port)) for _ in range(400)]
            for client in clients:
                client.sendall(b"GET /metr")
            time.sleep(1.0)
            threads, begin = process.num_threads(), time.monotonic()
            selector = stack.enter_context(selectors.DefaultSelector())
            for client in clients:
                selector.register(client, selectors.EVENT_READ)
            left = len(clients)
            while left and time.monotonic() < begin + 15.0:
                for key, _ in selector.select(0.5):
                    selector.unregister(key.fileobj)
                    left -= 1
            seconds = time.monotonic() - begin + 1.0
            print(f"  {name:<20} {left:4} held after {seconds:4.1f} s, {threads} threads")


def main() -> None:
    """Serve, or print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scrapes", type=int, default=100_000)
    parser.add_argument("--serve", nargs="+")
    options = parser.parse_args()
    if options.serve:
        kind, port, *rest = options.serve
        if library := os.environ.get("STAND_IN"):
            ctypes.CDLL(library)
        servers: dict[str, Callable[[], None]] = {
            "ours": lambda: serve_ours(int(port), int(rest[0]), rest[1]),
            "gauges": lambda: serve_gauges(int(port), int(rest[0])),
            "nvitop": lambda: serve_nvitop(int(port)),
        }
        servers[kind]()
        return
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        state.write_text("count 8\n")
        library = str(build(Path(folder)))
        eight_gpus({"NVML_STUB_STATE": str(state), "STAND_IN": library})
    many_gpus()
    flat_memory(options.scrapes)
    slow_readers()
    half_open()


if __name__ == "__main__":
    main()
