"""Workers that stall and attempts that take too long."""

from __future__ import annotations

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import stalls
from virnucpro_exporter.scheduling.attempts import Outcomes
from virnucpro_exporter.scheduling.progress import ProgressBook
from virnucpro_exporter.scheduling.records import Worker
from virnucpro_exporter.scheduling.settings import OnStall
from virnucpro_exporter.scheduling.state import NEVER, Ledger
from virnucpro_exporter.scheduling.supervision import Recovery


class Watch:
    """Looks at every worker when a deadline may have passed.

    Args:
        ledger: The run.
        progress: What is told of stalls that end.
        outcomes: What is told of attempts that took too long.
        recovery: What replaces a process that stalls.
    """

    def __init__(
        self, ledger: Ledger, progress: ProgressBook, outcomes: Outcomes, recovery: Recovery
    ) -> None:
        self._ledger = ledger
        self._progress = progress
        self._outcomes = outcomes
        self._recovery = recovery

    def look(self, now: float) -> None:
        """Find the workers that stall, load for too long, and the attempts that take too long."""
        ledger = self._ledger
        ledger.next_look = NEVER
        for worker in ledger.fleet:
            if worker.is_loading:
                self._check_setup(worker, now)
            elif stalls.is_judged(worker, is_push=ledger.is_push, is_draining=ledger.is_draining):
                self._judge(worker, now)
            if ledger.settings.file_timeout is not None:
                self._check_timeout(worker, ledger.settings.file_timeout, now)

    def lives(self, worker: Worker, now: float) -> None:
        """The processes of the worker work, although they report nothing."""
        ledger = self._ledger
        worker.alive_at = now
        if now < stalls.deadline(worker, ledger.settings, ledger.longest_silence):
            self._progress.end_stall(worker, now)

    def _judge(self, worker: Worker, now: float) -> None:
        ledger = self._ledger
        if worker.stalled_since is None:
            deadline = stalls.deadline(worker, ledger.settings, ledger.longest_silence)
            if now < deadline:
                ledger.look_by(deadline)
                return
            self._stall(worker, now)
        running = next(iter(worker.running), None)
        if running is not None and ledger.settings.on_stall is OnStall.RESTART:
            restart_at = stalls.restart_at(worker, ledger.settings, ledger.longest_silence)
            if now < restart_at:
                ledger.look_by(restart_at)
                return
            silent = now - worker.touched_at
            self._recovery.replace_stalled(worker, running, f"no progress for {silent:.0f} s", now)
            ledger.came_back = True

    def _stall(self, worker: Worker, now: float) -> None:
        ledger = self._ledger
        silent = now - worker.touched_at
        running = next(iter(worker.running), None)
        worker.stalled_since = now
        worker.counters.stalls += 1
        path = running.record.file.path if running else None
        ledger.actions.append(ev.StallStarted(worker.gpu, path, silent))
        if running is not None and ledger.settings.on_stall is OnStall.RETRY:
            ledger.urgent.append(running)
            ledger.came_back = True

    def _check_setup(self, worker: Worker, now: float) -> None:
        limit = self._ledger.settings.setup_timeout
        if now >= worker.spawned_at + limit:
            self._recovery.replace_loading(worker, limit, now)
        else:
            self._ledger.look_by(worker.spawned_at + limit)

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
