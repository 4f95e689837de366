"""TLS, authentication and headers, in the file format of Prometheus' exporter-toolkit.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from virnucpro_exporter.errors import ConfigError

ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",  # the toolkit's older word for the one before
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]
TlsVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
# OpenSSL's names of those that Go has; those of TLS 1.3 cannot be chosen there either.
_SUITES = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}
_CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
_HEADERS: Mapping[str, tuple[str, ...]] = {  # and the values they may have, where not all
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DEEPEST = 10
_MOST_VALUES = 100_000  # aliases can make a small file stand for more than there is memory


def _bcrypt_hash(text: str) -> str:
    if not _BCRYPT.fullmatch(text):
        raise ValueError("must be a bcrypt hash (create one with: htpasswd -nBC 10 '')")
    return text


def _duration(text: object) -> object:
    """Seconds, of a duration as Go writes it; a bare number is in nanoseconds."""
    if not isinstance(text, str):
        return text
    if text.isascii() and text.isdigit():
        return int(text) * 1e-9
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise ValueError("must be a duration, such as 1s or 100ms")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _known(choices: Mapping[str, object], kind: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in choices:
            raise ValueError(f"unknown {kind} {name!r}; must be one of {', '.join(choices)}")
        return name

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, data: object) -> object:
        """A key without a value, or with an empty text, is one that is not there."""
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if k not in cls.model_fields or v not in (None, "")}


class TlsConfig(_Strict):
    """The key `tls_server_config`; paths are relative to the configuration file."""

    cert: str | None = None
    key: str | None = Field(default=None, repr=False)
    client_ca: str | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: TlsVersion = "TLS12"
    max_version: TlsVersion = "TLS13"
    cipher_suites: tuple[Annotated[str, _known(_SUITES, "cipher suite")], ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Annotated[str, _known(_CURVES, "curve")], ...] = ()


class _HttpConfig(_Strict):
    http2: bool | None = None
    headers: dict[str, str | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_headers(self) -> _HttpConfig:
        for name, value in self.headers.items():
            if name not in _HEADERS:
                raise ValueError(
                    f"headers.{name} cannot be set; possible are {', '.join(_HEADERS)}"
                )
            if value and _HEADERS[name] and value not in _HEADERS[name]:
                raise ValueError(f"headers.{name} must be {' or '.join(_HEADERS[name])}")
            if value and not (value.isascii() and value.isprintable()):
                raise ValueError(f"headers.{name} must be one line of ASCII text")
        return self


class _RateLimit(_Strict):
    interval: Annotated[float, BeforeValidator(_duration)] = 0.0
    burst: int = Field(default=0, ge=0)


class _File(_Strict):
    tls_server_config: TlsConfig | None = None
    http_server_config: _HttpConfig = _HttpConfig()
    basic_auth_users: dict[str, Annotated[str, AfterValidator(_bcrypt_hash)]] = Field(
        default_factory=dict
    )
    rate_limit: _RateLimit = _RateLimit()


@dataclass(frozen=True, slots=True)
class Tls:
    """What holds for new connections.

    Attributes:
        context: With the certificate, and what clients have to show.
        allowed: Names of which a client's certificate has to have one; None: any will do.
    """

    context: ssl.SSLContext
    allowed: frozenset[str] | None = None

    def admits(self, certificate: Mapping[str, Any]) -> bool:
        """Whether a client may go on.

        Args:
            certificate: The client's, as `ssl` shows one that it has verified.
        """
        if self.allowed is None:
            return True
        names = certificate.get("subjectAltName", ())
        return any(_name(kind, value) in self.allowed for kind, value in names)


class WebConfig:
    """The content of a configuration file, read and tried once.

    Attributes:
        tls: What holds for new connections, or None for plain HTTP.
        users: bcrypt hashes by user name; empty when no password is needed.
        headers: What each answer has beside its own.
        interval: Seconds between two requests, or 0 without such a limit.
        burst: So many requests may come at once all the same.
        remarks: Settings of the file that have another effect here, a line each.
        protections: What strangers are kept out by, in words.
        files: All files it was read from.

    Args:
        path: The configuration file, or None for neither TLS nor authentication.

    Raises:
        ConfigError: The file, or one it names, cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.tls: Tls | None = None
        self.users: dict[str, bytes] = {}
        self.headers: tuple[tuple[str, str], ...] = ()
        self.interval, self.burst = 0.0, 0
        self.remarks: list[str] = []
        self.protections: set[str] = set()
        self.files: tuple[Path, ...] = ()
        self._signatures: tuple[object, ...] = ()
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        self._note(path)
        config = _parse(path)
        self.users = {user: text.encode() for user, text in config.basic_auth_users.items()}
        if self.users:
            self.protections.add("passwords")
        http = config.http_server_config
        self.headers = tuple((name, value) for name, value in http.headers.items() if value)
        if http.http2:
            self.remarks.append("http_server_config.http2: not supported; HTTP/1.1 is used")
        self.interval, self.burst = config.rate_limit.interval, config.rate_limit.burst
        tls = config.tls_server_config
        if tls is not None and tls.model_fields_set:
            named = [f for f in (tls.cert_file, tls.key_file, tls.client_ca_file) if f is not None]
            self._note(*(path.parent / file for file in named))
            with _keyed(f"{path}: tls_server_config"):
                self.tls = self._tls(path.parent, tls)

    def _tls(self, folder: Path, tls: TlsConfig) -> Tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION  # which a client could request without end
        self._set_versions(context, tls)
        self._set_suites(context, tls)
        self._set_curve(context, tls)
        _load_certificate(context, folder, tls)
        self._set_client_authorities(context, folder, tls)
        self.protections.add("TLS")
        if tls.client_allowed_sans is None or context.verify_mode is ssl.CERT_NONE:
            if tls.client_allowed_sans is not None:
                self._remark(
                    "client_allowed_sans",
                    "ignored, because client_auth_type does not verify certificates",
                )
            return Tls(context)
        self.protections.add("client_allowed_sans")
        return Tls(context, frozenset(_name("", name) for name in tls.client_allowed_sans))

    def _set_versions(self, context: ssl.SSLContext, tls: TlsConfig) -> None:
        if tls.max_version not in _VERSIONS or tls.min_version > tls.max_version:
            raise _Refused(
                "max_version", "no version is possible; the oldest supported one is TLS 1.2"
            )
        if tls.min_version not in _VERSIONS:
            self._remark("min_version", "the oldest supported version is TLS 1.2")
        context.minimum_version = _VERSIONS.get(tls.min_version, ssl.TLSVersion.TLSv1_2)
        context.maximum_version = _VERSIONS[tls.max_version]
        if tls.min_version == "TLS13":
            self.protections.add("min_version TLS13")

    def _set_suites(self, context: ssl.SSLContext, tls: TlsConfig) -> None:
        if not tls.prefer_server_cipher_suites:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        suites = [_SUITES[name] for name in tls.cipher_suites if _SUITES[name]]
        if suites:
            try:
                context.set_ciphers(":".join(suites))
            except ssl.SSLError as error:
                raise _Refused("cipher_suites", "OpenSSL supports none of them") from error
        elif tls.cipher_suites:  # all of TLS 1.3, of which none can be chosen
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            if tls.max_version != "TLS13":
                raise _Refused("cipher_suites", "none of them is for TLS 1.2")

    def _set_curve(self, context: ssl.SSLContext, tls: TlsConfig) -> None:
        if not tls.curve_preferences:
            return
        first, *others = tls.curve_preferences
        context.set_ecdh_curve(_CURVES[first])
        if others:
            self._remark("curve_preferences", f"Python supports one curve; {first} is used")

    def _set_client_authorities(
        self, context: ssl.SSLContext, folder: Path, tls: TlsConfig
    ) -> None:
        kind, has_authority = tls.client_auth_type, bool(tls.client_ca_file or tls.client_ca)
        if kind in ("NoClientCert", "RequestClientCert"):
            if has_authority and kind == "NoClientCert":
                raise _Refused(
                    "client_auth_type", "with a client_ca_file, it must verify certificates"
                )
            if kind == "RequestClientCert":
                self._remark(
                    "client_auth_type", "not supported; clients are not asked for certificates"
                )
            return
        if kind in ("RequireAnyClientCert", "RequireClientCert"):
            if not has_authority:
                told = (
                    "not supported without a client_ca_file; clients are not asked for certificates"
                )
                self._remark("client_auth_type", told)
                return
            self._remark("client_auth_type", "certificates are verified; Python cannot skip this")
        optional = kind == "VerifyClientCertIfGiven"
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
        if not optional:
            self.protections.add("client certificates")
        if tls.client_ca_file is not None:
            file = folder / tls.client_ca_file
            _readable("client_ca_file", file)
            with _refused("client_ca_file", "contains no CA certificates"):
                context.load_verify_locations(file)
        elif tls.client_ca is not None:
            with _refused("client_ca", "contains no CA certificates"):
                context.load_verify_locations(cadata=tls.client_ca)
        else:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
            self._remark("client_ca_file", "not given; the CAs of this system are trusted")

    def _remark(self, key: str, text: str) -> None:
        self.remarks.append(f"tls_server_config.{key}: {text}")

    def _note(self, *files: Path) -> None:
        """Store the state of the files before they are read."""
        self.files += files
        self._signatures += tuple(map(_signature, files))

    def has_changed(self) -> bool:
        """Whether one of the files is no longer what it was, or has gone."""
        return tuple(map(_signature, self.files)) != self._signatures

    def renewed(self) -> WebConfig:
        """The present content of the file.

        Raises:
            ConfigError: It cannot be used, or keeps strangers out by less than before: a file that
                is being written looks like that for a moment.
        """
        newer = WebConfig(self.path)
        lost = sorted(self.protections - newer.protections)
        if lost:
            raise ConfigError(
                f"{self.path}: no longer has {', '.join(lost)}; to remove it, restart the program"
            )
        return newer


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """A key of `tls_server_config` cannot be used."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")


@contextlib.contextmanager
def _keyed(prefix: str) -> Iterator[None]:
    try:
        yield
    except _Refused as refused:
        raise ConfigError(f"{prefix}.{refused}") from refused


@contextlib.contextmanager
def _refused(key: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise _Refused(key, f"{what}: {error}") from error


def _signature(file: Path) -> tuple[int, ...] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _name(kind: str, value: str) -> str:
    """A name of a certificate as the file writes it; an address in its shortest form."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(value)) if kind in ("", "IP Address") else value
    return value


