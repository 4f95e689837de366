"""A stand-in for a Pushgateway."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Gateway(HTTPServer):
    """Keeps what is pushed, while entered.

    Attributes:
        statuses: Of the next answers; 202 when there are none left.
        deleted: The path of every deletion.
        authorizations: What clients have shown.
        pushed: The path and the body of every push, refused ones too.
    """

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.deleted: list[str] = []
        self.authorizations: list[str] = []
        self.pushed: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_DELETE(self) -> None:
        self.server.deleted.append(self.path)
        self.send_response(202)
        self.end_headers()

    def do_PUT(self) -> None:
        if shown := self.headers.get("Authorization"):
            self.server.authorizations.append(shown)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.pushed.append((self.path, body.decode()))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
