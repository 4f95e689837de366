"""Paths of objects in a store, with the interface of `pathlib.Path` for reading."""

from __future__ import annotations

import io
import os
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any

from virnucpro_exporter.stores.urls import is_url

if TYPE_CHECKING:
    from virnucpro_exporter.stores.access import StoredFile


class StoredPath(PosixPath):
    """An object in a store, by its URL.

    Its name, suffix and parent are those of its URL. Functions that need a local file, such as the
    built-in `open(path)`, fail with `FileNotFoundError`.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> StoredPath:
        """The same path: a URL is always absolute."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002 - there are no links
        """Request the metadata; `st_mtime` is derived from the version and is no real time.

        Raises:
            OSError: The object does not exist, or the request fails.
        """
        from virnucpro_exporter.stores.access import look_up  # noqa: PLC0415 - needs an extra

        found = look_up(str(self))
        mode = 0o100444 if found.has_ranges else 0o010444  # without ranges: like a pipe
        time = found.version / 10**9
        return os.stat_result((mode, 0, 0, 1, 0, 0, found.size, time, time, time))

    def exists(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002 - there are no links
        """Whether the object exists; true where the request fails."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def open(  # type: ignore[override]  # one signature in place of six
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the object for reading.

        Raises:
            OSError: The object does not exist, or the request fails.
            ValueError: The mode is one of writing.
        """
        if set(mode) - set("rbt"):
            raise ValueError(f"an object in a store can only be read, not opened with {mode!r}")
        raw = self.open_raw()
        if "b" in mode:
            return raw if buffering == 0 else io.BufferedReader(raw)  # type: ignore[return-value]
        return io.TextIOWrapper(io.BufferedReader(raw), encoding, errors, newline)

    def open_raw(self) -> StoredFile:
        """Open the object without a further buffer."""
        from virnucpro_exporter.stores.access import open_stored  # noqa: PLC0415 - needs an extra

        return open_stored(str(self))


def path_of(text: str | os.PathLike[str]) -> Path:
    """The path for a text: a local path, or that of a URL."""
    if isinstance(text, str) and is_url(text):
        return StoredPath(text)
    return text if isinstance(text, Path) else Path(text)
