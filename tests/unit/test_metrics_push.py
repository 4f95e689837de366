from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import builders
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.metrics import GatewayPusher, TextfileWriter, build_registry
from virnucpro_exporter.metrics.push import Periodic
from virnucpro_exporter.snapshot import Latest

CELL = Latest(builders.running())
REGISTRY = build_registry(CELL, process=False)


class Gateway(HTTPServer):
    """Keeps what is pushed, or answers with a status of the test's choice."""

    def __init__(self) -> None:
        self.status = 200
        self.pushed: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.pushed.append((self.path, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_textfile_holds_the_end_of_the_run(tmp_path: Path) -> None:
    """When the writer is stopped, the newest snapshot is on disk, and nothing else beside it."""
    path = tmp_path / "virnucpro.prom"
    cell = Latest(builders.running())
    with TextfileWriter(build_registry(cell, process=False), path, interval=3600.0):
        cell.publish(builders.finished())
    families = {f.name: f for f in text_string_to_metric_families(path.read_text())}
    state = {s.labels["state"]: s.value for s in families["virnucpro_run_state"].samples}
    assert state["completed"] == 1
    assert not any(name.startswith(("process_", "python_")) for name in families)
    assert list(tmp_path.iterdir()) == [path]


def test_a_push_replaces_what_this_machine_pushed(gateway: Gateway) -> None:
    """The gateway gets the metrics under the job and the name of the machine."""
    with GatewayPusher(REGISTRY, gateway.url, interval=3600.0):
        pass
    assert len(gateway.pushed) in (1, 2)
    for path, body in gateway.pushed:
        assert path.startswith("/metrics/job/virnucpro_exporter/instance/")
        assert b"virnucpro_run_state{" in body


def test_failures_are_counted_and_logged_once(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway that is away for three pushes is one warning, and its return another."""
    caplog.set_level(logging.INFO)
    pusher = GatewayPusher(REGISTRY, gateway.url)
    gateway.status = 500
    for _ in range(3):
        pusher.send_once()
    gateway.status = 200
    for _ in range(2):
        pusher.send_once()
    assert pusher.failures == 3
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"cannot send metrics to {gateway.url}: ")
    assert second == f"metrics reach {gateway.url} again"


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    """A folder that went away is a failure that is counted."""
    folder = tmp_path / "gone"
    folder.mkdir()
    writer = TextfileWriter(REGISTRY, folder / "virnucpro.prom")
    folder.rmdir()
    writer.send_once()
    assert writer.failures == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: TextfileWriter(REGISTRY, folder / "metrics.txt"),
        lambda folder: TextfileWriter(REGISTRY, folder / "no" / "metrics.prom"),
        lambda folder: TextfileWriter(REGISTRY, folder / "metrics.prom", interval=0.0),
        lambda _: GatewayPusher(REGISTRY, "localhost:9091"),
        lambda _: GatewayPusher(REGISTRY, "http://localhost:9091", interval=-1.0),
    ],
)
def test_targets_that_cannot_work_are_refused(
    make: Callable[[Path], Periodic], tmp_path: Path
) -> None:
    """What can be known before the run is said before the run."""
    with pytest.raises(UsageError):
        make(tmp_path)
