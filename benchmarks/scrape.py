"""What a scrape costs: the endpoint beside nvitop-exporter and prometheus_client's own server.

Every server is a process of its own. By default the client sends the requests of Prometheus, for
OpenMetrics and gzip, on one kept connection. It takes about five minutes.

Run: python -m benchmarks.scrape [PART...]
"""

from __future__ import annotations

import gzip
import os
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import dispatch
from benchmarks.servers import free_port, server
from tests import builders
from tests.monitoring.programs import Prometheus, eventually
from tests.nvml_stub.stub import build
from virnucpro_exporter.app.run import SWITCH_SECONDS
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.overview.trail import Trails
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.web.live.page import ShownRun, View, document
from virnucpro_exporter.web.server import MetricsServer

REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,"
    b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\n\r\n"
)
PLAIN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
PAGE = b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
OPEN_PAGES = 50
MIB = 1024 * 1024
MANY_SCRAPES = 100_000
REAL_SCRAPES = 15  # by Prometheus, one a second
PAIRS = 25
DISPATCH_FILES = 50_000


def judge(what: str, value: float, limit: float, unit: str = "") -> None:
    """Print a figure beside its goal."""
    verdict = "" if value <= limit else "MISSED"
    print(f"  {what:<52} {value:9.3g}{unit:<4} goal {limit:g}{unit} {verdict}".rstrip(), flush=True)


