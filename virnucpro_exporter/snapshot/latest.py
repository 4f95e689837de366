"""How values get from their publishers to their readers."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """A cell that holds the newest of a series of immutable values.

    One thread publishes, any number read. Both only touch one reference, so neither ever waits.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def publish(self, value: T) -> None:
        """Replace the value."""
        self._value = value

    def latest(self) -> T:
        """The newest value."""
        return self._value


class SourceSilentError(Exception):
    """A source has no present values; those it had must not be shown as if they were.

    Args:
        what: The source, for example its address.
        since: Unix seconds of its last answer, or None if there never was one.
        reason: Why, in one line.
    """

    def __init__(self, what: str, since: float | None, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what, self.since, self.reason = what, since, reason
