from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from pathlib import Path

import bcrypt
import pytest
import yaml

from tests.certificates import Authority
from virnucpro_exporter.errors import ConfigError, UsageError
from virnucpro_exporter.web import auth
from virnucpro_exporter.web.addresses import bind, shown
from virnucpro_exporter.web.auth import BasicAuth
from virnucpro_exporter.web.pace import Pace
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
    assert config.tls.context.verify_mode is ssl.CERT_REQUIRED
    assert config.tls.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert config.users == {"alice": HASH.encode()}
    assert [file.name for file in config.files] == ["web.yml", "server.crt", "server.key", "ca.crt"]


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("tls_server_config:\nbasic_auth_users:\nhttp_server_config:\nrate_limit:", None),
        ("tls_server_config: {}", None),
        ("http_server_config: {http2: false}", None),
        ("http_server_config: {http2: true}", "http_server_config.http2: not supported"),
        (TLS + "  max_version: TLS12", None),
        (TLS + "  min_version: TLS10", "tls_server_config.min_version: the oldest"),
        (TLS + "  prefer_server_cipher_suites: false", None),
        (TLS + "  curve_preferences: [CurveP521]", None),
        (
            TLS + "  curve_preferences: [X25519, CurveP256, CurveP384]",
            "tls_server_config.curve_preferences: Python supports one curve; X25519",
        ),
        (TLS + "  cipher_suites: [TLS_AES_128_GCM_SHA256]", None),
        (TLS + "  client_auth_type: RequestClientCert", "tls_server_config.client_auth_type: not"),
        (
            TLS + "  client_auth_type: RequireAnyClientCert",
            "tls_server_config.client_auth_type: not",
        ),
        (TLS + "  client_auth_type: RequireClientCert", "tls_server_config.client_auth_type: not"),
        (
            TLS + "  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.crt",
            "tls_server_config.client_auth_type: certificates are verified",
        ),
        (
            TLS + "  client_auth_type: VerifyClientCertIfGiven",
            "tls_server_config.client_ca_file: not",
        ),
        (TLS + "  client_allowed_sans: [x]", "tls_server_config.client_allowed_sans: ignored"),
        ("rate_limit: {interval: 0, burst: 0}", None),
    ],
)
def test_all_keys_of_the_toolkit_are_taken(folder: Path, text: str, remark: str | None) -> None:
    """What Python does otherwise is one line; everything else is none."""
    remarks = read(folder, text).remarks
    assert len(remarks) == (remark is not None), remarks
    assert remark is None or remarks[0].startswith(remark)


def test_inline_certificates_names_and_headers_are_as_they_are_written(folder: Path) -> None:
    """Certificates as texts, users and values that look like numbers, and durations of Go."""
    cert, key, ca = ((folder / n).read_text() for n in ("server.crt", "server.key", "ca.crt"))
    tls = {"cert": cert, "key": key, "client_ca": ca}
    tls["client_auth_type"] = "RequireAndVerifyClientCert"
    header = {"X-XSS-Protection": 1, "X-Frame-Options": "deny", "Content-Security-Policy": ""}
    content = {"tls_server_config": tls, "http_server_config": {"headers": header}}
    text = yaml.safe_dump(content) + (
        f"basic_auth_users: {{0123: {HASH}, yes: {HASH}, 1e3: {HASH}, 2024-01-01: {HASH}}}\n"
        "rate_limit: {interval: 1m0.5s, burst: 20}\n"
    )
    config = read(folder, text)
    assert config.tls is not None
    assert config.tls.context.verify_mode is ssl.CERT_REQUIRED
    assert list(config.users) == ["0123", "yes", "1e3", "2024-01-01"]
    assert config.headers == (("X-Frame-Options", "deny"), ("X-XSS-Protection", "1"))
    assert (config.interval, config.burst) == (60.5, 20)
    assert config.files == (folder / "web.yml",)


def test_only_the_chosen_cipher_suites_are_left(folder: Path) -> None:
    """Of TLS 1.2; those of TLS 1.3 cannot be chosen, in Go neither."""
    suites = "[TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]"
    config = read(folder, f"{TLS}  cipher_suites: {suites}\n")
    assert config.tls is not None
    names = [suite["name"] for suite in config.tls.context.get_ciphers()]
    chosen = [name for name in names if not name.startswith("TLS_")]
    assert chosen == ["ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-GCM-SHA384"]


