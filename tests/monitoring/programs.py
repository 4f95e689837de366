"""A real Prometheus, a real Alertmanager and a receiver of webhooks, on ports of this machine.

Each is a context manager that is ready when it is entered and gone when it is left:

    config = to_webhook(load(ALERTMANAGER), pager.url)  # of a `Webhook() as pager`
    with Alertmanager(tmp_path / "alertmanager", config) as alertmanager, Prometheus(
        tmp_path / "prometheus",
        {"virnucpro": [address]},
        rules=faster_rules(tmp_path / "rules", 20),
        alertmanager=alertmanager.address,
    ) as prometheus:
        eventually(lambda: prometheus.firing("VirnucproGpuStalled"))
        eventually(lambda: pager.alerts("VirnucproGpuStalled", "firing"))
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError

import yaml

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
Labels = dict[str, str]

PATIENCE = 100.0  # seconds until a test gives up; never how long something takes
_LISTENING = re.compile(r'msg="Listening on" address=(\S+)')
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def eventually(ask: Callable[[], T], why: Callable[[], object] = lambda: "") -> T:
    """The first answer that is true.

    Args:
        ask: Asked again and again.
        why: What is said about it when no answer was true in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {PATIENCE:g} s; {why()}"
        time.sleep(0.1)
    return answer


def program(*names: str) -> str:
    """The path of a program that tests cannot do without.

    Args:
        names: What it may be called.
    """
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, f"{names[0]} is missing: run tests/install_programs.sh, or put it on PATH"
    return found


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool or amtool to its end; `stdout` has all that it said, in order."""
    return subprocess.run(
        [program(name), *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )


class Server(ABC):
    """A program that listens at a port it chose itself.

    Args:
        folder: Its own, for configuration, data and log; made if there is none.
        config: The content of its configuration file.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.address = ""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "config.yml"
        self._config.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        self._log = folder / "log"

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that starts it."""

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        try:
            self.address = eventually(self._listening)
            eventually(self._is_ready, self._log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def fetch(self, path: str, **query: str) -> bytes:
        """What it answers to GET; an error of HTTP fails the test with what it says."""
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(query)}"
        try:
            with _DIRECT.open(url, timeout=PATIENCE) as response:
                return bytes(response.read())
        except HTTPError as error:
            raise AssertionError(f"{url}: {error.code} {error.read().decode()}") from error

    def _listening(self) -> str:
        said = self._log.read_text()
        assert self._process.poll() is None, said
        found = _LISTENING.search(said)
        return found[1] if found else ""

    def _is_ready(self) -> bool:
        try:
            with _DIRECT.open(f"http://{self.address}/-/ready", timeout=PATIENCE):
                return True
        except OSError:
            return False


class Prometheus(Server):
    """A Prometheus.

    Args:
        folder: Its own.
        targets: The addresses to scrape, by job.
        jobs: Further jobs, as in its configuration file.
        interval: Between two scrapes, and between two evaluations of the rules.
        rules: Files of rules.
        alertmanager: The address of the Alertmanager that is told of alerts.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        jobs: Sequence[Mapping[str, Any]] = (),
        interval: str = "1s",
        rules: Sequence[Path] = (),
        alertmanager: str = "",
    ) -> None:
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                *(
                    {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                    for job, addresses in targets.items()
                ),
                *jobs,
            ],
        }
        if alertmanager:
            static = [{"targets": [alertmanager]}]
            config["alerting"] = {"alertmanagers": [{"static_configs": static}]}
        super().__init__(folder, config)

    def command(self) -> list[str]:
        """The command line that starts it."""
        return [
            program("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            "--enable-feature=exemplar-storage",
        ]

    def get(self, path: str, **query: str) -> Any:
        """What its API answers, without the envelope.

        Args:
            path: Below `/api/v1/`.
            query: The parameters.
        """
        return json.loads(self.fetch(f"/api/v1/{path}", **query))["data"]

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """The labels and the present value of each series of an expression."""
        found = self.get("query", query=expression)["result"]
        return [(item["metric"], float(item["value"][1])) for item in found]

    def firing(self, name: str = "") -> list[Labels]:
        """The labels of the alerts that fire now; of this name, if one is given."""
        alerts = self.get("alerts")["alerts"]
        labels = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return [found for found in labels if not name or found["alertname"] == name]


class Alertmanager(Server):
    """An Alertmanager.

    Args:
        folder: Its own.
        config: Its configuration, for example `webhook_only(url)`.
    """

    def command(self) -> list[str]:
        """The command line that starts it."""
        return [
            program("alertmanager", "prometheus-alertmanager"),
            f"--config.file={self._config}",
            f"--storage.path={self._folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts it knows; `["status"]["inhibitedBy"]` tells which are held back."""
        found: list[dict[str, Any]] = json.loads(self.fetch("/api/v2/alerts"))
        return found


class Webhook:
    """Receives what Alertmanager sends, and keeps it.

    Attributes:
        url: Where it listens.
        received: Every notification, oldest first.
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        received = self.received

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def alerts(self, name: str, status: str) -> list[Labels]:
        """The labels of each alert of this name that arrived as "firing" or as "resolved"."""
        return [
            alert["labels"]
            for notification in list(self.received)
            for alert in notification["alerts"]
            if alert["labels"]["alertname"] == name and alert["status"] == status
        ]


def to_webhook(config: Mapping[str, Any], url: str) -> dict[str, Any]:
    """A configuration of Alertmanager whose receivers are all one webhook, told within seconds.

    Args:
        config: The configuration, for example that of `load(ALERTMANAGER)`.
        url: Of the webhook.
    """
    webhook = {"url": url, "send_resolved": True}
    receivers = [{"name": r["name"], "webhook_configs": [webhook]} for r in config["receivers"]]
    return {**config, "route": _hasty(config["route"]), "receivers": receivers}


def _hasty(route: Mapping[str, Any]) -> dict[str, Any]:
    """A route, and all below it, that waits a second at most before it tells."""
    below = [_hasty(sub) for sub in route.get("routes", ())]
    return {**route, "group_wait": "1s", "group_interval": "1s", "routes": below}
