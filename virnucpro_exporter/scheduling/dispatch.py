"""Handing out files: from the worker's own queue, from another's, or once more."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.scheduling.files import FileRecord
from virnucpro_exporter.scheduling.policy import StealPolicy
from virnucpro_exporter.scheduling.rebalancing import rethink_interval
from virnucpro_exporter.scheduling.speed import NEVER
from virnucpro_exporter.scheduling.splitting import ask_for_share
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker

# Finding work in process that is worth sharing or repeating means scanning all of it.
# Where more workers than this run dry, one after the other, that is done once in so many seconds.
_FEW_WORKERS = 64
_LOOK_SECONDS = 0.02


class Dispatcher:
    """Finds the next file for a worker and starts the attempt.

    Args:
        state: The run.
        policy: Which worker steals what, and which repeats what.
    """

    def __init__(self, state: State, policy: StealPolicy) -> None:
        self._state = state
        self._policy = policy
        self._looked_at = -NEVER

    def feed(self, worker: Worker, now: float) -> None:
        """Give a worker that waits for files its next one, or several very short ones."""
        if worker.is_ready and self._state.starts_files:
            self._hand_over(worker, now)
            if not worker.inflight:
                self._repeat_or_wait([worker], now)

    def feed_waiting(self, now: float) -> None:
        """Look again at the workers that got nothing, the fastest first."""
        state = self._state
        state.begin_rethink()
        if not state.starts_files:
            return
        waiting = [w for w in state.fleet if w.is_ready and not w.inflight]
        waiting.sort(key=lambda w: -w.speed)
        for worker in waiting:
            self._hand_over(worker, now)
        left = [worker for worker in waiting if not worker.inflight]
        if left:
            self._repeat_or_wait(left, now)

    def _hand_over(self, worker: Worker, now: float) -> None:
        state, inflight = self._state, worker.inflight
        if not inflight:
            record = self._next_record(worker, now, asked=not worker.awaits_work)
            if record is None:
                return
            state.start(worker, record, now)
        wanted = self._batch_size(worker)
        if wanted > 1 and len(inflight) <= wanted // 2:
            while worker.queue and len(inflight) < wanted:
                state.start(worker, state.take(worker), now)

    def _repeat_or_wait(self, idle: Sequence[Worker], now: float) -> None:
        """Split what is in process if no file waits, or repeat it; workers without work wait."""
        state = self._state
        is_all = not (state.waiting.files or state.awaited_files)
        if is_all and self._may_look(now):
            if state.settings.split:
                for share in self._policy.shares(idle, state.fleet, now):
                    ask_for_share(state, share.attempt, share.share, share.thief, now)
            if state.settings.second_attempts:
                for worker, attempt in self._policy.repeats(idle, state.fleet, now):
                    state.start(worker, attempt.record, now)
        for worker in idle:
            if not worker.inflight:
                self._wait(worker, now)

    def _may_look(self, now: float) -> bool:
        """Whether to look at all that is in process; waiting workers are considered again soon."""
        is_soon = now - self._looked_at < _LOOK_SECONDS
        if is_soon and self._state.is_push and len(self._state.fleet) > _FEW_WORKERS:
            return False
        self._looked_at = now
        return True

    def ask(self, worker: Worker, now: float) -> None:
        """Give one file to a worker whose caller requested one."""
        if self._state.starts_nothing:
            return
        record = self._next_record(worker, now, asked=True)
        if record is None:
            self._repeat_or_wait([worker], now)
        else:
            self._state.start(worker, record, now)

    def released(self, worker: Worker, now: float) -> None:
        """The worker holds one file less."""
        self.feed(worker, now)
        self._state.rest(worker, now)

    def _wait(self, worker: Worker, now: float) -> None:
        state = self._state
        state.begin_idle(worker, now)
        # All waiting workers are considered again together.
        if state.next_rethink == NEVER and (state.processing or state.waiting.files):
            state.rethink_by(now + rethink_interval(state, now))

    def _batch_size(self, worker: Worker) -> int:
        settings, longest = self._state.settings, worker.longest_recent
        if longest * 2 > settings.batch_seconds or self._state.urgent:
            return 1
        if longest * settings.batch_files <= settings.batch_seconds:
            return settings.batch_files
        return int(settings.batch_seconds / longest)

    def _next_record(self, worker: Worker, now: float, *, asked: bool) -> FileRecord | None:
        state = self._state
        if state.urgent:
            urgent = self._next_urgent(worker, now)
            if urgent is not None:
                return urgent
        if worker.queue:
            return state.take(worker)
        is_empty = not state.waiting.files
        choice = None if is_empty else self._policy.steal(worker, state.fleet, now)
        if asked and not (is_empty and state.awaited_files):
            is_declined = choice is None and not is_empty
            state.count_search(worker, is_empty=is_empty, is_declined=is_declined)
        if choice is None:
            return None
        return state.steal(choice.victim, worker, choice.position, now)

    def _next_urgent(self, worker: Worker, now: float) -> FileRecord | None:
        """The file of which the worker should make a speculative attempt at once, or None."""
        state = self._state
        for attempt in state.still_urgent():
            if worker is not attempt.worker and self._policy.suits(
                worker, attempt, state.fleet, now
            ):
                return attempt.record
        return None
