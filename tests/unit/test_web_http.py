from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.metrics.exposition import Format
from virnucpro_exporter.web.http import HttpError, Request, parse, plain


def request(*headers: str, line: str = "GET /metrics HTTP/1.1") -> Request:
    """The request with these headers, after the one that every request needs."""
    return parse("\r\n".join((line, "Host: x", *headers, "", "")).encode("latin-1"))


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("gzip;q=nonsense", False),
        ("gzip;q=nan", False),
        ("", False),
    ],
)
def test_gzip_is_used_only_where_it_is_welcome(header: str, accepted: object) -> None:
    """A weight of 0, or none at all, means no gzip."""
    assert request(f"Accept-Encoding: {header}").accepts_gzip is accepted


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/html", Format.TEXT),
        (PROMETHEUS, Format.OPENMETRICS),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format.TEXT),
        ("application/openmetrics-text;q=0.3,text/plain;version=0.0.4;q=0.5", Format.TEXT),
    ],
)
def test_the_format_the_client_likes_best_is_served(header: str, form: Format) -> None:
    """OpenMetrics for those who prefer it in a version that is known, else text."""
    assert request(f"Accept: {header}").format is form


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET /metrics", (), 400),
        ("GET  /metrics HTTP/1.1", (), 400),
        ("G(T /metrics HTTP/1.1", (), 400),
        ("GET /metrics HTTP/2.0", (), 505),
        ("GET /metrics\x0bx HTTP/1.1", (), 400),
        ("GET /metrics\n HTTP/1.1", (), 400),
        ("GET /" + "x" * 5000 + " HTTP/1.1", (), 414),
        ("GET /metrics HTTP/1.1", ("no colon",), 400),
        ("GET /metrics HTTP/1.1", (" Folded: header",), 400),
        ("GET /metrics HTTP/1.1", ("Accept : x",), 400),
        ("GET /metrics HTTP/1.1", ("A\x00: x",), 400),
        ("GET /metrics HTTP/1.1", ("A: x\nTransfer-Encoding: chunked",), 400),
        ("GET /metrics HTTP/1.1", ("A: x\ry",), 400),
        ("GET /metrics HTTP/1.1", ("Host: y",), 400),
    ],
)
def test_what_is_no_request_is_refused(line: str, headers: tuple[str, ...], status: int) -> None:
    """Each fault has its status."""
    with pytest.raises(HttpError) as caught:
        request(*headers, line=line)
    assert caught.value.response.status == status


@pytest.mark.parametrize(
    ("line", "header", "kept"),
    [
        ("GET / HTTP/1.1", "Accept: x", True),
        ("GET / HTTP/1.1", "Connection: Close", False),
        ("GET / HTTP/1.0", "Connection: keep-alive", False),
        ("POST / HTTP/1.1", "Content-Length: 5", False),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked", False),
    ],
)
def test_a_connection_ends_where_a_body_could_be_taken_for_a_request(
    line: str, header: str, kept: object
) -> None:
    """Only a plain HTTP/1.1 request without a body may be followed by another."""
    assert request(header, line=line).keep_alive is kept


def test_only_an_old_client_may_leave_its_host_out() -> None:
    """HTTP/1.1 wants to know, HTTP/1.0 does not."""
    assert parse(b"GET / HTTP/1.0\r\n\r\n").path == "/"
    with pytest.raises(HttpError, match="Host"):
        parse(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/metrics?a=b?c", "/metrics", "a=b?c"),
        ("//other/metrics", "//other/metrics", ""),
        ("HTTP://x:1/metrics?a", "/metrics", "a"),
        ("http://[::1", "/", ""),
        ("*", "*", ""),
    ],
)
def test_a_path_is_what_follows_the_machine(target: str, path: str, query: str) -> None:
    """Two slashes name no machine, and a whole address is understood."""
    asked = request(line=f"GET {target} HTTP/1.1")
    assert (asked.path, asked.query) == (path, query)


def test_metrics_are_asked_for_by_name() -> None:
    """`name[]` may be repeated and encoded; too many fields are refused."""
    asked = request(line="GET /metrics?name[]=up&name%5B%5D=other&x=y HTTP/1.1")
    assert asked.names == {"up", "other"}
    many = "&".join(f"name[]={i}" for i in range(100))
    with pytest.raises(HttpError):
        _ = request(line=f"GET /metrics?{many} HTTP/1.1").names


@given(st.sampled_from([b"", b"GET /?", b"GET / HTTP/1.1\r\nHost: x\r\nAccept: "]), st.binary())
def test_any_bytes_are_a_request_or_refused(begin: bytes, rest: bytes) -> None:
    """Nothing a client sends raises anything but the answer it gets."""
    with contextlib.suppress(HttpError):
        made = parse(begin + rest + b"\r\n\r\n")
        assert made.format in Format
        assert made.accepts_gzip in (True, False)
        assert isinstance(made.names, frozenset)


def test_an_answer_tells_its_length_and_whether_it_is_the_last() -> None:
    """The head is complete by itself, as HEAD needs it."""
    head = plain(404, "nothing\n").head(0.0, keep_alive=False)
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
    assert b"\r\nContent-Length: 8\r\n" in head
    assert b"\r\nConnection: close\r\n" in head
    assert head.endswith(b"\r\n\r\n")
