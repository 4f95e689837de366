import base64
import logging
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bcrypt
import pytest

from tests import builders
from tests.certificates import Authority
from tests.run_program import PROGRAM, call
from virnucpro_exporter.csv_log.writer import format_rows
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.remote.client import HttpOptions, RemoteMachine
from virnucpro_exporter.snapshot import (
    GpuSnapshot,
    Latest,
    RunEnd,
    RunResult,
    RunSnapshot,
    RunState,
    SourceSilentError,
    WorkerState,
)
from virnucpro_exporter.web.server import MetricsServer

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
virnucpro_files_stolen_from_total{{gpu="1"}} {steals}
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


def seen(source: RemoteMachine) -> RunSnapshot:
    """The run of an endpoint that has one of its own."""
    return source.latest().runs[""]


def remote(endpoint: Endpoint, user: str | None = Endpoint.user) -> RemoteMachine:
    return RemoteMachine(
        f"127.0.0.1:{endpoint.server_address[1]}", HttpOptions(user=user), clock=lambda: 1001.0
    )


def test_a_run_is_rebuilt_from_its_metrics(endpoint: Endpoint) -> None:
    """Numbers, states and GPUs are those of the endpoint; what it leaves out is unknown."""
    source = remote(endpoint)
    machine = source.latest()
    run = machine.runs[""]
    assert (run.state, run.files_total, run.eta_seconds) == (RunState.RUNNING, 9, 60.0)
    assert [w.state for w in run.workers] == [WorkerState.BUSY, WorkerState.LOST, WorkerState.IDLE]
    assert [w.throughput for w in run.workers] == [12.5, None, None]
    assert (run.workers[0].work_stolen_to, run.workers[1].work_stolen_from) == (2, 2)
    up, down = machine.gpus.devices
    assert up.sample is not None
    assert (up.sample.utilization_ratio, up.sample.memory_used_bytes) == (0.5, None)
    assert (down.up, down.sample) == (False, None)


def test_changes_between_scrapes_are_seen(endpoint: Endpoint) -> None:
    """Grown counters tell of steals and starving."""
    source = remote(endpoint)
    assert seen(source).recent_steals == ()
    endpoint.body = SCRAPE.format(starved=3, steals=4)
    run = seen(source)
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


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://", "ftp://h/metrics", "http://h:99999", "http://h:x/"]
)
def test_only_web_addresses_are_taken(url: str) -> None:
    """Anything but http and https is refused at once."""
    with pytest.raises(UsageError):
        RemoteMachine(url)


def test_what_waiting_will_not_change_is_one_line(endpoint: Endpoint) -> None:
    """A page that is no metrics and a missing password end it; a dead port does not."""
    with pytest.raises(UsageError, match=r"\A.* answers 401 .*; give --user NAME:PASSWORD\Z"):
        remote(endpoint, user=None).check()
    for body in ("<html>", "process_start_time_seconds 1\n"):
        endpoint.body = body
        with pytest.raises(UsageError, match=r"\A.*not from this program.*\Z"):
            remote(endpoint).check()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        RemoteMachine(f"127.0.0.1:{unused.getsockname()[1]}").check()


