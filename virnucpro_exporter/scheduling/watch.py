"""Workers that stall and attempts that take too long."""

from __future__ import annotations

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.attempts import Outcomes
from virnucpro_exporter.scheduling.records import Worker
from virnucpro_exporter.scheduling.settings import OnStall
from virnucpro_exporter.scheduling.state import NEVER, Ledger
from virnucpro_exporter.scheduling.supervision import Recovery


class Watch:
    """Looks at every worker when a deadline may have passed.

    Args:
        ledger: The run.
        outcomes: What is told of attempts that took too long.
        recovery: What replaces a process that stalls.
    """

    def __init__(self, ledger: Ledger, outcomes: Outcomes, recovery: Recovery) -> None:
        self._ledger = ledger
        self._outcomes = outcomes
        self._recovery = recovery

    def look(self, now: float) -> None:
        """Find the workers that stall and the attempts that take too long."""
        ledger = self._ledger
        ledger.next_look = NEVER
        threshold = ledger.settings.stall_threshold
        for worker in ledger.fleet:
            if self._can_stall(worker):
                if now >= worker.touched_at + threshold:
                    self._stall(worker, now)
                else:
                    ledger.look_by(worker.touched_at + threshold)
            if ledger.settings.file_timeout is not None:
                self._check_timeout(worker, ledger.settings.file_timeout, now)

    def _can_stall(self, worker: Worker) -> bool:
        has_work = worker.has_work if not self._ledger.is_draining else bool(worker.inflight)
        return has_work and not worker.is_retired and worker.stalled_since is None

    def _stall(self, worker: Worker, now: float) -> None:
        silent = now - worker.touched_at
        running = next(iter(worker.running), None)
        worker.stalled_since = now
        worker.counters.stalls += 1
        ledger, on_stall = self._ledger, self._ledger.settings.on_stall
        path = running.record.file.path if running else None
        ledger.actions.append(ev.StallStarted(worker.gpu, path, silent))
        if running is None:
            return
        if on_stall is OnStall.RETRY:
            ledger.urgent.append(running)
            ledger.came_back = True
        elif on_stall is OnStall.RESTART:
            self._recovery.replace_stalled(worker, running, f"no progress for {silent:.0f} s", now)
            ledger.came_back = True

    def _check_timeout(self, worker: Worker, limit: float, now: float) -> None:
        for attempt in worker.running:
            if attempt.started_at is None:
                continue
            if now >= attempt.started_at + limit:
                self._outcomes.cancel(attempt)
                error = f"took longer than the limit of {limit:g} s"
                self._outcomes.fail(attempt, error, now)
            else:
                self._ledger.look_by(attempt.started_at + limit)
