"""Everything that imports fsspec: looking objects up, listing them, reading them by range.

Each library of a store raises errors of its own, and some of their texts hold a URL with its
signature. So all of them become one line here: a `FileNotFoundError` where no such object,
else a `StoreError`, without the error that it was made of.
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

# What is read ahead: little at first, since many readers want the first bytes alone, and more as
# they go on: each request costs a round trip.
_FIRST_AHEAD, _MOST_AHEAD = 1 << 18, 1 << 23

# A server that is away is asked again after so many seconds each.
PAUSES = (0.5, 1.0, 2.0, 4.0)

_NEEDED = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}

_LONGEST_LINE = 500

_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN, _BEYOND = 200, 206, 401, 403, 416
_NOT_FOUND = (404, 410)

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
}

# To begin a file, a worker asks for its size several times.
_FRESH_SECONDS = 5.0
_MOST_HEARD = 256

T = TypeVar("T")


class Stored(NamedTuple):
    """An object.

    Attributes:
        url: Its name, without a query.
        size: In bytes; -1 where the server does not say.
        version: A number that changes with its content: of its ETag, or its time. 0 where the
            server says neither.
        has_ranges: Whether it can be read from anywhere but its start.
    """

    url: str
    size: int
    version: int
    has_ranges: bool = True


_heard: dict[str, tuple[float, Stored | None]] = {}


def need(scheme: str) -> None:
    """Make sure that what URLs of a kind need is installed.

    Raises:
        UsageError: It is not.
    """
    for module in ("fsspec", _NEEDED[scheme]):
        if util.find_spec(module) is None:
            raise UsageError(
                f"{scheme}:// needs {module}, which is not installed; install it with: "
                f"pip install '.[storage]'{' gcsfs' if scheme == 'gs' else ''} (in the checkout)"
            )


@lru_cache(maxsize=8)
def _system(scheme: str) -> Any:
    """The file system of fsspec. It takes credentials where the store's own tools find them."""
    need(scheme)
    for name in ("fsspec", "s3fs", "botocore", "aiobotocore", "gcsfs", "asyncio"):
        # At level debug these log requests with their signatures.
        logging.getLogger(name).setLevel(logging.WARNING)
    fsspec = import_module("fsspec")
    more: dict[str, Any] = {}
    if scheme == "s3":  # s3fs and we ask again; to do so at three levels would take minutes
        more["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10}
    return fsspec.filesystem(scheme, use_listings_cache=False, **more)


def attempt(url: str, ask: Callable[[Any], T], pauses: Sequence[float] = PAUSES) -> T:
    """Ask a store, and ask again where it is away.

    Args:
        url: What it is asked about.
        ask: Is given the file system.
        pauses: Seconds to wait before each further time.

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
    raise problem  # not within `except`: what it was made of may hold a signature


def _explained(url: str, error: Exception) -> tuple[OSError, bool]:
    """An error in one line, and whether asking again may help."""
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
    # Servers say in many ways that they are busy; faults of the request are known.
    return StoreError(f"{url!r}: {text or kind}"[:_LONGEST_LINE]), True


def _lacks_bucket(error: Exception) -> bool:
    return type(error).__name__ == "NoSuchBucket" or "bucket does not exist" in str(error)


def _known(url: str, error: Exception) -> str | None:
    """What is said of an error that will not pass; None of any other."""
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
    """Ask about one object; what was heard in the last seconds is not asked again.

    Args:
        url: Its URL.
        fresh: Ask in any case.

    Raises:
        FileNotFoundError: There is none of this name.
        StoreError: The store cannot be asked.
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
    """Ask a web server for the first byte: its answer says also whether it sends ranges."""
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
    """A number of what a server says of the content; the journal has room for 63 bits."""
    if not mark:
        return 0
    return int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7], "big")


def find(url: str) -> list[Stored]:
    """The objects that a URL means: one, those below a prefix, or those of a pattern.

    Args:
        url: A prefix ends with `/`, or is no object itself.

    Raises:
        FileNotFoundError: There is none.
        StoreError: The store cannot be asked, or cannot list.
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
    """Open an object to be read.

    Raises:
        FileNotFoundError: There is none of this name.
        StoreError: The store cannot be asked.
    """
    return StoredFile(look_up(url))


class StoredFile(io.RawIOBase):
    """An object that is read by range, a little ahead of its reader.

    Args:
        stored: The object.

    Attributes:
        stored: The same.
        name: Its URL.
        size: In bytes.
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
        """It is."""
        return True

    def seekable(self) -> bool:
        """Whether the server sends ranges."""
        return self.stored.has_ranges

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on reading elsewhere.

        Raises:
            StoreError: The server sends whole files alone, and this is not where the reader is.
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
        """At most `size` bytes, empty at the end; all that is left where it is negative.

        Raises:
            OSError: The store does not answer.
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
        """So many bytes from a place, fewer at the end; the reader stays where it is."""
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
        """Hold what the reader is about to read."""
        if self.stored.has_ranges and self._at >= self.size:
            text = b""
        else:
            is_next = bool(self._held) and self._at == self._held_at + len(self._held)
            self._ahead = min(2 * self._ahead, _MOST_AHEAD) if is_next else _FIRST_AHEAD
            wanted = max(size, self._ahead)
            text = attempt(self.name, lambda system: self._fetch(system, wanted))
        self._held_at, self._held = self._at, text

    def _fetch(self, system: Any, wanted: int) -> bytes:
        """The next bytes, from the store.

        Raises:
            Exception: As its library says it.
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
        """Let go of the connection."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        super().close()
