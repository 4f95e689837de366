from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest

from tests import builders
from tests.certificates import Authority, Files
from virnucpro_exporter.errors import ConfigError
from virnucpro_exporter.snapshot import Latest
from virnucpro_exporter.web import MetricsServer
from virnucpro_exporter.web.connections import Limits
from virnucpro_exporter.web.streams import Stream

PATIENCE = 60.0  # seconds until a test gives up
RUN = Latest(builders.running())
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
MUTUAL = TLS + "  client_ca_file: ca.crt\n  client_auth_type: {}\n"
USERS = f"basic_auth_users:\n  alice: {bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that has issued the server's certificate."""
    authority = Authority(tmp_path)
    authority.issue("server")
    return authority


def serve(folder: Path, text: str, head_seconds: float = 20.0) -> MetricsServer:
    """A server with this web configuration, not yet started."""
    config = folder / "web.yml"
    config.write_text(text)
    limits = Limits(head_seconds=head_seconds)
    return MetricsServer(RUN, listen=["127.0.0.1:0"], web_config=config, limits=limits)


def status(
    server: MetricsServer,
    trusted: Path | None = None,
    own: Files | None = None,
    user: str | None = None,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    path: str = "/metrics",
) -> int:
    """The status of one scrape, over TLS where an authority is trusted."""
    address = server.addresses[0]
    client: http.client.HTTPConnection
    if trusted is None:
        client = http.client.HTTPConnection(address, timeout=PATIENCE)
    else:
        context = ssl.create_default_context(cafile=trusted)
        context.maximum_version = newest
        if own is not None:
            context.load_cert_chain(own.cert, own.key)
        client = http.client.HTTPSConnection(address, timeout=PATIENCE, context=context)
    basic = base64.b64encode((user or "").encode()).decode()
    try:
        client.request("GET", path, headers={"Authorization": f"Basic {basic}"} if user else {})
        return client.getresponse().status
    finally:
        client.close()


def refused(ask: Callable[[], int]) -> bool:
    """Whether there is no answer at all."""
    try:
        ask()
    except (OSError, http.client.HTTPException):
        return True
    return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.05)


def test_tls_serves_those_who_trust_it_and_nobody_else(
    tmp_path: Path, authority: Authority
) -> None:
    """Right authority, wrong authority, no TLS at all, and a protocol that is too old."""
    other = Authority(tmp_path, "other")
    with serve(tmp_path, TLS + "  min_version: TLS13\n") as server:
        assert server.urls[0].startswith("https://")
        assert status(server, authority.own.cert) == 200
        assert refused(lambda: status(server, other.own.cert))
        assert refused(lambda: status(server))
        assert refused(lambda: status(server, authority.own.cert, newest=ssl.TLSVersion.TLSv1_2))
        assert status(server, authority.own.cert) == 200


def test_a_handshake_that_never_ends_is_cut_off(tmp_path: Path, authority: Authority) -> None:
    """A client that says nothing loses its connection, and delays nobody meanwhile."""
    with serve(tmp_path, TLS, head_seconds=2.0) as server:
        host, _, port = server.addresses[0].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as silent:
            assert status(server, authority.own.cert) == 200
            assert silent.recv(1) == b""


@pytest.mark.parametrize("optional", [False, True])
def test_client_certificates(tmp_path: Path, authority: Authority, *, optional: bool) -> None:
    """A right one is served, a wrong one never, none only where it is optional."""
    kind = "VerifyClientCertIfGiven" if optional else "RequireAndVerifyClientCert"
    friend, stranger = authority.issue("friend"), Authority(tmp_path, "other").issue("stranger")
    with serve(tmp_path, MUTUAL.format(kind)) as server:
        assert status(server, authority.own.cert, friend) == 200
        assert refused(lambda: status(server, authority.own.cert, stranger))
        assert refused(lambda: status(server, authority.own.cert)) is not optional


@pytest.mark.parametrize("tls", [False, True])
def test_users_need_their_password(tmp_path: Path, authority: Authority, *, tls: bool) -> None:
    """Right, wrong, unknown and missing, with and without TLS, for metrics and live page alike."""
    trusted = authority.own.cert if tls else None
    expected = {"alice:secret": 200, "alice:wrong": 401, "bob:secret": 401, None: 401}
    with serve(tmp_path, (TLS if tls else "") + USERS) as server:
        for user, wanted in expected.items():
            for path in ("/metrics", "/"):
                assert status(server, trusted, user=user, path=path) == wanted


