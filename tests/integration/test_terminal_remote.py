import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.snapshot import RunState, WorkerState
from virnucpro_exporter.terminal.dashboard import SourceSilentError
from virnucpro_exporter.terminal.remote import HttpOptions, RemoteRun

SCRAPE = """\
virnucpro_run_info{{run_id="r1",processor="command",balancer="stealing"}} 1
virnucpro_run_state{{state="running"}} 1
virnucpro_run_state{{state="completed"}} 0
virnucpro_run_start_timestamp_seconds 900
virnucpro_run_estimated_completion_timestamp_seconds 1060
virnucpro_collector_last_success_timestamp_seconds{{collector="run"}} 1000
virnucpro_run_files{{state="queued"}} 3
virnucpro_run_files{{state="processing"}} 1
virnucpro_run_files{{state="completed"}} 4
virnucpro_run_files{{state="failed"}} 1
virnucpro_worker_up{{gpu="0"}} 1
virnucpro_worker_up{{gpu="1"}} 0
virnucpro_worker_up{{gpu="2"}} 1
virnucpro_worker_inflight_files{{gpu="0"}} 1
virnucpro_worker_starved_seconds_total{{gpu="2"}} {starved}
virnucpro_throughput_sequences_per_second{{gpu="0"}} 12.5
virnucpro_steals_total{{victim="1",thief="0"}} {steals}
virnucpro_gpu_info{{gpu="0",uuid="GPU-a",name="RTX 4090"}} 1
virnucpro_gpu_up{{gpu="0"}} 1
virnucpro_gpu_up{{gpu="1"}} 0
virnucpro_gpu_utilization_ratio{{gpu="0"}} 0.5
"""


class Endpoint(ThreadingHTTPServer):
    """Serves one text to whoever knows the password."""

    body = SCRAPE.format(starved=1, steals=2)
    user = "me:secret"


class Handler(BaseHTTPRequestHandler):
    """Answers for the endpoint."""

    server: Endpoint

    def do_GET(self) -> None:
        """The text, or 401."""
        token = base64.b64encode(self.server.user.encode()).decode()
        allowed = self.headers.get("Authorization") == f"Basic {token}"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(self.server.body.encode() if allowed else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def remote(endpoint: Endpoint, user: str | None = Endpoint.user) -> RemoteRun:
    return RemoteRun(
        f"127.0.0.1:{endpoint.server_address[1]}", HttpOptions(user=user), clock=lambda: 1001.0
    )


def test_a_run_is_rebuilt_from_its_metrics(endpoint: Endpoint) -> None:
    """Numbers, states and GPUs are those of the endpoint; what it leaves out is unknown."""
    source = remote(endpoint)
    run = source.latest()
    assert (run.state, run.files_total, run.eta_seconds) == (RunState.RUNNING, 9, 60.0)
    assert [w.state for w in run.workers] == [WorkerState.BUSY, WorkerState.LOST, WorkerState.IDLE]
    assert [w.throughput for w in run.workers] == [12.5, None, None]
    assert (run.workers[0].work_stolen_to, run.workers[1].work_stolen_from) == (2, 2)
    up, down = source.gpus.latest().devices
    assert up.sample is not None
    assert (up.sample.utilization_ratio, up.sample.power_watts) == (0.5, None)
    assert (down.up, down.sample) == (False, None)


def test_changes_between_scrapes_are_seen(endpoint: Endpoint) -> None:
    """Grown counters tell of steals and starving."""
    source = remote(endpoint)
    assert source.latest().recent_steals == ()
    endpoint.body = SCRAPE.format(starved=3, steals=4)
    run = source.latest()
    assert [(s.source_gpu, s.dest_gpu) for s in run.recent_steals] == [("1", "0")] * 2
    assert run.workers[2].state is WorkerState.STARVED


def test_it_says_when_nobody_answers_and_recovers(endpoint: Endpoint) -> None:
    """A wrong page raises with the time of the last answer; the next good one is shown again."""
    source = remote(endpoint)
    good = source.latest()
    endpoint.body = "<html>"
    with pytest.raises(SourceSilentError) as silent:
        source.latest()
    assert silent.value.since == 1001.0
    endpoint.body = Endpoint.body
    assert source.latest() == good


def test_a_wrong_password_is_told(endpoint: Endpoint) -> None:
    """The reason for no answer is the server's."""
    with pytest.raises(SourceSilentError, match="401"):
        remote(endpoint, user=None).latest()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "ftp://h/metrics"])
def test_only_web_addresses_are_taken(url: str) -> None:
    """Anything but http and https is refused at once."""
    with pytest.raises(UsageError):
        RemoteRun(url)