def _parse(path: Path) -> _File:
    try:
        node = yaml.compose(path.read_bytes(), yaml.SafeLoader)
        values = _values(node, 0, iter(range(_MOST_VALUES)))
        return _File.model_validate({} if values is None else values)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "unknown key"
        raise ConfigError(f"{path}: {key}: {message}") from error


def _values(node: yaml.Node | None, depth: int, left: Iterator[int]) -> Any:
    """Tables, lists, texts as they are written, and None; `123` may be the name of a user."""
    if depth > _DEEPEST:
        raise RecursionError
    if next(left, None) is None:
        raise yaml.YAMLError("it has too many values")
    if isinstance(node, yaml.MappingNode):
        table: dict[str, Any] = {}
        for name, value in node.value:
            key = str(name.value)
            if key in table:
                line = name.start_mark.line + 1
                raise yaml.YAMLError(f"{key} is written twice, the second time in line {line}")
            table[key] = _values(value, depth + 1, left)
        return table
    if isinstance(node, yaml.SequenceNode):
        return [_values(item, depth + 1, left) for item in node.value]
    return None if node is None or node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _load_certificate(context: ssl.SSLContext, folder: Path, tls: TlsConfig) -> None:
    with contextlib.ExitStack() as stack:
        paths: list[str] = []
        for name, file, text in (
            ("cert_file", tls.cert_file, tls.cert),
            ("key_file", tls.key_file, tls.key),
        ):
            if file is not None:
                _readable(name, folder / file)
                paths.append(str(folder / file))
            elif text is not None:
                paths.append(stack.enter_context(_in_memory(text)))
            else:
                raise _Refused(name, f"is missing, and so is {name.removesuffix('_file')}")
        # A key with a passphrase must be an error, not a question on the terminal.
        with _refused("key_file", "not a usable key and certificate"):
            cert, key = paths
            context.load_cert_chain(cert, key, password=lambda: "")


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """The path of a file with this text, which is never on a disk: OpenSSL reads only files."""
    number = os.memfd_create("web-config")
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _readable(key: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise _Refused(key, f"{file}: {error.strerror}") from error