def test_a_changed_file_is_read_again(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """New certificates and users take effect, also late; what is broken changes nothing."""
    with serve(tmp_path, TLS) as server:
        assert status(server, authority.own.cert) == 200
        (tmp_path / "web.yml").write_text("nonsense: 1\n")
        until(lambda: "nonsense: unknown key" in caplog.text)
        assert status(server, authority.own.cert) == 200
        (tmp_path / "web.yml").write_text(TLS.replace("server.", "newer.") + USERS)
        until(lambda: "newer.crt: No such file" in caplog.text)
        successor = Authority(tmp_path, "successor")
        successor.issue("newer")
        until(lambda: not refused(lambda: status(server, successor.own.cert)))
        assert refused(lambda: status(server, authority.own.cert))
        assert status(server, successor.own.cert) == 401
        assert status(server, successor.own.cert, user="alice:secret") == 200
    assert caplog.text.count("nonsense") == 1


@pytest.mark.campaign
@pytest.mark.parametrize("ended_by", ["server", "client", "deadline", "stranger"])
def test_connections_leave_no_garbage(tmp_path: Path, authority: Authority, ended_by: str) -> None:
    """Whatever ends them, nothing of them waits for the garbage collector, which seldom looks."""
    context = ssl.create_default_context(cafile=authority.own.cert)
    with serve(tmp_path, TLS, head_seconds=1.0 if ended_by == "deadline" else 20.0) as server:
        host, _, port = server.addresses[0].rpartition(":")
        assert status(server, authority.own.cert) == 200
        gc.collect()
        before = kept()
        gc.disable()
        try:
            for _ in range(5 if ended_by == "deadline" else 20):
                with socket.create_connection((host, int(port)), timeout=PATIENCE) as plain:
                    if ended_by == "stranger":
                        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                        with contextlib.suppress(ConnectionResetError):
                            plain.recv(100)
                        continue
                    with context.wrap_socket(plain, server_hostname=host) as client:
                        ask = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                        client.sendall(ask[:20] if ended_by == "deadline" else ask)
                        while ended_by != "client" and client.recv(4096):
                            pass
            del plain
            if ended_by != "stranger":
                del client
            until(lambda: kept() <= before)
        finally:
            gc.enable()


def kept() -> int:
    """How many objects of connections there are, whether they are in use or not."""
    kinds = (ssl.SSLObject, ssl.SSLSocket, asyncio.Task, Stream, asyncio.TimerHandle)
    return sum(isinstance(thing, kinds) for thing in gc.get_objects())


def test_a_name_that_is_not_allowed_is_not_served(tmp_path: Path, authority: Authority) -> None:
    """The authority of the client's certificate is right, and none of its names."""
    friend = authority.issue("friend")
    for name, served in (("127.0.0.1", True), ("127.0.0.2", False)):
        text = MUTUAL.format("RequireAndVerifyClientCert") + f"  client_allowed_sans: [{name}]\n"
        with serve(tmp_path, text) as server:
            assert refused(lambda: status(server, authority.own.cert, friend)) is not served


def test_a_file_that_is_emptied_for_a_moment_turns_nothing_off(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS and passwords stay, one line tells, and the whole file takes effect afterwards."""
    caplog.set_level("INFO")
    with serve(tmp_path, TLS + USERS) as server:
        (tmp_path / "web.yml").write_text("")
        until(lambda: "no longer has TLS, passwords; to remove it, restart" in caplog.text)
        assert refused(lambda: status(server))
        assert status(server, authority.own.cert) == 401
        (tmp_path / "web.yml").write_text(TLS + USERS.replace("alice", "bob"))
        until(lambda: "reloaded the web configuration" in caplog.text)
        assert status(server, authority.own.cert, user="bob:secret") == 200
    assert caplog.text.count("the new web configuration is not used") == 1


def test_requests_beyond_the_rate_limit_are_refused(tmp_path: Path) -> None:
    """A burst is served, and the next request has to wait; headers come with every answer."""
    limit = "rate_limit: {interval: 1h, burst: 2}\n"
    header = "http_server_config: {headers: {X-Frame-Options: deny}}\n"
    with serve(tmp_path, limit + header) as server:
        assert [status(server) for _ in range(3)] == [200, 200, 429]
        client = http.client.HTTPConnection(server.addresses[0], timeout=PATIENCE)
        client.request("GET", "/")
        answer = client.getresponse()
        client.close()
    assert answer.getheader("X-Frame-Options") == "deny"
    assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"]


def test_a_wrong_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """The error names the key, and the port stays free."""
    server = serve(tmp_path, TLS)
    with pytest.raises(ConfigError, match=r"web\.yml: tls_server_config\.cert_file: "):
        server.start()
    assert server.addresses == ()
