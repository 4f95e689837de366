from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from pathlib import Path

import bcrypt
import pytest

from tests.certificates import Authority
from virnucpro_exporter.errors import ConfigError, UsageError
from virnucpro_exporter.web import auth
from virnucpro_exporter.web.addresses import bind, shown
from virnucpro_exporter.web.auth import BasicAuth
from virnucpro_exporter.web.web_config import WebConfig

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the certificates of an authority and of a server."""
    Authority(tmp_path).issue("server")
    (tmp_path / "broken.pem").write_text("this is no certificate")
    return tmp_path


def read(folder: Path, text: str) -> WebConfig:
    """The configuration with this text."""
    path = folder / "web.yml"
    path.write_text(text)
    return WebConfig(path)


def test_a_file_of_the_exporter_toolkit_is_read(folder: Path) -> None:
    """TLS, client certificates and users; paths count from the file's own folder."""
    text = (
        f"{TLS}  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
        f"  min_version: TLS13\nbasic_auth_users:\n  alice: {HASH}\n"
    )
    config = read(folder, text)
    assert config.tls is not None
    assert config.tls.verify_mode is ssl.CERT_REQUIRED
    assert config.tls.minimum_version is ssl.TLSVersion.TLSv1_3
    assert config.users == {"alice": HASH.encode()}
    assert [file.name for file in config.files] == ["web.yml", "server.crt", "server.key", "ca.crt"]


def test_an_empty_file_asks_for_nothing(folder: Path) -> None:
    """As in the exporter-toolkit, an empty file means plain HTTP for everybody."""
    config = read(folder, "")
    assert (config.tls, config.users) == (None, {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "tls_server_config: {cert_file: server.crt}",
            "tls_server_config.key_file: Field required",
        ),
        ("tls_server_config: {cert: x}", "tls_server_config.cert_file: Field required"),
        (TLS + "  min_version: TLS10", "tls_server_config.min_version: Input should be 'TLS12'"),
        (TLS + "  cipher: x", "tls_server_config.cipher: there is no such key"),
        (TLS + "  client_ca_file: ca.crt", "tls_server_config.client_auth_type: "),
        (TLS + "  client_auth_type: VerifyClientCertIfGiven", "tls_server_config.client_ca_file: "),
        (TLS + "  client_auth_type: RequestClientCert", "tls_server_config.client_auth_type: "),
        (TLS.replace("server.crt", "no.crt"), "tls_server_config.cert_file: "),
        (TLS.replace("server.key", "no.key"), "tls_server_config.key_file: "),
        (TLS.replace("server.key", "ca.key"), "tls_server_config.key_file: not a usable key"),
        (TLS.replace("server.key", "broken.pem"), "tls_server_config.key_file: not a usable key"),
        (
            TLS + "  client_ca_file: broken.pem\n  client_auth_type: RequireAndVerifyClientCert",
            "tls_server_config.client_ca_file: ",
        ),
        ("basic_auth_users: {alice: secret}", "basic_auth_users.alice: this is not a bcrypt hash"),
        ("basic_auth_users: [alice]", "basic_auth_users: "),
        ("users: {}", "users: there is no such key"),
        ("[]", "the file: "),
        ("a: [", "while parsing"),
        ("a: " + "[" * 10_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_wrong_file_is_refused_with_the_path_of_the_key(
    folder: Path, text: str, complaint: str
) -> None:
    """One line says which file, which key and what is wrong."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert f"{folder / 'web.yml'}: {complaint}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(folder: Path) -> None:
    """The line names the file."""
    with pytest.raises(ConfigError, match=r"no\.yml: No such file or directory"):
        WebConfig(folder / "no.yml")


@pytest.mark.parametrize("name", ["web.yml", "server.crt", "server.key", "ca.crt"])
def test_a_change_of_any_of_the_files_is_noticed(folder: Path, name: str) -> None:
    """A renewed file is noticed, and so is one that has gone."""
    mutual = "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
    config = read(folder, TLS + mutual)
    assert not config.has_changed()
    (folder / name).write_text("shorter")
    assert config.has_changed()
    (folder / name).unlink()
    assert config.has_changed()


def test_hashes_of_htpasswd_are_understood() -> None:
    """It marks them $2y$ where the library says $2b$."""
    checker = BasicAuth()
    users = {"alice": HASH.replace("$2b$", "$2y$").encode()}
    assert asyncio.run(checker.allows(header("alice", "secret"), users))
    checker.close()


def header(user: str, password: str) -> str:
    """The Authorization header with these."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (header("alice", "secret"), True),
        (header("alice", "secret").replace("Basic", "bASIC"), True),
        (header("alice", "Secret"), False),
        (header("alice", ""), False),
        (header("alice", "secret" * 20), False),
        (header("alice", "secret\0"), False),
        (header("bob", "secret"), False),
        ("Basic " + base64.b64encode(b"alice").decode(), False),
        ("Basic " + base64.b64encode(b"\xff:secret").decode(), False),
        ("Basic ???", False),
        ("Bearer secret", False),
        ("", False),
    ],
)
def test_only_the_right_password_of_a_known_user_is_allowed(value: str, allowed: object) -> None:
    """Twice, as the second time may be answered from memory."""
    checker = BasicAuth()
    users = {"alice": HASH.encode()}
    answers = [asyncio.run(checker.allows(value, users)) for _ in range(2)]
    checker.close()
    assert answers == [allowed, allowed]


