"""Serves the metrics over HTTP or HTTPS from a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from virnucpro_exporter.errors import ConfigError, UsageError
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.metrics.health import why_not_ready
from virnucpro_exporter.metrics.registry import HealthSources, build_registry
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot
from virnucpro_exporter.web.addresses import bind, is_loopback, shown
from virnucpro_exporter.web.auth import BasicAuth, TooManyChecks
from virnucpro_exporter.web.connections import Connections, Limits
from virnucpro_exporter.web.discovery import Discovery
from virnucpro_exporter.web.http import HttpError, Request, Response, plain
from virnucpro_exporter.web.live import LivePage
from virnucpro_exporter.web.live.page import ShownRun
from virnucpro_exporter.web.pace import Pace
from virnucpro_exporter.web.pages import Pages
from virnucpro_exporter.web.web_config import WebConfig

_log = logging.getLogger(__name__)

DEFAULT_LISTEN = (":9877",)
_RELOAD_EVERY = 1.0  # seconds between two looks at the web configuration
_REMEMBERED = 600.0  # seconds for which a client that has read the metrics is expected again
_MOST_READERS = 64
_RETRY_AFTER = "10"  # seconds
_JSON = (("Content-Type", "application/json"),)
# The pages beside the metrics, as the live page calls them.
_TITLES = {
    "/-/healthy": "Healthy",
    "/-/ready": "Ready",
    "/sd": "Further targets, for Prometheus",
}


# What clients send as it is written: none of these is encoded, and no part is resolved away.
_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?")
_LONGEST_PATH = 1000  # characters


def check_path(telemetry_path: str) -> None:
    """Check that the metrics can be served at this path, and that clients can request it.

    Raises:
        UsageError: They cannot.
    """
    taken = telemetry_path in _TITLES
    if taken or not _PATH.fullmatch(telemetry_path) or len(telemetry_path) > _LONGEST_PATH:
        why = "the path is in use" if taken else "the path is invalid"
        raise UsageError(f"no metrics at {telemetry_path!a}: {why}; use a path such as /metrics")


class MetricsServer:
    """Prometheus metrics of a run, of the GPUs, or of both.

    ```python
    with MetricsServer(coordinator, gpu_monitor, listen=[":9877"]):
        ...
    ```

    Args:
        coordinator: An object whose `latest()` is a `RunSnapshot`; None without a run.
        gpu_monitor: An object whose `latest()` is a `GpuSnapshot`; None without GPU values.
        listen: Any number of `HOST:PORT`, `[IPV6]:PORT`, or `:PORT` for all addresses of the
            machine; port 0 selects a free one. Or sockets that already listen.
        telemetry_path: URL path of the metrics.
        web_config: File with TLS and users, in the format of Prometheus' exporter-toolkit, or its
            content; the file is reloaded when it changes.
        health: Further sources of `CollectorHealth`, by the name of the collector.
        limits: Limits per client.
        runs: Runs with their names, in place of a coordinator.
        nodes: Targets that `/sd` lists: the nodes of a run, or the runs of a machine with ports
            of their own; None for no such page.
        linger: Maximum seconds for which the endpoint stays up after the end of the run; rules
            use it to decide whether the end could have been scraped.
    """

    def __init__(  # noqa: PLR0913 - what is served and how, each with its default
        self,
        coordinator: Published[RunSnapshot] | None = None,
        gpu_monitor: Published[GpuSnapshot] | None = None,
        *,
        listen: Sequence[str | socket.socket] = DEFAULT_LISTEN,
        telemetry_path: str = "/metrics",
        web_config: str | Path | WebConfig | None = None,
        health: HealthSources | None = None,
        limits: Limits | None = None,
        nodes: Discovery | None = None,
        runs: Published[Sequence[RunSnapshot]] | None = None,
        linger: float | None = None,
    ) -> None:
        check_path(telemetry_path)
        health = health or {}
        self._coordinator = coordinator
        self._gpu_monitor = gpu_monitor
        self._runs = runs
        self._listen = tuple(listen)
        self._path = telemetry_path
        self._web_source = web_config
        self._web = WebConfig()
        self._rate: Pace | None = None
        self._limits = limits or Limits()
        found = (coordinator, gpu_monitor, runs, *health.values())
        sources = [source for source in found if source is not None]
        registry = build_registry(coordinator, gpu_monitor, health, runs=runs, linger=linger)
        self._pages = Pages(registry, sources)
        self._routes: dict[str, Callable[[Request], Response]] = {
            telemetry_path: self._metrics,
            "/-/healthy": lambda _: plain(200, "healthy\n"),
            "/-/ready": self._ready,
        }
        if nodes is not None:
            self._routes["/sd"] = lambda request: Response(
                200, nodes.targets(request.headers.get("host", "")), _JSON
            )
        links = [(path, _TITLES.get(path, "Metrics")) for path in self._routes]
        self._live = LivePage(self._shown_runs, gpu_monitor, links)
        self._routes["/"] = self._live.answer
        self._readers: dict[str, float] = {}
        self._failure = ""
        self._addresses: tuple[str, ...] = ()
        self._is_local = False
        self._auth = BasicAuth()
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Listen, and serve in a separate thread. Can be called once.

        Raises:
            ConfigError: The web configuration cannot be used.
            UsageError: The server cannot listen on an address.
        """
        source = self._web_source
        if not isinstance(source, WebConfig):
            source = WebConfig(None if source is None else Path(source))
        self._use(source)
        listeners = bind(self._listen)
        self._addresses = tuple(map(shown, listeners))
        self._is_local = all(map(is_loopback, listeners))
        loop, stopped = asyncio.new_event_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        self._thread = threading.Thread(
            target=self._run, args=(loop, stopped, listeners), name="metrics-server", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and stop listening. A second call has no effect."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop()
            thread.join()

    def __enter__(self) -> MetricsServer:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = "not serving" if self._thread is None else " ".join(self.urls)
        return f"<MetricsServer: {where}>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """`HOST:PORT` of each listening socket, known after the start."""
        return self._addresses

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can connect, known after the start."""
        return self._is_local

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs of the metrics, for display."""
        scheme = "http" if self._web.tls is None else "https"
        return tuple(f"{scheme}://{address}{self._path}" for address in self.addresses)

    def unread(self, since: float) -> bool:
        """Whether a client that read the metrics before a moment has not read them since.

        Args:
            since: The moment, in seconds of the monotonic clock.
        """
        recent = since - _REMEMBERED
        return any(recent < read_at < since for read_at in list(self._readers.values()))

    @property
    def was_read(self) -> bool:
        """Whether a client has read the metrics in the last minutes."""
        return self.unread(time.monotonic())

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        stopped: asyncio.Event,
        listeners: list[socket.socket],
    ) -> None:
        """The life of the thread."""
        try:
            loop.run_until_complete(self._serve(stopped, listeners))
        finally:
            self._auth.close()
            loop.close()
            for listener in listeners:
                listener.close()

    async def _serve(self, stopped: asyncio.Event, listeners: list[socket.socket]) -> None:
        connections = Connections(self._respond, lambda: self._web.tls, self._limits)
        tasks = [asyncio.create_task(connections.accept(s)) for s in listeners]
        tasks.append(asyncio.create_task(self._live.watch()))
        if self._web.path is not None:
            tasks.append(asyncio.create_task(self._watch(connections)))
        await stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connections.close()

    def _use(self, web: WebConfig) -> None:
        for remark in web.remarks:
            if remark not in self._web.remarks:
                _log.warning("%s: %s", web.path, remark)
        if (web.interval, web.burst) != (self._web.interval, self._web.burst):
            # The first of a burst needs no credit.
            self._rate = Pace(1 / web.interval, web.burst - 1.0) if web.interval else None
        self._web = web

    async def _watch(self, connections: Connections) -> None:
        """Read the web configuration again when it changes; keep the last one that was good."""
        told = ""
        while True:
            await asyncio.sleep(_RELOAD_EVERY)
            # Once it could not be read, any file may be the one that makes it readable again.
            if not told and not self._web.has_changed():
                continue
            try:
                self._use(self._web.renewed())
            except ConfigError as error:
                if str(error) != told:
                    told = str(error)
                    _log.error("the new web configuration is not used: %s", told)
                continue
            told = ""
            connections.drop_idle()  # a certificate may have been withdrawn
            _log.info("reloaded the web configuration: %s", self._web.path)

    async def _respond(self, request: Request) -> Response:
        response = await self._refusal(request) or self._answer(request)
        set_already = {"x-content-type-options", *(name.lower() for name, _ in response.headers)}
        extra = tuple(h for h in self._web.headers if h[0].lower() not in set_already)
        return replace(response, headers=(*response.headers, *extra)) if extra else response

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not be made now, or not by this client."""
        now = time.monotonic()
        if self._rate is not None:
            if not self._web.burst or self._rate.wait(now):
                return plain(429, "too many requests\n", is_refusal=True)
            self._rate.spend(now, 1.0)
        users = self._web.users
        try:
            if not users or await self._auth.allows(
                request.headers.get("authorization", ""), users
            ):
                return None
        except TooManyChecks:
            later = ("Retry-After", _RETRY_AFTER)
            return plain(503, "too many logins at once; try again later\n", later, is_refusal=True)
        realm = ("WWW-Authenticate", 'Basic realm="virnucpro_exporter", charset="UTF-8"')
        return plain(401, "user name and password required\n", realm, is_refusal=True)

    def _answer(self, request: Request) -> Response:
        try:
            response = self._route(request)
        except HttpError:
            raise
        except Exception as error:  # noqa: BLE001 - a source is the user's own code
            response = plain(500, f"the metrics cannot be rendered: {error!r}\n")
            self._note(repr(error))
        else:
            self._note("")
        return response

    def _note(self, failure: str) -> None:
        """Log a failure to make the metrics once, however often it is scraped."""
        if failure and failure != self._failure:
            _log.error("the metrics cannot be rendered: %s", failure)
        self._failure = failure

    def _route(self, request: Request) -> Response:
        page = self._routes.get(request.path)
        if page is None:
            return plain(404, "not found; the metrics are at " + self._path + "\n")
        if request.method not in ("GET", "HEAD"):
            return plain(405, "only GET and HEAD are allowed\n", ("Allow", "GET, HEAD"))
        return page(request)

    def _shown_runs(self) -> list[ShownRun]:
        """The runs of the live page, those that go on first."""
        found = [] if self._coordinator is None else [self._coordinator.latest()]
        found += () if self._runs is None else self._runs.latest()
        found.sort(key=lambda run: (run.end is not None, -run.start_timestamp))
        return [ShownRun(run.name or run.run_id, run, _ended(run)) for run in found]

    def _metrics(self, request: Request) -> Response:
        self._note_reader(request.client)
        form, packed = request.format, request.accepts_gzip
        body = self._pages.get(form, request.names, packed=packed)
        headers = (("Content-Type", form.value), ("Vary", "Accept, Accept-Encoding"))
        return Response(200, body, (*headers, ("Content-Encoding", "gzip")) if packed else headers)

    def _note_reader(self, client: str) -> None:
        self._readers.pop(client, None)
        self._readers[client] = time.monotonic()
        if len(self._readers) > _MOST_READERS:
            del self._readers[next(iter(self._readers))]

    def _ready(self, _request: Request) -> Response:
        run = None if self._coordinator is None else self._coordinator.latest()
        gpus = None if self._gpu_monitor is None else self._gpu_monitor.latest()
        reason = why_not_ready(run, gpus, time.time())
        return plain(503, f"{reason}\n") if reason else plain(200, "ready\n")


def _ended(run: RunSnapshot) -> str:
    """How a run ended, in words; empty before that."""
    if run.end is None:
        return ""
    return f"{run.end.result.value}: {run.end.reason}" if run.end.reason else run.end.result.value
