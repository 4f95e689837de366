"""Looking now and then at the files in process that would make the run end late."""

from __future__ import annotations

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.attempts import Outcomes
from virnucpro_exporter.scheduling.rebalancing import Move, Outlook, is_movable, look_ahead
from virnucpro_exporter.scheduling.state import NEVER, Ledger

# Estimates are looked at again this often: a share of the time that the run is expected to take,
# within bounds. In seconds.
_RETHINK_SHARE = 0.02
_RETHINK_AT_LEAST = 0.02
_RETHINK_AT_MOST = 1.0


def rethink_interval(ledger: Ledger, now: float) -> float:
    """After how many seconds estimates have changed enough to be looked at again."""
    ends = [w.finish_at(now) for w in ledger.fleet if w.has_work]
    left = max((end - now for end in ends if end < NEVER), default=NEVER)
    return min(max(left * _RETHINK_SHARE, _RETHINK_AT_LEAST), _RETHINK_AT_MOST)


class Review:
    """Changes the plan where speeds turn out to be other than believed.

    Args:
        ledger: The run.
        outcomes: What takes attempts back.
    """

    def __init__(self, ledger: Ledger, outcomes: Outcomes) -> None:
        self._ledger = ledger
        self._outcomes = outcomes
        self._not_before = 0.0

    def news(self, now: float) -> None:
        """There was progress, so estimates are better: look now, or as soon as it is time again."""
        if self._ledger.settings.second_attempts:
            if now >= self._not_before:
                self.look(now)
            else:
                self._ledger.next_review = self._not_before

    def look(self, now: float) -> None:
        """Follow a plan that is clearly better; else deal with each file that is critical."""
        ledger = self._ledger
        ledger.next_review = NEVER
        self._not_before = now + rethink_interval(ledger, now)
        outlook = look_ahead(ledger.fleet)
        if outlook is None or ledger.is_draining:
            return
        moves = ledger.policy.replan(outlook, now)
        if moves:
            self._follow(moves, now)
        else:
            self._relieve(outlook, now)

    def _follow(self, moves: list[Move], now: float) -> None:
        """Move the files."""
        for move in moves:
            if move.attempt is not None:
                reason = f"it would end sooner on {move.target.gpu}"
                self._outcomes.take_back(move.attempt, reason, now, move.target)
            else:
                self._pass_on(move, now)
        self._ledger.came_back = True
        self._ledger.actions.append(ev.PlanChanged(len(moves)))

    def _pass_on(self, move: Move, now: float) -> None:
        target = move.target
        move.source.take(move.source.queue.index(move.record))
        if not target.has_work:
            target.touched_at = max(target.touched_at, now)
            self._ledger.look_by(now + self._ledger.settings.stall_threshold)
        target.push(move.record)

    def _relieve(self, outlook: Outlook, now: float) -> None:
        """Take critical files back while little of them is done; else have them done twice."""
        for attempt in self._ledger.policy.critical(outlook, now):
            if is_movable(attempt):
                self._outcomes.take_back(attempt, "it would end sooner elsewhere", now)
            elif attempt not in self._ledger.urgent:
                self._ledger.urgent.append(attempt)
