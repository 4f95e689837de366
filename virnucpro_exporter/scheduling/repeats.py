"""Running files that want a second attempt at once, without waiting for the queues to run dry.

Two kinds: the file of a worker that stalls, when the user chose `retry`, and a critical file: one
that would end long after all other work, because its worker turned out to be slow.
"""

from __future__ import annotations

from virnucpro_exporter.scheduling.ledger import NEVER, Ledger
from virnucpro_exporter.scheduling.records import FileRecord, Worker

# The attempts are looked at again this often: a share of the time that the run is expected to take,
# within bounds. In seconds.
_RETHINK_SHARE = 0.02
_RETHINK_AT_LEAST = 0.02
_RETHINK_AT_MOST = 1.0


def rethink_interval(ledger: Ledger, now: float) -> float:
    """After how many seconds estimates have changed enough to be looked at again."""
    ends = [w.finish_at(now) for w in ledger.fleet if w.has_work]
    left = max((end - now for end in ends if end < NEVER), default=_RETHINK_AT_MOST)
    return min(max(left * _RETHINK_SHARE, _RETHINK_AT_LEAST), _RETHINK_AT_MOST)


class Repeats:
    """Finds critical files, and gives out the files that want a second attempt.

    Args:
        ledger: The run.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next_review = 0.0

    def review(self, now: float) -> None:
        """Find the attempts that alone would make the run end late, if it is time to look."""
        ledger = self._ledger
        if now < self._next_review or not ledger.settings.second_attempts:
            return
        self._next_review = now + rethink_interval(ledger, now)
        for worker in ledger.fleet:
            for attempt in worker.inflight.values():
                if attempt.record.holders != (attempt,) or attempt in ledger.urgent:
                    continue
                if ledger.policy.is_critical(attempt, ledger.fleet, now):
                    ledger.urgent.append(attempt)

    def next_for(self, worker: Worker, now: float) -> FileRecord | None:
        """The file of which the worker should make the second attempt, or None."""
        ledger = self._ledger
        ledger.urgent = [a for a in ledger.urgent if a.record.holders == (a,)]
        fastest = max(w.speed for w in ledger.usable())
        for attempt in ledger.urgent:
            if worker is not attempt.worker and (
                ledger.policy.suits(worker, attempt, fastest, now)
                or attempt.worker.stalled_since is not None
            ):
                return attempt.record
        return None