def test_stalls_and_losses_are_told_once(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """The watcher's log has what the run's own log has."""
    caplog.set_level(logging.INFO)
    source = remote(endpoint)
    for stalled in (0, 1, 1, 0):
        endpoint.body = Endpoint.body + f'virnucpro_worker_stalled{{gpu="0"}} {stalled}\n'
        source.latest()
    assert caplog.messages == [
        "GPU 1 lost its worker", "GPU 0 stalled", "GPU 0 recovered from a stall"
    ]  # fmt: skip


# -- against the real endpoint --


def serve(folder: Path, web: str = "", listen: str = "127.0.0.1:0") -> MetricsServer:
    config = folder / "web.yml"
    config.write_text(web)
    run, gpus = Latest(builders.stalled()), Latest(builders.gpus_up())
    return MetricsServer(run, gpus, listen=[listen], web_config=config if web else None)


def test_what_the_real_endpoint_tells_is_what_the_run_knows(tmp_path: Path) -> None:
    """Seen from afar, a run has the same workers, GPUs and counts."""
    with serve(tmp_path) as server:
        source = RemoteMachine(server.urls[0], clock=lambda: builders.NOW)
        machine, known = source.latest(), builders.stalled()
    for name in ("files_total", "files_failed", "state", "work_imbalanced", "eta_seconds"):
        assert getattr(machine.runs[""], name) == getattr(known, name), name
    for name in (
        "gpu", "name", "state", "is_stalled", "queue_depth", "files_completed", "throughput",
        "work_stolen_to", "work_stolen_from",
    ):  # fmt: skip
        wanted = [getattr(worker, name) for worker in known.workers]
        assert [getattr(worker, name) for worker in machine.runs[""].workers] == wanted, name
    ratios = [d.sample and d.sample.memory_ratio for d in machine.gpus.devices]
    assert ratios == [d.sample and d.sample.memory_ratio for d in builders.gpus_up().devices]


def test_an_endpoint_that_comes_back_is_shown_again(tmp_path: Path) -> None:
    """While it is gone there are no values; then there are."""
    with serve(tmp_path, listen="127.0.0.8:0") as server:  # nothing else takes its port meanwhile
        source = RemoteMachine(server.urls[0])
        source.latest()
    with pytest.raises(SourceSilentError):
        source.latest()
    with serve(tmp_path, listen=server.addresses[0]):
        assert seen(source).workers


def ask(source: RemoteMachine) -> None:
    """Ask as `watch` does: first whether waiting is any use, then for the values."""
    source.check()
    source.latest()


@pytest.mark.parametrize(
    ("run", "gpus"),
    [
        (builders.running(), builders.gpus_up()),
        (builders.stalled(), builders.gpu_lost()),
        (builders.idle(), builders.no_gpus()),
        (builders.lost_worker(), builders.gpus_up(3)),
    ],
)
def test_the_log_agrees_with_a_scrape_of_the_same_moment(
    run: RunSnapshot, gpus: GpuSnapshot
) -> None:
    """Every cell of the log is what the endpoint says, and empty where it says nothing."""
    with MetricsServer(Latest(run), Latest(gpus), listen=["127.0.0.1:0"]) as server:
        scraped = RemoteMachine(server.urls[0]).latest()
        rows = format_rows(scraped.runs[""], scraped.gpus, builders.NOW)
    assert rows == format_rows(run, gpus, builders.NOW)


def test_tls_and_passwords_are_those_of_curl(tmp_path: Path) -> None:
    """Authority, client certificate and user open the endpoint; each that is wrong is told."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    authority.issue("server")
    friend = authority.issue("friend")
    hashed = bcrypt.hashpw(b"s:ecret", bcrypt.gensalt(4)).decode()
    web = (
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt,"
        f" client_auth_type: RequireAndVerifyClientCert}}\nbasic_auth_users: {{alice: {hashed}}}\n"
    )
    right = HttpOptions(
        cacert=authority.own.cert, cert=friend.cert, key=friend.key, user="alice:s:ecret"
    )
    with serve(tmp_path, web) as server:
        url = server.urls[0]
        assert seen(RemoteMachine(url, right)).workers
        assert seen(RemoteMachine(url, replace(right, cacert=None, insecure=True))).workers
        named = RemoteMachine(url.replace("//", "//alice:s%3Aecret@"), replace(right, user=None))
        assert seen(named).workers
        assert "ecret" not in named.url
        for wrong, told in (
            (replace(right, cacert=other.own.cert), "not trusted"),
            (replace(right, cert=None, key=None), "TLS|certificate|reset|closed"),
            (replace(right, user="alice:wrong"), "answers 401"),
        ):
            with pytest.raises((UsageError, SourceSilentError), match=told):
                ask(RemoteMachine(url, wrong))
    with pytest.raises(UsageError, match=r"nowhere\.pem.*No such file"):
        RemoteMachine(url, replace(right, cert=tmp_path / "nowhere.pem"))


def test_a_host_name_alone_means_the_usual_port() -> None:
    """A name, an address with or without brackets and user; a whole URL is taken as it is."""
    urls = ("gpu7", "10.0.0.7", "[fd00::7]", "me:x@gpu7/path", "gpu7:9000", "http://gpu7")
    assert [RemoteMachine(url).name for url in urls] == [
        *("gpu7:9877", "10.0.0.7:9877", "[fd00::7]:9877", "gpu7:9877", "gpu7:9000", "gpu7")
    ]


def test_all_runs_of_a_machine_are_told_apart() -> None:
    """`serve` shows each run by its name, and the GPUs of the machine once."""
    one = replace(builders.running(2), name="plankton")
    end = RunEnd(builders.NOW, RunResult.FAILED, 1)
    other = replace(builders.finished(1), name="soil", end=end)
    runs = Latest((one, other))
    with MetricsServer(
        None, Latest(builders.gpus_up(3)), runs=runs, listen=["127.0.0.1:0"]
    ) as server:
        machine = RemoteMachine(server.addresses[0]).latest()
    assert set(machine.runs) == {"plankton", "soil"}
    plankton, soil = machine.runs["plankton"], machine.runs["soil"]
    assert [worker.gpu for worker in plankton.workers] == ["0", "1"]
    assert (plankton.end, plankton.files_total) == (None, one.files_total)
    assert soil.end is not None
    assert soil.end.result is RunResult.FAILED
    assert len(machine.gpus.devices) == 3
    sample = machine.gpus.devices[0].sample
    assert sample is not None
    assert (sample.temperature_celsius, sample.power_watts) == (61.0, 287.5)


@pytest.mark.parametrize(("result", "status"), [(RunResult.COMPLETED, 0), (RunResult.FAILED, 1)])
def test_watch_ends_with_the_run_and_says_how(result: RunResult, status: int) -> None:
    """Its last line is the end of the run, and its status that of the run."""
    end = RunEnd(builders.NOW, result, status)
    run = Latest(replace(builders.finished(2), end=end))
    with MetricsServer(run, Latest(builders.gpus_up()), listen=["127.0.0.1:0"]) as server:
        told = call([*PROGRAM, "watch", server.addresses[0]])
    assert told.returncode == status
    assert " completed: 15/15 files (100%), 1 failed" in told.stderr.splitlines()[-1]


def test_watch_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    """A user sees the address, the reason and what to do, and status 2."""
    with serve(tmp_path) as server:
        told = call([*PROGRAM, "watch", server.urls[0] + "/nothing"])
    assert (told.returncode, told.stdout) == (2, "")
    assert re.fullmatch(r"virnucpro-exporter: .*/metrics/nothing answers 404 .*\n", told.stderr)
