"""The runs and GPUs of another machine, from its `/metrics` endpoint."""

from __future__ import annotations

import base64
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.remote.scrape import (
    STEALS_KEPT,
    Samples,
    gpu_snapshot,
    new_steals,
    read_scrape,
    run_snapshot,
)
from virnucpro_exporter.snapshot import (
    Machine,
    RunSnapshot,
    SourceSilentError,
    StealEvent,
    WorkerState,
)
from virnucpro_exporter.text import device_words

PORT = 9877  # of an address that is a host name alone
HINTS = {401: "give --user NAME:PASSWORD", 403: "see --user and --cert"}
MAX_BYTES = 64 * 2**20  # no run's metrics come near; a wrong address may serve anything

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to reach the endpoint, in the words of curl.

    Attributes:
        timeout: Seconds to wait for an answer.
        cacert: PEM file of the authorities to trust, in place of the system's.
        insecure: Do not check the server's certificate.
        cert: PEM file of the client's certificate.
        key: PEM file of its private key, when that is not in `cert`.
        user: `NAME:PASSWORD` for basic authentication.
    """

    timeout: float = 5.0
    cacert: Path | None = None
    insecure: bool = False
    cert: Path | None = None
    key: Path | None = None
    user: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class _Known:
    """The last state of one run, to find what grew and what is new."""

    samples: Samples | None = None
    shown: RunSnapshot | None = None
    steals: deque[StealEvent] = field(default_factory=lambda: deque(maxlen=STEALS_KEPT))


class RemoteMachine:
    """What an endpoint serves, fetched anew at each call of `latest()`.

    Args:
        url: Address of the endpoint; `/metrics` is added when it has no path, and port 9877 to a
            host name alone. A name and a password in it are taken as `options.user`.
        options: How to reach it.
        clock: Unix seconds.

    Attributes:
        url: The address of the requests.
        name: Host and port.

    Raises:
        UsageError: The address or a certificate cannot be used.
    """

    def __init__(
        self,
        url: str,
        options: HttpOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        chosen = options or HttpOptions()
        self.url, user = _metrics_url(url)
        self.name = urllib.parse.urlsplit(self.url).netloc
        self._timeout, self._clock = chosen.timeout, clock
        self._opener = _opener(chosen)
        self._user = chosen.user or user
        self._answered_at: float | None = None
        self._known: dict[str, _Known] = {}

    def check(self) -> None:
        """Send one request, to find a wrong address or option before anything is shown.

        Raises:
            UsageError: There is an answer, but a wrong one that waiting will not change.
        """
        try:
            read_scrape(self._fetch())
        except urllib.error.HTTPError as error:
            hint = HINTS.get(error.code, "is the address right?")
            raise UsageError(f"{self.url} answers {error.code} {error.reason}; {hint}") from error
        except (urllib.error.URLError, ssl.SSLError) as error:
            if isinstance(getattr(error, "reason", error), ssl.SSLError | str):
                hint = "see --cacert, --insecure, --cert and --key"
                raise UsageError(f"{self.url}: {_reason(error)}; {hint}") from error
        except ValueError as error:
            detail = "the answer is not from this program; is the address right?"
            raise UsageError(f"{self.url}: {detail}") from error
        except (OSError, http.client.HTTPException):
            pass  # not there yet, or not any more: that may change

    def latest(self) -> Machine:
        """Fetch the endpoint and rebuild what it serves.

        Raises:
            SourceSilentError: It did not answer, or not with the metrics of this program.
        """
        try:
            samples = read_scrape(self._fetch())
        except (OSError, http.client.HTTPException, ValueError) as error:
            for known in self._known.values():
                known.samples = None
            raise SourceSilentError(self.url, self._answered_at, _reason(error)) from error
        now = self._answered_at = self._clock()
        parts = samples.by_run()
        self._known = {name: self._known.get(name) or _Known() for name in parts}
        runs = {name: self._run(name, part, now) for name, part in parts.items()}
        return Machine(runs, gpu_snapshot(samples, now))

    def _run(self, name: str, samples: Samples, now: float) -> RunSnapshot:
        known = self._known[name]
        known.steals.extend(new_steals(known.samples, samples, now))
        run = run_snapshot(samples, known.samples, now, tuple(known.steals))
        for level, line in troubles(known.shown, run):
            logger.log(level, "%s%s", f"{name}: " if name else "", line)
        known.samples, known.shown = samples, run
        return run

    def _fetch(self) -> str:
        # Both schemes were checked when the address was taken.
        request = urllib.request.Request(self.url, headers={"Accept": "text/plain;version=0.0.4"})  # noqa: S310 - http(s) only
        if self._user is not None:
            # Not sent on to where a redirection may lead.
            token = base64.b64encode(self._user.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        with self._opener.open(request, timeout=self._timeout) as answer:
            body: bytes = answer.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError("the answer is too large to be from this program")
        return body.decode()


def troubles(before: RunSnapshot | None, after: RunSnapshot) -> list[tuple[int, str]]:
    """Stalls and lost workers that came or went between two snapshots, with a logging level."""
    were = set(before.stalled) if before else set()
    had_lost = _lost(before) if before else set()
    found = [
        (logging.WARNING, f"{device_words(gpu)} stalled")
        for gpu in after.stalled
        if gpu not in were
    ]
    found += [
        (logging.INFO, f"{device_words(gpu)} recovered from a stall")
        for gpu in sorted(were - set(after.stalled))
    ]
    found += [
        (logging.WARNING, f"{device_words(gpu)} lost its worker")
        for gpu in sorted(_lost(after) - had_lost)
    ]
    return found


def _lost(run: RunSnapshot) -> set[str]:
    return {worker.gpu for worker in run.workers if worker.state is WorkerState.LOST}


def _metrics_url(url: str) -> tuple[str, str | None]:
    """The address for requests, and the name and password that it contained."""
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    try:
        if "://" not in url and parts.port is None and not parts.netloc.endswith(":"):
            parts = parts._replace(netloc=f"{parts.netloc}:{PORT}")
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port
        is_usable = False
    if not is_usable:
        raise UsageError(f"{url} is not an http or https URL")
    user, _, host = parts.netloc.rpartition("@")
    path = parts.path if parts.path.strip("/") else "/metrics"
    return parts._replace(netloc=host, path=path).geturl(), urllib.parse.unquote(user) or None


def _opener(options: HttpOptions) -> urllib.request.OpenerDirector:
    if options.key is not None and options.cert is None:
        raise UsageError("--key needs --cert")
    asked = options.cacert
    try:
        context = ssl.create_default_context(cafile=options.cacert)
        if options.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.cert is not None:
            asked = options.cert
            # A key with a passphrase is refused; OpenSSL would prompt for it below the table.
            context.load_cert_chain(options.cert, options.key, password=lambda: b"")
    except OSError as error:
        raise UsageError(f"{str(asked)!r} cannot be used: {_reason(error)}") from error
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return _reason(error.reason) if isinstance(error.reason, OSError) else str(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
