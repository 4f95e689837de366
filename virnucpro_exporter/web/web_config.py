"""TLS and basic authentication, in the file format of Prometheus' exporter-toolkit."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from virnucpro_exporter.errors import ConfigError

ClientAuth = Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


def _bcrypt_hash(text: str) -> str:
    if not _BCRYPT.fullmatch(text):
        raise ValueError("this is not a bcrypt hash (make one with: htpasswd -nBC 10 '')")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsConfig(_Strict):
    """The key `tls_server_config`; paths are relative to the configuration file."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_auth_type: ClientAuth = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"


class _File(_Strict):
    tls_server_config: TlsConfig | None = None
    basic_auth_users: dict[str, Annotated[str, AfterValidator(_bcrypt_hash)]] = Field(
        default_factory=dict
    )


class WebConfig:
    """What a configuration file says, read and tried once.

    Attributes:
        tls: The context for new connections, or None for plain HTTP.
        users: bcrypt hashes by user name; empty when anybody may read.
        files: All files it was read from.

    Args:
        path: The configuration file, or None for neither TLS nor authentication.

    Raises:
        ConfigError: The file, or one it names, cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.tls: ssl.SSLContext | None = None
        self.users: dict[str, bytes] = {}
        self.files: tuple[Path, ...] = ()
        self._signatures: tuple[object, ...] = ()
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        self._note(path)
        config = _parse(path)
        self.users = {user: text.encode() for user, text in config.basic_auth_users.items()}
        tls = config.tls_server_config
        if tls is not None:
            named = [f for f in (tls.cert_file, tls.key_file, tls.client_ca_file) if f is not None]
            self._note(*(path.parent / file for file in named))
            self.tls = _context(path, tls)

    def _note(self, *files: Path) -> None:
        """Remember how the files are, before they are read."""
        self.files += files
        self._signatures += tuple(map(_signature, files))

    def has_changed(self) -> bool:
        """Whether one of the files is no longer what it was, or has gone."""
        return tuple(map(_signature, self.files)) != self._signatures


def _signature(file: Path) -> tuple[int, ...] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _parse(path: Path) -> _File:
    try:
        data = yaml.safe_load(path.read_bytes())
        return _File.model_validate({} if data is None else data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "there is no such key here"
        raise ConfigError(f"{path}: {key}: {message}") from error


def _context(path: Path, tls: TlsConfig) -> ssl.SSLContext:
    prefix = f"{path}: tls_server_config"
    if tls.client_ca_file is not None and tls.client_auth_type == "NoClientCert":
        raise ConfigError(f"{prefix}.client_auth_type: a client_ca_file needs one that verifies")
    if tls.client_ca_file is None and tls.client_auth_type != "NoClientCert":
        raise ConfigError(f"{prefix}.client_ca_file: {tls.client_auth_type} needs it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.verify_mode = _VERIFY[tls.client_auth_type]
    for key, file in (("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        _readable(f"{prefix}.{key}", path.parent / file)
    try:
        context.load_cert_chain(
            path.parent / tls.cert_file,
            path.parent / tls.key_file,
            # A key with a passphrase must be an error, not a question on the terminal.
            password=lambda: "",
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"{prefix}.key_file: not a usable key and certificate: {error}"
        ) from error
    if tls.client_ca_file is not None:
        _readable(f"{prefix}.client_ca_file", path.parent / tls.client_ca_file)
        try:
            context.load_verify_locations(path.parent / tls.client_ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{prefix}.client_ca_file: {error}") from error
    return context


def _readable(key: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{key}: {file}: {error.strerror}") from error
