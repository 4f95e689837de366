"""Metrics for machines that nobody can scrape: a file for node_exporter, or a Pushgateway.

Both run in a thread of their own. A failure is counted, and logged once when it begins and once
when it ends; the run goes on.
"""

from __future__ import annotations

import logging
import socket
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile

from virnucpro_exporter.errors import UsageError

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
        self._failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-push", daemon=True)

    def start(self) -> None:
        """Send the first time at once, from a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send a last time, so that the end is seen. It waits for that, a few seconds at most."""
        self._stopped.set()
        self._thread.join(2 * _TIMEOUT)

    def __enter__(self) -> Periodic:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def send_once(self) -> None:
        """Send now, from the calling thread; never raises."""
        try:
            self._send()
        except Exception as error:  # noqa: BLE001 - whatever a network or a disk does, the run goes on
            self.failures += 1
            if not self._failing:
                _log.warning("cannot send metrics to %s: %s", self._target, error)
            self._failing = True
        else:
            if self._failing:
                _log.warning("metrics reach %s again", self._target)
            self._failing = False

    @abstractmethod
    def _send(self) -> None: ...

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.send_once()
            self._stopped.wait(self._interval)
        self.send_once()


class TextfileWriter(Periodic):
    """Writes the metrics for node_exporter's textfile collector; readers never see half a file.

    Args:
        registry: What to write; made without the metrics of the process, as node_exporter has
            series of the same names.
        path: A file that ends in `.prom`, in a folder that exists.
        interval: Seconds from one time to the next.

    Raises:
        UsageError: node_exporter would not read this file, or there is no such folder.
    """

    def __init__(
        self, registry: CollectorRegistry, path: str | Path, interval: float = 15.0
    ) -> None:
        super().__init__(str(path), interval)
        self._registry = registry
        self._path = Path(path)
        if self._path.suffix != ".prom":
            raise UsageError(f"the textfile {path} must end in .prom, or node_exporter skips it")
        if not self._path.parent.is_dir():
            raise UsageError(f"the textfile {path} has no folder to be in")

    def _send(self) -> None:
        write_to_textfile(str(self._path), self._registry)


class GatewayPusher(Periodic):
    """Pushes the metrics to a Pushgateway, under the name of this machine.

    Args:
        registry: What to push.
        url: Of the gateway.
        interval: Seconds from one time to the next.
        job: The label `job` under which the gateway keeps them.

    Raises:
        UsageError: The address is none.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        url: str,
        interval: float = 15.0,
        job: str = "virnucpro_exporter",
    ) -> None:
        super().__init__(url, interval)
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise UsageError(f"{url!r} is not the address of a Pushgateway: write http://HOST:PORT")
        self._registry = registry
        self._url = url
        self._job = job
        self._group = {"instance": socket.gethostname()}

    def _send(self) -> None:
        push_to_gateway(
            self._url, self._job, self._registry, grouping_key=self._group, timeout=_TIMEOUT
        )
