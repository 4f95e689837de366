"""Metrics for machines that nobody can scrape: a file for node_exporter, or a Pushgateway.

Both run in a thread of their own. A failure is counted, and logged once when it begins and once
when it ends; the run goes on. What is sent last stays where it was sent for as long as nobody
removes it, so it leaves out what is true only while the program runs: the values of the GPUs.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, push_to_gateway
from prometheus_client.metrics_core import Metric as Family

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.metrics.exposition import Format, render

_log = logging.getLogger(__name__)

_TIMEOUT = 5.0  # seconds for one push


class Periodic(ABC):
    """Sends the metrics now and then, and a last time when it is stopped.

    Attributes:
        failures: How many times in all sending failed.

    Args:
        target: Where to, for the log.
        interval: Seconds from one time to the next.
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
        try:
            self._send(registry)
        except Exception as error:  # noqa: BLE001 - whatever a network or a disk does, the run goes on
            self.failures += 1
            self._in_a_row += 1
            if self._in_a_row == 1:
                _log.warning("cannot send metrics to %s: %s", self._target, error)
        else:
            if self._in_a_row:
                text = "metrics reach %s again, after %d failures"
                _log.warning(text, self._target, self._in_a_row)
            self._in_a_row = 0

    @abstractmethod
    def _send(self, registry: CollectorRegistry) -> None: ...

    def _run(self, registry: CollectorRegistry, last: CollectorRegistry) -> None:
        while not self._stopped.is_set():
            self.send_once(registry)
            self._stopped.wait(self._interval)
        self.send_once(last)
        if self._in_a_row:
            text = "the last metrics did not reach %s, after %d failures in all"
            _log.warning(text, self._target, self.failures)


class TextfileWriter(Periodic):
    """Writes the metrics for node_exporter's textfile collector; readers never see half a file.

    node_exporter runs as a user of its own and reads all files of a folder as one target. So the
    file is readable for all whatever the umask, and its series carry the label `run`: the name of
    the file without `.prom`, which no other file in the folder has.

    Args:
        path: A file that ends in `.prom`, in a folder that exists.
        interval: Seconds from one time to the next.

    Raises:
        UsageError: node_exporter would not read this file, or there is no such folder.
    """

    def __init__(self, path: str | Path, interval: float = 15.0) -> None:
        super().__init__(str(path), interval)
        self._path = Path(path)
        if self._path.suffix != ".prom":
            raise UsageError(f"the textfile {path} must end in .prom, or node_exporter skips it")
        if not self._path.parent.is_dir():
            raise UsageError(f"the textfile {path} has no folder to be in; make it first")

    def _send(self, registry: CollectorRegistry) -> None:
        text = render(_of_run(registry.collect(), self._path.stem), Format.TEXT)
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


class GatewayPusher(Periodic):
    """Pushes the metrics to a Pushgateway, under the name of this machine.

    Args:
        url: Of the gateway.
        interval: Seconds from one time to the next.
        job: The label `job` under which the gateway keeps them.

    Raises:
        UsageError: The address is none.
    """

    def __init__(self, url: str, interval: float = 15.0, job: str = "virnucpro_exporter") -> None:
        address = urlsplit(url)
        if "@" in address.netloc:
            raise UsageError("the address of the Pushgateway holds a password; logs would show it")
        super().__init__(url, interval)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise UsageError(f"{url!r} is not the address of a Pushgateway: write http://HOST:PORT")
        self._url = url
        self._job = job
        self._group = {"instance": socket.gethostname()}

    def _send(self, registry: CollectorRegistry) -> None:
        push_to_gateway(self._url, self._job, registry, grouping_key=self._group, timeout=_TIMEOUT)
