"""The adapter of fsspec: metadata of objects, listings and reads by range.

The libraries of the stores raise errors of their own, and some texts contain a URL with its
signature. They are converted here to one line: a `FileNotFoundError` where the object does not
exist, else a `StoreError`; the original error is not chained to it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module, util
from typing import Any, NamedTuple, TypeVar

from virnucpro_exporter.errors import StoreError, UsageError
from virnucpro_exporter.stores.urls import WEB, scheme_of, with_query, without_secrets

# The bytes that are read ahead: few at first, since many readers need the first bytes only, and
# more when reading continues, since each request costs a round trip.
_FIRST_AHEAD, _MOST_AHEAD = 1 << 18, 1 << 23

# The pauses before each further request to a server that is unavailable, in seconds.
PAUSES = (0.5, 1.0, 2.0, 4.0)

_NEEDED = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}

_LONGEST_LINE = 500

_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN, _BEYOND = 200, 206, 401, 403, 416
_NOT_FOUND = (404, 410)

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
}

# A worker requests the size of a file several times when it opens it: answers are cached.
_FRESH_SECONDS = 5.0
_MOST_HEARD = 256

T = TypeVar("T")


class Stored(NamedTuple):
    """The metadata of an object.

    Attributes:
        url: The URL without its query string.
        size: The size in bytes; -1 where the server does not report it.
        version: A hash of the ETag, generation or time, which changes with the content; 0 where
            the server reports none.
        has_ranges: Whether the server supports range requests.
    """

    url: str
    size: int
    version: int
    has_ranges: bool = True


_heard: dict[str, tuple[float, Stored | None]] = {}


def need(scheme: str) -> None:
    """Check that the packages for URLs of this scheme are installed.

    Raises:
        UsageError: A package is missing.
    """
    for module in ("fsspec", _NEEDED[scheme]):
        if util.find_spec(module) is None:
            raise UsageError(
                f"{scheme}:// needs {module}, which is not installed; install it with: "
                f"pip install '.[storage]'{' gcsfs' if scheme == 'gs' else ''} (in the checkout)"
            )


@lru_cache(maxsize=8)
def _system(scheme: str) -> Any:
    """The file system of fsspec; it finds credentials in the same places as the store's tools."""
    need(scheme)
    for name in ("fsspec", "s3fs", "botocore", "aiobotocore", "gcsfs", "asyncio"):
        # At level debug these log requests with their signatures.
        logging.getLogger(name).setLevel(logging.WARNING)
    fsspec = import_module("fsspec")
    more: dict[str, Any] = {}
    if scheme == "s3":  # s3fs and `attempt` retry; a third level would take minutes
        more["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10}
    return fsspec.filesystem(scheme, use_listings_cache=False, **more)


def attempt(url: str, ask: Callable[[Any], T], pauses: Sequence[float] = PAUSES) -> T:
    """Send a request to a store, and repeat it while the store is unavailable.

    Args:
        url: The URL of the object, for the scheme and the text of errors.
        ask: Sends the request; its argument is the file system of fsspec.
        pauses: Seconds to wait before each repetition.

    Raises:
        FileNotFoundError: There is no such object.
        StoreError: Another error, in one line.
    """
    system = _system(scheme_of(url))
    for pause in (*pauses, None):
        try:
            return ask(system)
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            problem, may_pass = _explained(url, error)
        if pause is None or not may_pass:
            break
        time.sleep(pause)
    raise problem  # not within `except`: the original error may contain a signature


def _explained(url: str, error: Exception) -> tuple[OSError, bool]:
    """An error in one line, and whether a repetition may succeed."""
    if isinstance(error, StoreError):
        return error, False
    if _lacks_bucket(error):
        return StoreError(f"{url!r}: no such bucket"), False
    if isinstance(error, FileNotFoundError) or getattr(error, "status", None) in _NOT_FOUND:
        return FileNotFoundError(errno.ENOENT, "no such object", url), False
    known = _known(url, error)
    if known is not None:
        return StoreError(f"{url!r}{known}"), False
    kind = type(error).__name__
    if "Connect" in kind or "Timeout" in kind or isinstance(error, ConnectionError | TimeoutError):
        return StoreError(f"{url!r}: its server cannot be reached"), True
    text = " ".join(without_secrets(str(error)).split())
    # Servers report overload in many ways; errors that repetition cannot mend are handled above.
    return StoreError(f"{url!r}: {text or kind}"[:_LONGEST_LINE]), True


def _lacks_bucket(error: Exception) -> bool:
    return type(error).__name__ == "NoSuchBucket" or "bucket does not exist" in str(error)


def _known(url: str, error: Exception) -> str | None:
    """The text for an error that repetition cannot mend; None for any other."""
    kind = type(error).__name__
    hint = _CREDENTIALS.get(scheme_of(url), "is the URL still valid?")
    is_denied = isinstance(error, PermissionError)
    if "Credential" in kind:
        return f": no credentials were found: {hint}"
    if is_denied or getattr(error, "status", None) in (_UNAUTHORIZED, _FORBIDDEN):
        return f": access is denied: {hint}"
    if kind == "FileExpired":
        return " was replaced while it was read"
    return f": {error}" if isinstance(error, ImportError) else None


def look_up(url: str, *, fresh: bool = False) -> Stored:
    """The metadata of one object; answers are cached for some seconds.

    Args:
        url: The URL of the object.
        fresh: Whether to send a request even where a cached answer exists.

    Raises:
        FileNotFoundError: The object does not exist.
        StoreError: The request fails.
    """
    now = time.monotonic()
    heard_at, found = _heard.get(url, (float("-inf"), None))
    if found is not None and not fresh and now - heard_at < _FRESH_SECONDS:
        return found
    if scheme_of(url) in WEB:
        found = attempt(url, lambda system: _probe(system, url))
    else:
        found = attempt(url, lambda system: _as_stored(url, _object(system, url)))
    if len(_heard) >= _MOST_HEARD:
        _heard.clear()
    _heard[url] = now, found
    return found


def _object(system: Any, url: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = system.info(url)
    if found["type"] != "file":
        raise FileNotFoundError(url)
    return found


def _probe(system: Any, url: str) -> Stored:
    """Request the first byte from a web server: the answer shows whether it supports ranges."""
    fsspec_asyn = import_module("fsspec.asyn")

    async def ask() -> Stored:
        session = await system.set_session()
        headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
        async with session.get(system.encode_url(with_query(url)), headers=headers) as answer:
            if answer.status not in (_OK, _PARTIAL, _BEYOND):
                answer.raise_for_status()
            has_ranges = answer.status != _OK
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = total if has_ranges else answer.headers.get("Content-Length", "")
            mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return Stored(url, int(size) if size.isdecimal() else -1, _version(mark), has_ranges)

    found: Stored = fsspec_asyn.sync(system.loop, ask)
    return found


def _as_stored(url: str, about: Mapping[str, Any]) -> Stored:
    keys = ("ETag", "etag", "generation", "md5Hash", "LastModified", "updated", "mtime")
    mark = next((str(about[key]) for key in keys if about.get(key)), "")
    return Stored(url, int(about["size"] or 0), _version(mark))


def _version(mark: str) -> int:
    """A number for an ETag or time, of 56 bits: the journal can store 63."""
    if not mark:
        return 0
    return int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7], "big")


