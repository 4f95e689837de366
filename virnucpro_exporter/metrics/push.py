"""Metrics for machines that cannot be scraped: a file for node_exporter, or a Pushgateway.

Both run in a thread of their own. A failure is counted, and logged once when it begins and once
when it ends; the run continues. The last metrics remain at their target until they are removed, so
they leave out values that hold only while the program runs: those of the GPUs.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import socket
import ssl
import threading
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, delete_from_gateway, push_to_gateway
from prometheus_client.metrics_core import Metric as Family

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.metrics.exposition import Format, Labels, render

_log = logging.getLogger(__name__)

_MOST_READ = 2**20  # bytes of another textfile, to see which run it is about
_TIMEOUT = 5.0  # seconds for one push


class Periodic(ABC):
    """Sends the metrics periodically, and a last time when it is stopped.

    Attributes:
        failures: How many attempts to send have failed.

    Args:
        target: The target, for the log.
        interval: Seconds between two attempts.
    """

    def __init__(self, target: str, interval: float) -> None:
        if not interval > 0:
            raise UsageError(f"the interval between two pushes must be above 0 s, not {interval:g}")
        self.failures = 0
        self._target = target
        self._interval = interval
        self._in_a_row = 0  # failures
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, registry: CollectorRegistry, last: CollectorRegistry) -> None:
        """Send the first time at once, from a thread.

        Args:
            registry: What to send; made without the metrics of the process, as node_exporter has
                series of the same names.
            last: What to send when it is stopped.
        """
        self._thread = threading.Thread(
            target=self._run, args=(registry, last), name="metrics-push", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Send a last time, so that the end is seen. It waits for that, a few seconds at most."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(2 * _TIMEOUT)

    def send_once(self, registry: CollectorRegistry) -> None:
        """Send now, from the calling thread; never raises."""
        self._try(lambda: self._send(registry))

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # noqa: BLE001 - whatever a network or a disk does, the run goes on
            self.failures += 1
            self._in_a_row += 1
            if self._in_a_row == 1:
                _log.warning("cannot send metrics to %s: %s", self._target, error)
        else:
            if self._in_a_row:
                text = "metrics reach %s again after %d failures"
                _log.warning(text, self._target, self._in_a_row)
            self._in_a_row = 0

    def _finish(self, last: CollectorRegistry) -> None:
        """Leave the end behind."""
        self.send_once(last)

    @abstractmethod
    def _send(self, registry: CollectorRegistry) -> None: ...

    def _run(self, registry: CollectorRegistry, last: CollectorRegistry) -> None:
        while not self._stopped.is_set():
            self.send_once(registry)
            self._stopped.wait(self._interval)
        self._finish(last)
        if self._in_a_row:
            text = "the last metrics did not reach %s, after %d failures in all"
            _log.warning(text, self._target, self.failures)


class TextfileWriter(Periodic):
    """Writes the metrics for node_exporter's textfile collector; readers never see half a file.

    node_exporter runs as a user of its own and reads all files of a folder as one target. So the
    file is readable for all whatever the umask, and its series carry the label `run`: the name of
    the run, or where another file in the folder has that, the name of this file without `.prom`.

    Args:
        path: A file that ends in `.prom`, in a folder that exists.
        interval: Seconds from one time to the next.
        run: The name of the run; that of the file when empty.

    Raises:
        UsageError: node_exporter would not read this file, or there is no such folder.
    """

    def __init__(self, path: str | Path, interval: float = 15.0, run: str = "") -> None:
        super().__init__(str(path), interval)
        self._path = Path(path)
        self._run_label = run or self._path.stem
        if self._path.suffix != ".prom":
            raise UsageError(f"the textfile {path} must end in .prom, or node_exporter skips it")
        if not self._path.parent.is_dir():
            raise UsageError(f"the folder of the textfile {path} does not exist; create it first")
        if run and (other := self._namesake()):
            self._run_label = self._path.stem
            text = (
                "%s also has a run named %r; this run is shown as %r: to rename it, use --run-name"
            )
            _log.warning(text, other, run, self._run_label)

    def _namesake(self) -> Path | None:
        """Another file in the folder with the same label `run`."""
        label = Labels({"run": self._run_label}).text.strip("{}").encode()
        for path in self._path.parent.glob("*.prom"):
            with contextlib.suppress(OSError):  # its owner may hide or remove it
                if path != self._path and label in path.read_bytes()[:_MOST_READ]:
                    return path
        return None

    def _send(self, registry: CollectorRegistry) -> None:
        text = render(_of_run(registry.collect(), self._run_label), Format.TEXT)
        unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(text)
            unfinished.replace(self._path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _of_run(families: Iterable[Family], run: str) -> Iterator[Family]:
    """The families with the label `run` on every sample."""
    for family in families:
        labelled = copy(family)
        labelled.samples = [
            sample._replace(labels={**sample.labels, "run": run}) for sample in family.samples
        ]
        yield labelled


@dataclass(frozen=True, slots=True)
class GatewayAccess:
    """How a Pushgateway lets this program in.

    Attributes:
        user: For basic authentication, with `password`; empty without.
        password: Likewise.
        ca_file: PEM file of the authorities to trust, in place of the system's; None for those.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None