@pytest.mark.parametrize(
    ("kind", "name", "admitted"),
    [
        ("DNS", "one", True),
        ("DNS", "One", False),
        ("IP Address", "0:0:0:0:0:0:0:1", True),
        ("URI", "spiffe://x", True),
        ("email", "a@b", False),
        ("", "", False),
    ],
)
def test_a_name_of_the_certificate_has_to_be_allowed(
    folder: Path, kind: str, name: str, admitted: object
) -> None:
    """Any kind of name; a client without a certificate has none."""
    mutual = "  client_ca_file: ca.crt\n  client_auth_type: VerifyClientCertIfGiven\n"
    config = read(folder, f'{TLS}{mutual}  client_allowed_sans: [one, "::1", "spiffe://x"]\n')
    assert config.tls is not None
    certificate = {"subjectAltName": ((kind, name),)} if kind else {}
    assert config.tls.admits(certificate) is admitted


@pytest.mark.parametrize(
    ("now", "complaint"),
    [
        ("", "no longer has TLS, client certificates, client_allowed_sans, min_version TLS13"),
        ("# nothing yet\n", "no longer has TLS"),
        (
            TLS,
            "no longer has client certificates, client_allowed_sans, min_version TLS13, passwords",
        ),
        (f"basic_auth_users: {{alice: {HASH}}}", "no longer has TLS"),
    ],
    ids=["empty", "comment", "TLS alone", "passwords alone"],
)
def test_a_new_file_that_protects_less_is_refused(folder: Path, now: str, complaint: str) -> None:
    """A file that is being written looks like that for a moment, from empty to whole."""
    mutual = "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
    users = f"basic_auth_users: {{alice: {HASH}}}\n"
    whole = f"{TLS}{mutual}  client_allowed_sans: [x]\n  min_version: TLS13\n{users}"
    config = read(folder, whole)
    (folder / "web.yml").write_text(now)
    with pytest.raises(ConfigError, match=complaint):
        config.renewed()
    (folder / "web.yml").write_text(whole.replace("alice", "bob"))
    assert list(config.renewed().users) == ["bob"]