def find(url: str) -> list[Stored]:
    """The objects that a URL names: one object, those below a prefix, or those of a pattern.

    Args:
        url: The URL; it is a prefix if it ends with `/` or names no object.

    Raises:
        FileNotFoundError: No object matches.
        StoreError: The request fails, or the store cannot list objects.
    """
    scheme = scheme_of(url)
    if scheme in WEB:
        if url.endswith("/"):
            raise StoreError(
                f"{url!r}: web servers do not list their files: give the URL of each file, or use "
                "s3:// or gs://"
            )
        return [look_up(url)]
    return attempt(url, lambda system: list(_listed(system, scheme, url)))


def _listed(system: Any, scheme: str, url: str) -> Iterator[Stored]:
    is_prefix = url.endswith("/") or "/" not in url.partition("://")[2]
    about: Mapping[str, Any] = {}
    if not is_prefix:
        try:
            about = system.info(url)
        except FileNotFoundError:
            if not any(letter in url for letter in "*?["):
                raise
            found = system.glob(url, detail=True)
        else:
            if about["type"] == "file":
                yield _as_stored(url, about)
                return
    if is_prefix or about:
        found = system.find(url, detail=True)
    if not found:
        raise FileNotFoundError(url)
    for name, one in found.items():
        if one["type"] == "file":
            yield _as_stored(f"{scheme}://{name}", one)


