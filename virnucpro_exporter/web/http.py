"""Just enough HTTP/1.1 for GET and HEAD, as pure functions on bytes."""

from __future__ import annotations

import http
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import parse_qs

from virnucpro_exporter.metrics.exposition import Format

LONGEST_LINE = 4096  # bytes of the request line
LONGEST_HEAD = 16384  # bytes of the request line and all headers
_MOST_FIELDS = 64  # in a query
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a method or the name of a header
# Another program on the way may take one of these for the end of a line, and a part of a header
# for a header of its own.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class HttpError(Exception):
    """A request that is answered with an error, after which the connection ends."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.response = plain(status, f"{detail}\n", is_refusal=True)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request.

    Attributes:
        method: In upper case, as in HTTP.
        path: As received, not decoded; served paths are plain ASCII.
        query: What followed the question mark.
        headers: By lower-case name; of a repeated one, the values joined by commas.
        keep_alive: The client would send another request on this connection.
        client: The host that sent the request, if it is known.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    keep_alive: bool
    client: str = ""

    @property
    def names(self) -> frozenset[str]:
        """The metrics requested by `name[]`; empty for all."""
        try:
            fields = parse_qs(self.query, max_num_fields=_MOST_FIELDS)
        except ValueError as error:
            raise HttpError(400, "too many fields in the query") from error
        return frozenset(fields.get("name[]", ()))

    @property
    def accepts_gzip(self) -> bool:
        """Whether the client takes gzip, `q=0` meaning that it does not."""
        weights = dict(_weighted(self.headers.get("accept-encoding", "")))
        return weights.get("gzip", weights.get("*", 0.0)) > 0

    @property
    def format(self) -> Format:
        """The format that the client prefers; the text format by default."""
        best, liked = Format.TEXT, 0.0
        for media, weight in _weighted(self.headers.get("accept", "")):
            form = _FORMATS.get(media)
            if form is not None and weight > liked:
                best, liked = form, weight
        return best


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        status: The HTTP status.
        body: All of it; a HEAD request gets its length alone.
        headers: Beside those about the length and the connection.
        is_refusal: The client is not authenticated. Such answers are not urgent.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    is_refusal: bool = False

    def head(self, now: float, *, keep_alive: bool) -> bytes:
        """The status line and the headers.

        Args:
            now: Unix seconds.
            keep_alive: The connection stays open.
        """
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            f"Date: {formatdate(now, usegmt=True)}",
            f"Content-Length: {len(self.body)}",
            "X-Content-Type-Options: nosniff",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        if not keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def plain(status: int, text: str, *headers: tuple[str, str], is_refusal: bool = False) -> Response:
    """An answer in plain text."""
    kind = ("Content-Type", "text/plain; charset=utf-8")
    body = text.encode("utf-8", "backslashreplace")
    return Response(status, body, (kind, *headers), is_refusal)


def parse(head: bytes) -> Request:
    """Read the head of a request, with the empty line that ends it.

    Raises:
        HttpError: It is not a request this server can answer.
    """
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if len(line) > LONGEST_LINE:
        raise HttpError(414, "the request line is too long")
    parts = line.split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not parts[2].startswith("HTTP/"):
        raise HttpError(400, "not an HTTP request")
    method, target, version = parts
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise HttpError(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    path, query = _place(target)
    headers = _headers(fields)
    if "," in headers.get("host", "") or (version == "HTTP/1.1" and "host" not in headers):
        raise HttpError(400, "exactly one Host header is required")
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    wants_close = "close" in headers.get("connection", "").lower()
    # A body is never read: what follows the head would be taken for another request.
    keep_alive = version == "HTTP/1.1" and not wants_close and not has_body
    return Request(method, path, query, headers, keep_alive)


def _place(target: str) -> tuple[str, str]:
    """The path and the query, of a path alone or of a whole address as proxies are sent it."""
    if _CONTROL.search(target):
        raise HttpError(400, "invalid address")
    if target.lower().startswith(("http://", "https://")):
        target = "/" + target.partition("//")[2].partition("/")[2]
    path, _, query = target.partition("?")
    return path, query


def _headers(fields: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise HttpError(400, "invalid header")
        key = name.lower()
        value = value.strip()
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers


_FORMATS = {
    "text/plain": Format.TEXT,
    "text/*": Format.TEXT,
    "*/*": Format.TEXT,
    "application/openmetrics-text": Format.OPENMETRICS,
}
_VERSIONS = {  # a version that is not here cannot be served
    "text/plain": ("", "0.0.4"),
    "application/openmetrics-text": ("", "1.0.0"),
}


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """The (name, weight) of each item of an Accept header that can be served."""
    for item in header.split(","):
        name, *rest = (part.strip().lower() for part in item.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        versions = _VERSIONS.get(name)
        if versions is None or parameters.get("version", "") in versions:
            yield name, _weight(parameters.get("q", "1"))


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
