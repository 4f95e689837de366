from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.snapshot import Latest, Node, RunSnapshot
from virnucpro_exporter.web import MetricsServer, auth
from virnucpro_exporter.web.addresses import bind
from virnucpro_exporter.web.connections import Connections, Limits
from virnucpro_exporter.web.discovery import NodeDiscovery
from virnucpro_exporter.web.http import Request, Response, parse, plain
from virnucpro_exporter.web.live import LivePage, source
from virnucpro_exporter.web.live.page import View

PATIENCE = 60.0  # seconds until a test gives up; nothing is expected to take that long
LOCAL = ["127.0.0.1:0"]
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.01)


def connect(server: MetricsServer) -> socket.socket:
    """A connection to the server."""
    host, _, port = server.addresses[0].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def everything(client: socket.socket) -> bytes:
    """What the server sends until it ends the connection."""
    received = bytearray()
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        received += b"<reset>"
    return bytes(received)


def is_served(client: socket.socket) -> None:
    """Another request on this connection gets its answer."""
    client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")


def ask(
    server: MetricsServer, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer to one request."""
    client = http.client.HTTPConnection(server.addresses[0], timeout=PATIENCE)
    client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = client.getresponse()
    body = response.read()
    client.close()
    return response, body


@pytest.fixture
def run() -> Latest[RunSnapshot]:
    """A run that goes on now."""
    return Latest(builders.running(now=time.time()))


@pytest.fixture
def nodes() -> Latest[tuple[Node, ...]]:
    """A run on this machine alone."""
    return Latest(())


@pytest.fixture
def server(run: Latest[RunSnapshot], nodes: Latest[tuple[Node, ...]]) -> Iterator[MetricsServer]:
    """A server."""
    gpus = Latest(builders.gpus_up(now=time.time()))
    with MetricsServer(run, gpus, listen=LOCAL, nodes=NodeDiscovery(nodes, 9877)) as started:
        yield started


@pytest.fixture
def hasty(run: Latest[RunSnapshot]) -> Iterator[MetricsServer]:
    """A server with short limits, which a client on a busy machine may miss."""
    limits = Limits(head_seconds=0.5, write_seconds=0.5)
    with MetricsServer(run, listen=LOCAL, limits=limits) as started:
        yield started


def test_a_scrape_is_the_newest_snapshot(server: MetricsServer, run: Latest[RunSnapshot]) -> None:
    """What is published between two scrapes is in the second one."""
    assert b'virnucpro_run_state{state="running"} 1.0\n' in ask(server)[1]
    run.publish(builders.finished(now=time.time()))
    assert b'virnucpro_run_state{state="completed"} 1.0\n' in ask(server)[1]


def test_the_client_chooses_format_compression_and_metrics(server: MetricsServer) -> None:
    """OpenMetrics, gzip and `name[]` on request, and the text format otherwise."""
    response, body = ask(server, Accept="application/openmetrics-text", Accept_Encoding="gzip")
    assert response.getheader("Content-Encoding") == "gzip"
    assert str(response.getheader("Content-Type")).startswith("application/openmetrics-text")
    assert gzip.decompress(body).endswith(b"# EOF\n")
    response, body = ask(server, Accept_Encoding="gzip;q=0")
    assert response.getheader("Content-Encoding") is None
    assert body.startswith(b"# HELP ")
    _, body = ask(server, "/metrics?name[]=virnucpro_gpu_up")
    assert body.count(b"# HELP") == 1


OPEN_METRICS = "application/openmetrics-text;version"
ACCEPTED = {
    "Prometheus 2.42": (f"{OPEN_METRICS}=1.0.0", f"{OPEN_METRICS}=0.0.1;q=0.75", "*/*;q=0.1"),
    "Prometheus 3": (
        f"{OPEN_METRICS}=1.0.0;escaping=allow-utf-8;q=0.6",
        f"{OPEN_METRICS}=0.0.1;q=0.5",
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4",
        "text/plain;version=0.0.4;q=0.3",
        "*/*;q=0.2",
    ),
    # With scrape_protocols: [PrometheusProto, PrometheusText1.0.0, PrometheusText0.0.4].
    "Prometheus 3 without OpenMetrics": (
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.5",
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4",
        "text/plain;version=0.0.4;q=0.3",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_each_prometheus_gets_a_format_that_it_names(server: MetricsServer, name: str) -> None:
    """Prometheus 3 refuses an answer whose type it does not know."""
    response, _ = ask(server, Accept=",".join(ACCEPTED[name]))
    text, open_metrics = "text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"
    wanted = text if "without" in name else open_metrics
    assert response.getheader("Content-Type") == f"{wanted}; charset=utf-8"


def test_the_live_page_may_do_nothing_but_load_itself_again(server: MetricsServer) -> None:
    """Its policy allows its own style and script by their hashes, and no other host or frame."""
    response, page = ask(server, "/", Accept_Encoding="gzip")
    policy = str(response.getheader("Content-Security-Policy")).split("; ")
    assert response.getheader("Content-Type") == "text/html; charset=utf-8"
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} < set(policy)
    for name in ("style", "script"):
        text = gzip.decompress(page).partition(f"<{name}>".encode())[2].partition(b"</")[0]
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert ask(server, "/")[1].startswith(b"<!DOCTYPE html>")  # where the client takes no gzip


def test_many_open_pages_are_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for the page, a snapshot costs the run one of them."""
    made: list[View] = []

    def document(view: View) -> str:
        made.append(view)
        return "page"

    monkeypatch.setattr(source, "document", document)
    now = 0.0
    live = LivePage(list, None, clock=lambda: now)
    request = parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [live.answer(request).body for _ in range(50)] == [b"page"] * 50
    assert len(made) == 1
    now = 1.0
    live.answer(request)
    assert len(made) == 2


def test_head_tells_the_length_and_sends_no_body(server: MetricsServer) -> None:
    """The same head as for GET, and then the next answer on the same connection."""
    with connect(server) as client:
        client.sendall(
            b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        first, _, rest = everything(client).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(ask(server, '/')[1])}".encode() in first
    assert rest.startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("GET", "/sd", 200),
        ("HEAD", "/-/ready", 200),
        ("HEAD", "/sd", 200),
        ("GET", "/favicon.ico", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("GET", "//etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("POST", "/sd", 405),
        ("DELETE", "/", 405),
        ("BREW", "/-/healthy", 405),
    ],
)
def test_every_path_and_method_has_its_status(
    server: MetricsServer, method: str, path: str, status: int
) -> None:
    """Nothing but the five pages exists, and nothing but GET and HEAD is done to them."""
    response, _ = ask(server, path, method)
    assert response.status == status
    assert (response.getheader("Allow") == "GET, HEAD") is (status == 405)


def test_the_exporters_of_nodes_are_listed_for_prometheus(
    server: MetricsServer, nodes: Latest[tuple[Node, ...]]
) -> None:
    """In the format of its HTTP service discovery; none is an empty list, not an error."""
    response, body = ask(server, "/sd")
    assert (response.getheader("Content-Type"), body) == ("application/json", b"[]\n")
    odd = 'quo"te\\ \n\udcff'
    nodes.publish((Node("gpu07", "10.0.0.7"), Node("gpu08", "fd00::8"), Node(odd, "gpu09.site")))
    assert json.loads(ask(server, "/sd")[1].decode("ascii")) == [
        {"targets": ["10.0.0.7:9877"], "labels": {"node": "gpu07"}},
        {"targets": ["[fd00::8]:9877"], "labels": {"node": "gpu08"}},
        {"targets": ["gpu09.site:9877"], "labels": {"node": odd}},
    ]
    assert b'href="/sd"' in ask(server, "/")[1]


def test_a_machine_has_no_nodes_to_list() -> None:
    """Whoever asks the exporter of a machine for them gets an error, and no empty list."""
    with MetricsServer(None, None, listen=LOCAL) as server:
        assert ask(server, "/sd")[0].status == 404
        assert b"/sd" not in ask(server, "/")[1]


def test_readiness_follows_the_run(server: MetricsServer, run: Latest[RunSnapshot]) -> None:
    """A run that has gone silent is told, with the reason."""
    run.publish(replace(run.latest(), timestamp=time.time() - 3600.0))
    response, body = ask(server, "/-/ready")
    assert response.status == 503
    assert body.startswith(b"no sign of the run for 36")


def test_a_source_that_fails_is_an_error_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broken source never looks like an idle one, and does not flood the log."""

    class Broken:
        def latest(self) -> RunSnapshot:
            raise RuntimeError("no snapshot")

    with MetricsServer(Broken(), listen=LOCAL) as server:
        for _ in range(3):
            response, body = ask(server)
            assert (response.status, b"no snapshot" in body) == (500, True)
        assert ask(server, "/-/healthy")[0].status == 200
    errors = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 1


def test_a_port_in_use_is_one_line_before_anything_starts(server: MetricsServer) -> None:
    """The error names the address, and no thread is left behind."""
    before = threading.active_count()
    other = MetricsServer(listen=[server.addresses[0]])
    with pytest.raises(UsageError, match=f"cannot listen on {server.addresses[0]}: Address alr"):
        other.start()
    assert threading.active_count() == before
    other.stop()


@pytest.mark.parametrize(
    "path",
    [
        *("metrics", "", "/", "/-/ready", "/-/healthy", "/sd", "/metrics?x", "/metrics#x", "/a b"),
        *("/a%20b", "//metrics", "/a//b", "/../metrics", "/a/./b", "/a/..", "/m\u00e9", "/a\\b"),
        *("/a\n", '/"', "/" + "x" * 1000),
    ],
)
def test_the_metrics_need_a_path_of_their_own(path: str) -> None:
    """A path that another page has, or that clients would not ask for, is refused in one line."""
    with pytest.raises(UsageError, match="use a path such as /metrics") as caught:
        MetricsServer(telemetry_path=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/m", "/metrics/", "/a/b.c", "/.metrics", "/-/metrics", "/~a@b"])
def test_any_path_that_clients_send_as_it_is_will_do(run: Latest[RunSnapshot], path: str) -> None:
    """The metrics are there."""
    with MetricsServer(run, listen=LOCAL, telemetry_path=path) as server:
        assert ask(server, path)[0].status == 200


def test_it_listens_on_every_address_given(run: Latest[RunSnapshot]) -> None:
    """IPv4, and both at once, each with a port of its own and another path."""
    with MetricsServer(run, listen=[*LOCAL, ":0"], telemetry_path="/m") as server:
        assert len(server.addresses) == 2
        for url, address in zip(server.urls, server.addresses, strict=True):
            assert url == f"http://{address}/m"
            client = http.client.HTTPConnection(address, timeout=PATIENCE)
            client.request("GET", "/m")
            assert client.getresponse().status == 200
            client.close()


HOSTILE = {  # what is sent, and the status of the answer where there must be one
    "nothing": (b"", b""),
    "half a request": (b"GET /metrics HT", b""),
    "half the headers": (b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept", b""),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
    "huge line": (b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\n\r\n", b"414"),
    "huge headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n", b""),
    "endless headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 20_000, b""),
    "a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b"405"),
    "smuggling": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + SCRAPE, b""),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_client_is_cut_off_and_delays_nobody(hasty: MetricsServer, attack: str) -> None:
    """While it is connected others are served, and the server ends it by itself."""
    sent, status = HOSTILE[attack]
    with connect(hasty) as client:
        try:
            client.sendall(sent)
        except ConnectionError:
            assert len(sent) > 16384, "only what is too long is cut off while it is sent"
        assert ask(hasty)[0].status == 200
        answer = everything(client)
    assert b"virnucpro_" not in answer
    assert not answer.startswith(b"HTTP/1.1 2")
    assert answer.startswith(b"HTTP/1.1 " + status if status else b"")


def test_a_slow_writer_has_one_deadline_for_all_headers(hasty: MetricsServer) -> None:
    """A byte now and then does not buy more time."""
    with connect(hasty) as client:
        ended = threading.Event()

        def drip() -> None:
            try:
                while not ended.wait(0.05):
                    client.sendall(b"G")
            except OSError:
                ended.set()

        thread = threading.Thread(target=drip)
        thread.start()
        everything(client)
        ended.set()
        thread.join()


def test_a_slow_reader_is_cut_off(run: Latest[RunSnapshot]) -> None:
    """A client that does not read a large answer loses it, and others do not wait for it."""
    run.publish(builders.running(1024))
    with MetricsServer(run, listen=LOCAL) as patient:
        size = len(ask(patient)[1])
    with ExitStack() as stack:
        limits = Limits(write_seconds=0.5)
        server = stack.enter_context(MetricsServer(run, listen=LOCAL, limits=limits))
        before = open_files()
        slow = [stack.enter_context(connect(server)) for _ in range(20)]
        for client in slow:
            client.sendall(SCRAPE)
        assert ask(server, "/-/healthy")[0].status == 200
        until(lambda: open_files() <= before + len(slow))
        for client in slow:
            received = everything(client)
            assert received.endswith(b"<reset>")
            assert len(received) < size


def open_files() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts, and needs no paths


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of a thousand connections in this one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_idle_connections_leave_room_for_a_scrape(run: Latest[RunSnapshot]) -> None:
    """The oldest make room, nothing leaks, and a scrape is answered among them."""
    with MetricsServer(run, listen=LOCAL) as server:
        before = open_files()
        with ExitStack() as stack:
            idle = [stack.enter_context(connect(server)) for _ in range(1000)]
            assert ask(server)[0].status == 200
            until(lambda: open_files() <= before + len(idle) + Limits().connections)
            assert everything(idle[0]) == b""
        until(lambda: open_files() <= before)


def test_connections_dropped_as_they_begin_are_ended() -> None:
    """None is left without an answer and without an end, however early it is dropped."""

    async def respond(_: Request) -> Response:
        return plain(200, "ok")

    async def serve(listener: socket.socket) -> None:
        connections = Connections(respond, lambda: None, Limits())

        async def drop() -> None:  # in every step of the loop
            while True:
                connections.drop_idle()
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(task) for task in (connections.accept(listener), drop())]
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connections.close()

    (listener,) = bind(LOCAL)
    with listener:
        asyncio.run(serve(listener))


def test_half_open_connections_are_freed(hasty: MetricsServer) -> None:
    """All of them are ended by the server once the time for a request is over."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(hasty)) for _ in range(100)]
        for client in clients:
            with contextlib.suppress(ConnectionError):  # its time may be over already
                client.sendall(b"GET /metr")
        assert all(everything(client) in (b"", b"<reset>") for client in clients)


def test_the_connection_idle_for_longest_makes_room(run: Latest[RunSnapshot]) -> None:
    """A connection that was used lately outlives one that was not, whichever came first."""
    with ExitStack() as stack:
        limits = Limits(connections=2)
        server = stack.enter_context(MetricsServer(run, listen=LOCAL, limits=limits))
        first, second = (stack.enter_context(connect(server)) for _ in range(2))
        for client in (second, first):
            is_served(client)
        third = stack.enter_context(connect(server))
        is_served(third)
        is_served(first)
        assert everything(second) == b""


def test_three_hundred_wrong_passwords_cost_a_known_client_nothing(
    run: Latest[RunSnapshot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While none of them is answered, scrapes on kept and on new connections are."""
    go_on = threading.Event()

    def matches(password: bytes, _: bytes) -> bool:
        return password == b"secret" or (go_on.wait(PATIENCE) and False)

    def basic(password: str) -> str:
        return "Basic " + base64.b64encode(f"alice:{password}".encode()).decode()

    monkeypatch.setattr(auth, "_matches", matches)
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{alice: {'$2b$04$' + 'a' * 53}}}\n")
    limits = Limits(connections=128)
    with (
        ExitStack() as stack,
        MetricsServer(run, listen=LOCAL, web_config=config, limits=limits) as server,
    ):
        stack.callback(go_on.set)
        kept = http.client.HTTPConnection(server.addresses[0], timeout=PATIENCE)
        stack.callback(kept.close)
        kept.request("GET", "/metrics", headers={"Authorization": basic("secret")})
        assert kept.getresponse().read()
        strangers = [stack.enter_context(connect(server)) for _ in range(300)]
        for number, stranger in enumerate(strangers):
            with contextlib.suppress(ConnectionError):  # the first have made room
                head = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(str(number))}\r\n\r\n"
                stranger.sendall(head.encode())
        for _ in range(5):
            kept.request("GET", "/metrics", headers={"Authorization": basic("secret")})
            response = kept.getresponse()
            assert (response.status, response.read()[:6]) == (200, b"# HELP")
            assert ask(server, Authorization=basic("secret"))[0].status == 200
        go_on.set()
        # The newest is still there, and is told to come again.
        assert strangers[-1].recv(65536).startswith(b"HTTP/1.1 503")


EXHAUSTED = """
import resource, sys, time
sys.path.insert(0, {root!r})
from tests import builders
from virnucpro_exporter.web import MetricsServer
from virnucpro_exporter.snapshot import Latest
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
with MetricsServer(Latest(builders.running()), listen=["127.0.0.1:0"]) as server:
    print(server.addresses[0], flush=True)
    sys.stdin.readline()
    before = time.process_time()
    time.sleep(1.0)
    print(time.process_time() - before, flush=True)
    sys.stdin.readline()
"""


def test_without_file_descriptors_a_scrape_is_answered_and_no_core_spins() -> None:
    """Idle clients that hold every descriptor make room, and waiting costs no time."""
    code = EXHAUSTED.format(root=str(Path(__file__).parents[2]))
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().rpartition(":")
        for _ in range(100):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
        client = http.client.HTTPConnection(f"{host}:{port}", timeout=PATIENCE)
        client.request("GET", "/metrics")
        assert client.getresponse().read().startswith(b"# HELP")
        client.close()
        process.stdin.write("\n")
        assert float(process.stdout.readline()) < 0.5
        process.stdin.write("\n")