def open_stored(url: str) -> StoredFile:
    """Open an object for reading.

    Raises:
        FileNotFoundError: The object does not exist.
        StoreError: The request fails.
    """
    return StoredFile(look_up(url))


class StoredFile(io.RawIOBase):
    """An object that is read by range requests, with read-ahead.

    Args:
        stored: The metadata of the object.

    Attributes:
        stored: As given.
        name: The URL.
        size: The size in bytes; -1 where it is unknown.
    """

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.stored = stored
        self.name = stored.url
        self.size = stored.size
        self._at = 0
        self._ahead = _FIRST_AHEAD
        self._held_at, self._held = 0, b""
        self._handle: Any = None

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Whether the server supports range requests."""
        return self.stored.has_ranges

    def tell(self) -> int:
        """The offset of the next byte to read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the offset of the next byte to read; returns it.

        Raises:
            StoreError: The server does not support range requests, and the buffer does not hold
                the offset.
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        at = max(0, base + offset)
        if not self.stored.has_ranges and at != self._at:
            held_to = self._held_at + len(self._held)
            if not self._held_at <= at <= held_to:
                raise StoreError(f"{self.name!r}: its server does not support range requests")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; 0 at the end."""
        text = self.read(len(buffer))
        buffer[: len(text)] = text
        return len(text)

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes, or the rest where it is negative; empty at the end.

        Raises:
            OSError: The request fails.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(_MOST_AHEAD), b""))
        start = self._at - self._held_at
        if not 0 <= start < len(self._held):
            self._fill(size)
            start = self._at - self._held_at
        text = self._held[start : start + size]
        self._at += len(text)
        return text

    def read_at(self, length: int, offset: int) -> bytes:
        """Read `length` bytes at an offset, fewer at the end; `tell` does not change."""
        at = self._at
        try:
            self.seek(offset)
            pieces = []
            while length > 0 and (piece := self.read(length)):
                pieces.append(piece)
                length -= len(piece)
            return b"".join(pieces)
        finally:
            self.seek(at)

    def _fill(self, size: int) -> None:
        """Fill the buffer from the current offset."""
        if self.stored.has_ranges and self._at >= self.size:
            text = b""
        else:
            is_next = bool(self._held) and self._at == self._held_at + len(self._held)
            self._ahead = min(2 * self._ahead, _MOST_AHEAD) if is_next else _FIRST_AHEAD
            wanted = max(size, self._ahead)
            text = attempt(self.name, lambda system: self._fetch(system, wanted))
        self._held_at, self._held = self._at, text

    def _fetch(self, system: Any, wanted: int) -> bytes:
        """Request the next bytes from the store.

        Raises:
            Exception: The error of the store's library.
        """
        if self._handle is None:
            self._handle = self._open(system)
        if not self.stored.has_ranges:
            text: bytes = self._handle.read(wanted)
            if not text and self.size > self._at:
                raise StoreError(f"{self.name!r}: its server closed the connection early")
            return text
        wanted = min(wanted, self.size - self._at)
        self._handle.seek(self._at)
        text = self._handle.read(wanted)
        if len(text) < wanted:
            self._handle = None
            raise StoreError(f"{self.name!r} became shorter while it was read")
        return text

    def _open(self, system: Any) -> Any:
        if scheme_of(self.name) not in WEB:
            return system.open(self.name, "rb", cache_type="none")
        if not self.stored.has_ranges:
            if self._at:
                raise StoreError(f"{self.name!r}: its server does not support range requests")
            return system.open(with_query(self.name), "rb", block_size=0, size=max(self.size, 1))
        return system.open(with_query(self.name), "rb", size=self.size, cache_type="none")

    def close(self) -> None:
        """Close the connection."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        super().close()
