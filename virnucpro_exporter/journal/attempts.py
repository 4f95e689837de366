"""Which attempts are in process, and how those end that bring no result.

The journal keeps the attempt that completed a file with the file itself. The others cost GPU time
too: whoever looks back must not take that time for idleness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from virnucpro_exporter.scheduling import events as ev


@dataclass(frozen=True, slots=True)
class AttemptWasted:
    """An attempt ended without a result.

    Attributes:
        attempt: Its number.
        gpu: The worker.
        path: The file.
        started: When it was handed to the worker (Unix time, s).
        outcome: `failed`; `lost`, with its worker's process; or `cancelled`, because another
            attempt was first.
        error: Why, in one line; empty for a cancelled one.
    """

    attempt: int
    gpu: str
    path: str
    started: float
    outcome: str
    error: str = ""


class _Open(NamedTuple):
    gpu: str
    path: str
    started: float


class OpenAttempts:
    """The attempts in process, as the turns of the run loop tell."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}

    def see(
        self, events: Sequence[ev.Event], actions: Sequence[ev.Action], now: float
    ) -> list[AttemptWasted]:
        """Take in one turn.

        Args:
            events: What happened.
            actions: What was decided about it.
            now: Unix seconds.

        Returns:
            The attempts that this turn has ended without a result.
        """
        wasted: list[AttemptWasted] = []
        for event in events:
            if isinstance(event, ev.AttemptCompleted):
                self._open.pop(event.attempt, None)
            elif isinstance(event, ev.AttemptFailed):
                wasted += self._end(event.attempt, "failed", event.error)
            elif isinstance(event, ev.WorkerLost):
                wasted += self._lose(event.gpu, event.reason, event.running)
        for action in actions:
            if isinstance(action, ev.StartAttempt):
                self._open[action.attempt] = _Open(action.gpu, action.file.path, now)
            elif isinstance(action, ev.CancelAttempt):
                wasted += self._end(action.attempt, "cancelled")
            elif isinstance(action, ev.RestartWorker | ev.RetireWorker):
                wasted += self._lose(action.gpu, action.reason)
        return wasted

    def _end(self, attempt: int, outcome: str, error: str = "") -> list[AttemptWasted]:
        found = self._open.pop(attempt, None)
        return [] if found is None else [AttemptWasted(attempt, *found, outcome, error)]

    def _lose(self, gpu: str, reason: str, running: int | None = None) -> list[AttemptWasted]:
        """The worker worked on one of the files it was handed; the others were not begun."""
        held = [number for number, attempt in self._open.items() if attempt.gpu == gpu]
        if not held:
            return []
        ended = self._end(running if running in held else held[0], "lost", reason)
        for number in held:
            self._open.pop(number, None)
        return ended
