"""When the process of a worker is started, and started again: decisions, with time as an argument.

A process that cannot be started, because the system has no more processes, descriptors or memory,
is tried again with growing pauses. So is one that a signal kills while it loads its processor: the
memory of the machine may not have been enough for so many models that load at the same time. From
then on one worker loads at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Pauses before a process is started again that could not be started, in seconds; the last repeats.
_SYSTEM_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)

# A worker whose process could not be started for so many seconds is given up.
_SYSTEM_PATIENCE = 120.0

# Pauses before a process is started again that a signal killed while it loaded, in seconds.
_LOADING_PAUSES = (1.0, 5.0, 20.0)

NEVER = float("inf")


@dataclass
class _History:
    """The starts of one worker since its processor was last loaded, and how they ended.

    Attributes:
        refused: How often its process could not be started.
        refused_since: When that happened first.
        killed: How often its process was killed while it loaded.
    """

    refused: int = 0
    refused_since: float = 0.0
    killed: int = 0


@dataclass
class Starts:
    """The workers that need a process, and those that load.

    All times are seconds on one clock that never goes back.
    """

    _wanted: dict[str, float] = field(default_factory=dict)
    _loading: set[str] = field(default_factory=set)
    _histories: dict[str, _History] = field(default_factory=dict)
    _is_careful: bool = False

    def want(self, worker: str, when: float) -> None:
        """Request a process for the worker, at this time or later."""
        self._wanted[worker] = when

    def is_wanted(self, worker: str) -> bool:
        """Whether the worker waits for a process."""
        return worker in self._wanted

    def forget(self, worker: str) -> None:
        """The worker needs no process, and has none that loads."""
        self._wanted.pop(worker, None)
        self._loading.discard(worker)

    def forget_all(self) -> None:
        """No worker needs a process any more."""
        self._wanted.clear()

    def due(self, now: float) -> str | None:
        """A worker whose process is to be started now, or None."""
        if self._is_careful and self._loading:
            return None
        return next((worker for worker, when in self._wanted.items() if when <= now), None)

    def next_due(self) -> float:
        """When `due` is worth calling again, unless something happens before."""
        if self._is_careful and self._loading:
            return NEVER
        return min(self._wanted.values(), default=NEVER)

    def started(self, worker: str) -> None:
        """The worker has a process, which loads."""
        self._wanted.pop(worker, None)
        self._loading.add(worker)

    def loaded(self, worker: str) -> None:
        """The worker's process is ready."""
        self._loading.discard(worker)
        self._histories.pop(worker, None)

    def refused(self, worker: str, now: float) -> float | None:
        """The system could not start the worker's process.

        Returns:
            Seconds until it is tried again, or None: no more.
        """
        history = self._histories.setdefault(worker, _History())
        if not history.refused:
            history.refused_since = now
        elif now >= history.refused_since + _SYSTEM_PATIENCE:
            self.forget(worker)
            return None
        pause = _SYSTEM_PAUSES[min(history.refused, len(_SYSTEM_PAUSES) - 1)]
        history.refused += 1
        self.want(worker, now + pause)
        return pause

    def killed_while_loading(self, worker: str, now: float) -> float | None:
        """A signal killed the worker's process while it loaded.

        Returns:
            Seconds until it is started again, or None: no more.
        """
        self.forget(worker)
        self._is_careful = True
        history = self._histories.setdefault(worker, _History())
        history.refused = 0
        if history.killed == len(_LOADING_PAUSES):
            return None
        pause = _LOADING_PAUSES[history.killed]
        history.killed += 1
        self.want(worker, now + pause)
        return pause
