"""How much of the machine strangers may take."""

from __future__ import annotations

import os


def share_of_machine(ratio: float) -> float:
    """Cores, of those that this process may use; at most one, as one thread can take no more."""
    return min(1.0, ratio * len(os.sched_getaffinity(0)))


class Pace:
    """Spreads work over time, so that it takes a share of it: a leaky bucket.

    Args:
        share: Of the time that passes; 0.1 means a tenth of a second of work per second.
        burst: Seconds of work that may be done at once after a rest.
    """

    def __init__(self, share: float, burst: float = 0.0) -> None:
        self._share = share
        self._slack = burst / share
        self._due = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next work may begin.

        Args:
            now: Monotonic seconds.
        """
        return max(0.0, self._due - self._slack - now)

    def spend(self, now: float, work: float) -> None:
        """Count work, in seconds."""
        self._due = max(self._due, now) + work / self._share
