"""URLs of objects: which are accepted, and which parts may be shown.

A query string may contain a signature, which gives access like a password. So it is stored apart
from the URL: names, logs, metrics and the journal contain the URL without it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable

from virnucpro_exporter.errors import UsageError

BUCKETS = ("s3", "gs")
WEB = ("https", "http")
SCHEMES = (*BUCKETS, *WEB)

# Passes query strings to workers: other users cannot read the environment of a process.
QUERIES_VARIABLE = "VIRNUCPRO_URL_QUERIES"
_MOST_BYTES = 100_000  # of one variable; the limit of Linux is 128 KiB

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_QUERY = re.compile(r"(https?://[^\s?'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)

_ANY_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"<>]*)\?[^\s'\"<>]*=[^\s'\"<>]*")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s?'\"@]*@")

_queries: dict[str, str] = {}


def is_url(text: str) -> bool:
    """Whether a text is a URL, not a local path."""
    # The search is many times faster than the expression, and most texts are paths.
    return "://" in text and _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """The scheme of a URL, in lower case."""
    return url.partition("://")[0].lower()


def state_folder(url: str) -> str:
    """The default folder of the journal of a run whose results go into a store."""
    return f"virnucpro-state/{url.replace('://', '/', 1)}"


def without_queries(text: str) -> str:
    """A text without the query strings of the http and https URLs in it."""
    return _QUERY.sub(r"\1", text)


def without_secrets(text: str) -> str:
    """A text without the users, passwords and query strings of the URLs in it."""
    return _USER.sub(r"\1...@", _ANY_QUERY.sub(r"\1", without_queries(text)))


def refusal(url: str) -> str | None:
    """Why a URL cannot be used, without its secret parts; None where it can be used.

    Args:
        url: The URL, with its query string if it has one.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    host, _, key = rest.partition("/")
    if scheme not in SCHEMES:
        return f"{scheme}:// is not supported: use {', '.join(f'{one}://' for one in SCHEMES)}"
    if "@" in host or (":" in host and scheme in BUCKETS):
        return (
            f"{scheme}:// URLs must not contain a user or password: put credentials into the "
            "environment or the configuration of the store's own tools"
        )
    if not host:
        return f"{url!r} has no {'bucket' if scheme in BUCKETS else 'server'}"
    if scheme in BUCKETS and re.search(r"\?.*=", key):
        return f"{scheme}:// URLs take no query string: remove it"
    key = key.partition("?")[0] if scheme in WEB else key
    if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")) and key:
        return f"{without_queries(url)!r} has an empty, '.' or '..' component in its path"
    return None


def put_query_aside(url: str) -> str:
    """Store the query string of a URL for this process and its workers.

    Returns:
        The URL without its query string, with the scheme in lower case.

    Raises:
        UsageError: The URL cannot be used.
    """
    why = refusal(url)
    if why is not None:
        raise UsageError(why)
    bare, query = _split(url)
    if query:
        _queries[bare] = query
    return bare


def ambiguous(urls: Iterable[str]) -> str | None:
    """The first URL, without its query string, that is among these with another one, too."""
    seen: dict[str, str] = {}
    pairs = (_split(url) for url in urls if is_url(url))
    return next((bare for bare, query in pairs if seen.setdefault(bare, query) != query), None)


def _split(url: str) -> tuple[str, str]:
    """A URL without its query string, with the scheme in lower case, and its query string."""
    scheme, _, rest = url.partition("://")
    bare = f"{scheme.lower()}://{rest}"
    if scheme.lower() in BUCKETS:
        return bare, ""
    bare, _, query = bare.partition("#")[0].partition("?")
    return bare, query


def with_query(url: str) -> str:
    """The URL with its query string, for requests; it must never be shown."""
    if not _queries and QUERIES_VARIABLE in os.environ:
        _queries.update(json.loads(os.environ.pop(QUERIES_VARIABLE)))
    query = _queries.get(url)
    return url if query is None else f"{url}?{query}"


def environment(urls: Iterable[str]) -> dict[str, str]:
    """The environment variables with which workers can read these URLs.

    Raises:
        UsageError: There are too many query strings.
    """
    known = {url: _queries[url] for url in urls if url in _queries}
    if not known:
        return {}
    text = json.dumps(known)
    if len(text) > _MOST_BYTES:
        raise UsageError(
            f"{len(known)} URLs with query strings are too many for one run: use s3:// or gs:// "
            "URLs, or several runs"
        )
    return {QUERIES_VARIABLE: text}