class GatewayPusher(Periodic):
    """Pushes the metrics to a Pushgateway, under the name of this machine and of the run.

    Args:
        url: Of the gateway.
        interval: Seconds from one time to the next.
        job: The label `job` under which the gateway keeps them.
        run: The name of the run, for the grouping key; empty: none is in it.
        grouping: Further labels of the grouping key.
        keep: Leave the last metrics there at the end; else they are deleted.
        access: How the gateway lets this program in.

    Raises:
        UsageError: The address is none, or a label or a file cannot be used.
    """

    def __init__(
        self,
        url: str,
        interval: float = 15.0,
        job: str = "virnucpro_exporter",
        *,
        run: str = "",
        grouping: Mapping[str, str] | None = None,
        keep: bool = True,
        access: GatewayAccess | None = None,
    ) -> None:
        address = urlsplit(url)
        if "@" in address.netloc:
            raise UsageError(
                "the URL of the Pushgateway must not contain a password; use --push-password-file"
            )
        super().__init__(url, interval)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise UsageError(f"{url!r} is not the URL of a Pushgateway: use http://HOST:PORT")
        for label in grouping or {}:
            if not _LABEL.fullmatch(label) or label.startswith("__") or label == "job":
                raise UsageError(f"{label!r} cannot be a label of the Pushgateway's grouping key")
        self._url = url
        self._job = job
        self._keep = keep
        self._group = {"instance": socket.gethostname(), **({"run": run} if run else {})}
        self._group |= grouping or {}
        self._handler = _handler(access or GatewayAccess())

    def _send(self, registry: CollectorRegistry) -> None:
        push_to_gateway(
            self._url,
            self._job,
            registry,
            grouping_key=self._group,
            timeout=_TIMEOUT,
            handler=self._handler,
        )

    def _finish(self, last: CollectorRegistry) -> None:
        if self._keep:
            self.send_once(last)
        else:
            self._try(self._delete)

    def _delete(self) -> None:
        delete_from_gateway(
            self._url,
            self._job,
            grouping_key=self._group,
            timeout=_TIMEOUT,
            handler=self._handler,
        )


_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_Handler = Callable[[str, str, float | None, Sequence[tuple[str, str]], bytes], Callable[[], None]]


def _handler(access: GatewayAccess) -> _Handler:
    """Sends the requests of prometheus_client.

    Raises:
        UsageError: The file of the authorities cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except OSError as error:
        raise UsageError(f"--push-ca-file {access.ca_file}: {error.strerror or error}") from error
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    token = base64.b64encode(f"{access.user}:{access.password}".encode()).decode()

    def handle(
        url: str,
        method: str,
        timeout: float | None,
        headers: Sequence[tuple[str, str]],
        data: bytes,
    ) -> Callable[[], None]:
        request = urllib.request.Request(url, data, dict(headers), method=method)  # noqa: S310 - http(s) only
        if access.user:
            # Not sent on to where a redirection may lead.
            request.add_unredirected_header("Authorization", f"Basic {token}")

        def send() -> None:
            opener.open(request, timeout=timeout).close()

        return send

    return handle
