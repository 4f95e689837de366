"""Keeps the opening of a source apart from reading it."""

from __future__ import annotations

import threading

from virnucpro_exporter.gpu.sources import Found, GpuSource, Reading, SourceBusyError


class Guard:
    """A source that any thread may read, and that is opened only while no thread reads it.

    NVML must not be shut down while a thread is inside it, and that thread may be stuck there.

    Args:
        source: What is guarded.
    """

    def __init__(self, source: GpuSource) -> None:
        self.source = source
        self._changed = threading.Condition()
        self._inside = 0
        self._open = False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading | None:
        """Query a GPU; None while the source is not open. Raises SourceError."""
        with self._changed:
            if not self._open:
                return None
            self._inside += 1
        try:
            return self.source.read(uuid, queries)
        finally:
            self._leave()

    def xids(self, uuid: str) -> tuple[int, ...] | None:
        """The XID errors of a GPU since the last call; None where they are unknown."""
        with self._changed:
            if not self._open:
                return None
            self._inside += 1
        try:
            return self.source.xids(uuid)
        finally:
            self._leave()

    def open(self, patience: float) -> tuple[Found, ...] | None:
        """Open the source anew, keeping readers out meanwhile. Raises SourceError.

        Args:
            patience: Seconds to wait for those inside.

        Returns:
            What it lists, or None when a thread stayed inside, and nothing was done.
        """
        was_open = self._open
        if not self._empty(patience):
            return None
        try:
            found = self.source.open()
        except SourceBusyError:
            self._open = was_open
            return None
        self._open = True
        return found

    def close(self) -> None:
        """Close the source, unless a thread is inside."""
        if self._empty(patience=0.0):
            self.source.close()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._open:  # a thread waits for the last reader to leave
                self._changed.notify_all()

    def _empty(self, patience: float) -> bool:
        """Keep readers out; let them in again if a thread stays inside."""
        with self._changed:
            before, self._open = self._open, False
            empty = self._changed.wait_for(lambda: not self._inside, patience)
            if not empty:
                self._open = before
            return empty