def connect(port: int) -> socket.socket:
    """A connection as Prometheus makes it."""
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def scrape(client: socket.socket, request: bytes = REQUEST) -> tuple[bytes, bool]:
    """One scrape: the body as it was sent, and whether the server keeps the connection."""
    client.sendall(request)
    with client.makefile("rb") as stream:
        kept, length = stream.readline().startswith(b"HTTP/1.1"), -1
        while (line := stream.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return stream.read(length), kept


def measure(port: int, times: int = 100, request: bytes = REQUEST) -> tuple[float, bytes]:
    """The median of some scrapes in ms, connecting included where needed, and the last text."""
    seconds, body, client = [], b"", connect(port)
    for _ in range(times + max(1, times // 10)):
        begin = time.perf_counter()
        body, kept = scrape(client, request)
        if not kept:
            client.close()
            client = connect(port)
        seconds.append(time.perf_counter() - begin)
    client.close()
    text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    return 1000 * statistics.median(seconds[-times:]), text


def series(text: bytes) -> int:
    """How many samples a page holds."""
    return sum(not line.startswith(b"#") for line in text.splitlines())


def show(name: str, milliseconds: float, text: bytes) -> None:
    """Print what a scrape took and brought."""
    size = f"{len(text) / 1000:9.1f} kB {series(text):7} samples" if text else ""
    print(f"  {name:<44} {milliseconds:8.2f} ms {size}".rstrip(), flush=True)


def eight_gpus() -> None:
    """All families of 8 GPUs, beside nvitop-exporter on the same stand-in NVML."""
    print("8 GPUs on one stand-in NVML, median of 3 x 100 scrapes in turns")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "state").write_text("count 8\n")
        stub = {"NVML_STUB_STATE": str(folder / "state"), "STAND_IN": str(build(folder))}
        contenders = {
            "ours, each a new snapshot": ("ours", 8, "changing"),
            "ours, within one snapshot": ("ours", 8, "still"),
            "nvitop-exporter": ("nvitop",),
        }
        ports = {
            name: stack.enter_context(server(*words, **stub))[0]
            for name, words in contenders.items()
        }
        eventually(lambda: b"nvitop_" in measure(ports["nvitop-exporter"], 1)[1])
        taken: dict[str, list[float]] = {name: [] for name in ports}
        texts = {}
        for _ in range(3):
            for name, port in ports.items():
                median, texts[name] = measure(port)
                taken[name].append(median)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, median in medians.items():
        show(name, median, texts[name])
    first, again, peer = medians.values()
    judge("payload", len(texts["ours, each a new snapshot"]) / 1000, 60, " kB")
    judge("new snapshot / nvitop-exporter", first / peer, 0.5)
    judge("within one snapshot / nvitop-exporter", again / peer, 0.1)


def by_prometheus(port: int) -> float:
    """The median of Prometheus' `scrape_duration_seconds`, in ms; its first scrape is left out."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Prometheus(Path(folder), {"x": [f"127.0.0.1:{port}"]}) as prometheus,
    ):
        query = "scrape_duration_seconds[10m]"

        def durations() -> list[float]:
            found = prometheus.get("query", query=query)["result"]
            return [float(value) for _, value in found[0]["values"][1:]] if found else []

        eventually(lambda: len(durations()) >= REAL_SCRAPES)
        return 1000 * statistics.median(durations())


def many_gpus() -> None:
    """1,024 GPUs scraped by a real Prometheus, beside as many plain gauges of prometheus_client."""
    print(f"1,024 GPUs, scrape_duration_seconds of Prometheus, median of {REAL_SCRAPES}")
    with server("ours", 1024, "changing") as (port, _):
        _, text = measure(port, 3)
        ours = by_prometheus(port)
        show("ours, each a new snapshot", ours, text)
    with server("gauges", series(text)) as (port, _):
        _, text = measure(port, 1)
        peer = by_prometheus(port)
        show("prometheus_client, as many gauges", peer, text)
    judge("ours / prometheus_client", ours / peer, 0.5)


def dispatch_rate() -> None:
    """How much slower files that take no time are done while Prometheus scrapes every second.

    Prometheus itself runs in both halves of a pair; in one of them nothing listens where it looks.
    """
    print(f"dispatch of {DISPATCH_FILES:,} files, {PAIRS} pairs with and without scrapes")
    sys.setswitchinterval(SWITCH_SECONDS)
    port = free_port()
    # Second attempts at the last files replace a worker in some runs, and not in others.
    settings = SchedulerSettings(second_attempts=False)
    paths = [f"/nowhere/{number:06}.fa" for number in range(DISPATCH_FILES)]

    @contextmanager
    def scraped(coordinator: WorkStealingCoordinator, _folder: str) -> Iterator[None]:
        with MetricsServer(coordinator, listen=[f"127.0.0.1:{port}"]):
            yield

    def seconds(watch: dispatch.Watch | None) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return dispatch.this_package("Noop", paths, folder, beside=watch, settings=settings)

    with (
        tempfile.TemporaryDirectory() as folder,
        Prometheus(Path(folder), {"x": [f"127.0.0.1:{port}"]}) as prometheus,
    ):
        kept = []
        for pair in range(PAIRS):
            order = [None, scraped] if pair % 2 else [scraped, None]
            taken = {watch: seconds(watch) for watch in order}
            kept.append(taken[None] / taken[scraped])
        scrapes = prometheus.query("sum(sum_over_time(up[1h]))")[0][1]
    low, middle, high = (100 * (1 - rate) for rate in statistics.quantiles(kept, n=4)[::-1])
    print(
        f"  loss in the middle half of all pairs: {low:.1f} to {high:.1f} %; {scrapes:.0f} scrapes"
    )
    judge("median loss", middle, 2, " %")


def flat_memory() -> None:
    """Resident memory over many scrapes, a new page each second."""
    with server("ours", 8, "still") as (port, process):
        client = connect(port)
        begin, points = time.perf_counter(), []
        for number in range(MANY_SCRAPES + 1):
            scrape(client)
            if number % (MANY_SCRAPES // 10) == 0:
                points.append(process.memory_info().rss / MIB)
        rate = MANY_SCRAPES / (time.perf_counter() - begin)
        client.close()
    print(f"memory over {MANY_SCRAPES:,} scrapes ({rate:,.0f} a second)")
    print(f"  MiB: {', '.join(f'{point:.1f}' for point in points)}")
    judge("growth after the first tenth", points[-1] - points[1], 1, " MiB")


def slow_readers() -> None:
    """40 clients that request a large scrape and do not read it."""
    print("40 readers of 1,024 GPUs, not compressed, that do not read for 8 s")
    growths = {}
    for name, words in (
        ("ours", ("ours", 1024, "still")),
        ("prometheus_client", ("gauges", 49_000)),
    ):
        with server(*words) as (port, process), ExitStack() as stack:
            _, text = measure(port, 10, PLAIN)  # all that making the page itself needs is there now
            before = peak = process.memory_info().rss
            for _ in range(40):
                stack.enter_context(connect(port)).sendall(PLAIN)
            deadline = time.monotonic() + 8.0
            while time.monotonic() < deadline:
                peak = max(peak, process.memory_info().rss)
                time.sleep(0.05)
            growths[name] = (peak - before) / MIB
            print(f"  {name:<20} from {before / MIB:.0f} to {peak / MIB:.0f} MiB at most")
            if name == "ours":
                page = len(text) / MIB
    judge("growth of ours, goal the size of the page", growths["ours"], round(page, 2), " MiB")


def half_open() -> None:
    """400 clients that never end their request."""
    print("400 half-open connections")
    for name, words in (("ours", ("ours", 8, "still")), ("prometheus_client", ("gauges", 500))):
        with server(*words) as (port, process), ExitStack() as stack:
            clients = [stack.enter_context(connect(port)) for _ in range(400)]
            for client in clients:
                client.sendall(b"GET /metr")
            begin = time.monotonic()
            selector = stack.enter_context(selectors.DefaultSelector())
            for client in clients:
                selector.register(client, selectors.EVENT_READ)
            left, threads = len(clients), 0
            while left and time.monotonic() < begin + 15.0:
                threads = max(threads, process.num_threads())
                for key, _ in selector.select(0.5):
                    selector.unregister(key.fileobj)
                    left -= 1
            seconds = time.monotonic() - begin
            print(f"  {name:<20} {left:4} held after {seconds:4.1f} s, {threads} threads")
            if name == "ours":
                freed = seconds
    judge("until ours has freed them", freed, 10, " s")


def no_descriptors() -> None:
    """A server whose file descriptors are all held by idle clients."""
    print("no file descriptor left")
    with server("ours", 8, "still") as (port, process), ExitStack() as stack:
        limit = process.num_fds() + 20
        process.rlimit(resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(60):
            stack.enter_context(connect(port))
        time.sleep(0.5)
        begin = time.monotonic()
        scrape(stack.enter_context(connect(port)))
        judge("a scrape among 60 idle clients", time.monotonic() - begin, 1, " s")
        used = process.cpu_times()
        time.sleep(2.0)
        now = process.cpu_times()
        busy = (now.user + now.system - used.user - used.system) / 2.0
        judge("share of a core while they wait", busy, 0.05)


def live_page() -> None:
    """What the live page costs, and whether 50 open ones delay a scrape."""
    print("the live page; 8 GPUs, 4 runs, full pictures; then 50 open pages")
    run, gpus, trails = builders.running(8), builders.gpus_up(8), Trails()
    names = [f"run {number}" for number in range(4)]
    for second in range(600):
        devices = (
            replace(d, sample=replace(d.sample, utilization_ratio=(7 * n * second % 13) / 13))
            for n, d in enumerate(gpus.devices)
            if d.sample
        )
        moment = replace(gpus, devices=tuple(devices))
        trails.add(float(second), moment, {run.run_id: run})
    runs = [ShownRun(name, run) for name in names]
    view = View("gpu07", "1.0", runs, gpus, trails, builders.NOW, 599.0)
    begin = time.process_time()
    for _ in range(100):
        page = document(view)
    judge("processor time of a page", 10 * (time.process_time() - begin), 5, " ms")
    judge("its size", len(page.encode()) / 1000, 60, " kB")
    with server("ours", 8, "changing") as (port, _), ExitStack() as stack:
        alone = _slowest(port)
        pages = [stack.enter_context(connect(port)) for _ in range(OPEN_PAGES)]
        over = threading.Event()
        reader = threading.Thread(target=_keep_open, args=(pages, over))
        reader.start()
        beside = _slowest(port)
        over.set()
        reader.join()
    for name, (median, slowest) in (("alone", alone), ("beside 50 open pages", beside)):
        print(f"  a scrape {name:<24} median {median:.2f} ms, 99th percentile {slowest:.2f} ms")
    judge("median beside them / alone", beside[0] / alone[0], 1.2)


def _keep_open(pages: Sequence[socket.socket], over: threading.Event) -> None:
    """Load each page every two seconds, one after the other, as browsers do."""
    while not over.is_set():
        for client in pages:
            scrape(client, PAGE)
            over.wait(2.0 / len(pages))


def _slowest(port: int) -> tuple[float, float]:
    """Median and 99th percentile of 400 scrapes in ms, 20 a second."""
    with connect(port) as client:
        taken = []
        for _ in range(400):
            begin = time.perf_counter()
            scrape(client)
            taken.append(1000 * (time.perf_counter() - begin))
            time.sleep(0.05)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


PARTS: dict[str, Callable[[], None]] = {
    "eight": eight_gpus,
    "many": many_gpus,
    "dispatch": dispatch_rate,
    "memory": flat_memory,
    "slow": slow_readers,
    "half": half_open,
    "descriptors": no_descriptors,
    "page": live_page,
}


def main() -> None:
    """Print the tables of the requested parts, of all by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