def test_an_unknown_user_costs_as_much_as_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every refusal with a user and a password takes one bcrypt check; a known success none."""
    checked: list[bytes] = []

    def matches(password: bytes, wanted: bytes) -> bool:
        checked.append(wanted)
        return password == b"secret"

    monkeypatch.setattr(auth, "_matches", matches)
    checker = BasicAuth()
    users = {"alice": HASH.encode()}
    for user, password in [("alice", "wrong"), ("bob", "wrong"), ("bob", "secret")]:
        assert not asyncio.run(checker.allows(header(user, password), users))
    assert len(checked) == 3
    for _ in range(3):
        assert asyncio.run(checker.allows(header("alice", "secret"), users))
    assert len(checked) == 4
    other = bcrypt.hashpw(b"new", bcrypt.gensalt(4))
    asyncio.run(checker.allows(header("alice", "secret"), {"alice": other}))
    assert checked[-1] == other, "a changed password makes a remembered one worthless"
    checker.close()


@pytest.mark.parametrize(
    "address", ["9877", "host", ":", ":99999", "::1:9877", "[::1]", ":-1", "a:b"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """The line says how an address is written."""
    with pytest.raises(UsageError, match=r"write HOST:PORT, \[IPV6\]:PORT or :PORT"):
        bind([address])


def test_an_address_in_use_is_refused_and_frees_the_others() -> None:
    """Nothing stays open when one of several addresses cannot be had."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as s,
    ):
        free = f"127.0.0.1:{s.getsockname()[1]}"
        s.close()
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        told = f"cannot listen on {used}: Address already in use; name another port"
        with pytest.raises(UsageError, match=told):
            bind([free, used])
        (listener,) = bind([free])
        listener.close()


@pytest.mark.parametrize("dual", [False, True])
def test_every_address_means_ipv6_where_there_is_ipv6(
    monkeypatch: pytest.MonkeyPatch, *, dual: bool
) -> None:
    """One socket serves both families, and on a machine without IPv6 the one there is."""
    if not dual:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    elif not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    (listener,) = bind([":0"])
    port = listener.getsockname()[1]
    for host in ["127.0.0.1", *(["::1"] if dual else [])]:
        with socket.create_connection((host, port)) as client:
            assert client.getpeername()[1] == port
    with pytest.raises(UsageError, match="Address already in use"):
        bind([f"127.0.0.1:{port}"])
    listener.close()


@pytest.mark.parametrize("address", [":0", "127.0.0.1:0", "localhost:0"])
def test_an_address_is_shown_as_it_can_be_opened(address: str) -> None:
    """Every address of the machine is shown as localhost, and IPv4 reaches it."""
    listeners = bind([address])
    hosts = {shown(listener).rpartition(":")[0] for listener in listeners}
    assert hosts <= {"localhost", "127.0.0.1", "[::1]"}
    with socket.create_connection(("127.0.0.1", listeners[0].getsockname()[1])):
        pass
    for listener in listeners:
        listener.close()
