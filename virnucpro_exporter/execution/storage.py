"""Storage that takes nothing for a while: when work is held, when it is tried again, when to end.

A full disk, a used-up quota, a file system that became read-only or fails: the file in process is
not the cause. So no file is started while it lasts, and none is charged. The decisions are here,
with time as an argument.
"""

from __future__ import annotations

from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.journal.database import may_pass
from virnucpro_exporter.workers.storage import TROUBLES

# Pauses before the storage is tried again, in seconds; the last repeats.
_PAUSES = (1.0, 2.0, 5.0, 10.0)


def is_trouble(error: Exception) -> bool:
    """Whether an error of the journal or of an output is one of the storage, and may pass."""
    if isinstance(error, JournalError):
        return may_pass(error)
    cause = error.__cause__
    return isinstance(error, OutputError) and isinstance(cause, OSError) and cause.errno in TROUBLES


class Storage:
    """The state of the storage.

    Args:
        patience: Seconds of trouble after which the run is to be drained.

    Attributes:
        patience: The same.
        reason: The error, in one line; empty while there is none.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._since = 0.0
        self._retry_at = 0.0
        self._tries = 0
        self._blamed: dict[str, int] = {}  # results that were there when a file met trouble last
        self.reason = ""

    @property
    def is_held(self) -> bool:
        """Whether no file is to be started."""
        return bool(self.reason)

    def is_fault_of(self, path: str, results: int) -> bool:
        """Whether trouble that a file met is its own after all: others were done in between.

        Args:
            path: The file.
            results: How many files have their result by now.
        """
        before = self._blamed.get(path)
        self._blamed[path] = results
        return before is not None and results > before

    def hold(self, reason: str, now: float) -> bool:
        """Something could not be written.

        Returns:
            Whether this is news.
        """
        is_new = not self.reason and not self._tries
        if is_new:
            self._since = now
        if not self.reason:
            self._retry_at = now + _PAUSES[min(self._tries, len(_PAUSES) - 1)]
            self._tries += 1
        self.reason = reason
        return is_new

    def is_due(self, now: float) -> bool:
        """Whether the storage is to be tried again."""
        return self.is_held and now >= self._retry_at

    def postpone(self, now: float) -> None:
        """Another try failed."""
        self._retry_at = now + _PAUSES[min(self._tries, len(_PAUSES) - 1)]
        self._tries += 1

    def release(self) -> None:
        """It could be written; only a result shows that the trouble is over."""
        self.reason = ""

    def succeed(self, now: float) -> float | None:
        """A file has its result.

        Returns:
            How long the trouble lasted that is over with this, in seconds, or None.
        """
        if self.is_held or not self._tries:
            return None
        self._tries = 0
        return now - self._since

    def is_hopeless(self, now: float) -> bool:
        """Whether the trouble has lasted for too long."""
        return self.is_held and now >= self._since + self.patience