def test_an_empty_file_asks_for_nothing(folder: Path) -> None:
    """As in the exporter-toolkit, an empty file means plain HTTP for everybody."""
    config = read(folder, "")
    assert (config.tls, config.users) == (None, {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "tls_server_config: {cert_file: server.crt, key_file: ''}",
            "tls_server_config.key_file: is missing, and so is key",
        ),
        (
            "tls_server_config: {key_file: server.key}",
            "tls_server_config.cert_file: is missing, and so is cert",
        ),
        ("tls_server_config: {cert: x, key: x}", "tls_server_config.key_file: not a usable key"),
        (TLS + "  min_version: TLS111", "tls_server_config.min_version: Input should be 'TLS10'"),
        (TLS + "  max_version: TLS11", "tls_server_config.max_version: no version is possible"),
        (
            TLS + "  min_version: TLS13\n  max_version: TLS12",
            "tls_server_config.max_version: no version is possible",
        ),
        (TLS + "  cipher_suites: [TLS_X]", "tls_server_config.cipher_suites.0: unknown cip"),
        (
            TLS + "  curve_preferences: [P257]",
            "tls_server_config.curve_preferences.0: unknown curve 'P257'",
        ),
        (TLS + "  client_auth_type: x", "tls_server_config.client_auth_type: Input should be"),
        (TLS + "  cert_file: x", "cert_file is written twice, the second time in line 4"),
        ("http_server_config: {headers: {Set-Cookie: x}}", "http_server_config: headers.Set-Coo"),
        (
            "http_server_config: {headers: {X-Frame-Options: foo}}",
            "http_server_config: headers.X-Frame-Options must be deny or sameorigin",
        ),
        (
            'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: x"}}',
            "http_server_config: headers.X-XSS-Protection must be one line",
        ),
        ("rate_limit: {interval: soon}", "rate_limit.interval: must be a duration"),
        ("rate_limit: {burst: -1}", "rate_limit.burst: "),
        (TLS + "  cipher: x", "tls_server_config.cipher: unknown key"),
        (TLS + "  client_ca_file: ca.crt", "tls_server_config.client_auth_type: "),
        (TLS.replace("server.crt", "no.crt"), "tls_server_config.cert_file: "),
        (TLS.replace("server.key", "no.key"), "tls_server_config.key_file: "),
        (TLS.replace("server.key", "ca.key"), "tls_server_config.key_file: not a usable key"),
        (TLS.replace("server.key", "broken.pem"), "tls_server_config.key_file: not a usable key"),
        (
            TLS + "  client_ca_file: broken.pem\n  client_auth_type: RequireAndVerifyClientCert",
            "tls_server_config.client_ca_file: ",
        ),
        ("basic_auth_users: {alice: secret}", "basic_auth_users.alice: must be a bcrypt hash"),
        ("basic_auth_users: [alice]", "basic_auth_users: "),
        ("users: {}", "users: unknown key"),
        ("[]", "the file: "),
        ("a: [", "while parsing"),
        ("a: " + "[" * 10_000, "it is nested too deeply"),
        ("a: &a [*a]", "it is nested too deeply"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(
                f"{n}: &{n} [{', '.join([f'*{o}'] * 10)}]"
                for o, n in zip("abcdef", "bcdefg", strict=True)
            ),
            "it has too many values",
        ),
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
        (header("long", "x" * 72), True),
        (header("long", "x" * 72 + "y"), True),
        (header("long", "x" * 71), False),
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
    """Twice, as the second may be answered from memory; bcrypt reads 72 bytes, as elsewhere."""
    checker = BasicAuth()
    users = {"alice": HASH.encode(), "long": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}
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


def test_few_wait_for_a_check_and_a_known_client_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a check goes on, those beyond the queue are sent away, and known ones answered."""
    going, go_on = threading.Event(), threading.Event()

    def matches(password: bytes, _: bytes) -> bool:
        if password != b"secret":
            going.set()
            assert go_on.wait(20)
        return password == b"secret"

    async def flood() -> tuple[list[bool | BaseException], bool, bool]:
        users = {"alice": HASH.encode()}
        assert await checker.allows(header("alice", "secret"), users)
        strangers = [
            asyncio.create_task(checker.allows(header("alice", f"wrong{n}"), users))
            for n in range(300)
        ]
        await asyncio.to_thread(going.wait, 20)
        known = await checker.allows(header("alice", "secret"), users)
        go_on.set()
        answers = await asyncio.gather(*strangers, return_exceptions=True)
        return answers, known, await checker.allows(header("alice", "wrong0"), users)

    monkeypatch.setattr(auth, "_matches", matches)
    checker = BasicAuth()
    answers, known, again = asyncio.run(flood())
    checker.close()
    assert known
    assert not again
    assert answers.count(False) == 8
    assert sum(isinstance(answer, auth.TooManyChecks) for answer in answers) == 292


def test_checks_take_a_small_share_of_the_machine() -> None:
    """After a burst, work comes no faster than its share of time, and rest gives credit anew."""
    pace = Pace(0.1, burst=1.0)
    now, done = 0.0, 0.0
    while now < 100.0:
        now += pace.wait(now)
        pace.spend(now, 0.5)
        done += 0.5
    assert done == pytest.approx(100 * 0.1 + 1.0, abs=1.0)
    assert pace.wait(now + 30.0) == 0.0


@pytest.mark.parametrize(
    "address", ["9877", "host", ":", ":99999", "::1:9877", "[::1]", ":-1", "a:b"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """The line says how an address is written."""
    with pytest.raises(UsageError, match=r"must be HOST:PORT, \[IPV6\]:PORT or :PORT"):
        bind([address])


def test_an_address_in_use_is_refused_and_frees_the_others() -> None:
    """Nothing stays open when one of several addresses cannot be had."""
    alone = "127.0.0.9"  # nothing else listens here, so that a port that was free stays free
    with (
        socket.create_server((alone, 0)) as taken,
        socket.create_server((alone, 0)) as s,
    ):
        free = f"{alone}:{s.getsockname()[1]}"
        s.close()
        used = f"{alone}:{taken.getsockname()[1]}"
        told = f"cannot listen on {used}: Address already in use; choose another port"
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
