"""Workers that stall, attempts that take too long, and processes that are lost or of no use."""

from __future__ import annotations

from virnucpro_exporter.scheduling import stalls
from virnucpro_exporter.scheduling.attempts import drop_all, time_out
from virnucpro_exporter.scheduling.events import WorkerLost
from virnucpro_exporter.scheduling.files import Attempt
from virnucpro_exporter.scheduling.settings import OnStall
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker

# A worker is given up after its process was lost on this many different files in a row, as long as
# another worker is left; a lone worker goes on, because each file is given up in time.
_LOSSES_BEFORE_RETIRING = 3

# Processes of a worker in a row that take too long to load.
_SLOW_SETUPS_BEFORE_RETIRING = 2


class Supervision:
    """Watches workers, replaces their processes and gives workers up.

    Args:
        state: The run.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    # -- stalls and limits --

    def look(self, now: float) -> None:
        """Find the workers that stall, load for too long, and the attempts that take too long."""
        state = self._state
        state.begin_look()
        limit = state.settings.file_timeout
        for worker in state.fleet:
            if worker.is_loading:
                self._check_setup(worker, now)
            elif stalls.is_judged(worker, is_push=state.is_push, is_draining=state.starts_nothing):
                self._judge(worker, now)
            if limit is not None:
                self._check_timeout(worker, limit, now)

    def reconsider(self, now: float) -> None:
        """End the stalls that were none, now that more is known of how long files take."""
        state = self._state
        for worker in state.fleet:
            if worker.stalled_since is not None:
                deadline = stalls.deadline(worker, state.settings, state.longest_silence)
                if now < deadline:
                    state.end_stall(worker, now)
                    state.look_by(deadline)

    def lives(self, worker: Worker, now: float) -> None:
        """The processes of the worker work, although they report nothing."""
        state = self._state
        state.notice(worker, now)
        if now < stalls.deadline(worker, state.settings, state.longest_silence):
            state.end_stall(worker, now)

    def _judge(self, worker: Worker, now: float) -> None:
        state = self._state
        if worker.stalled_since is None:
            deadline = stalls.deadline(worker, state.settings, state.longest_silence)
            if now < deadline:
                state.look_by(deadline)
                return
            self._stall(worker, now)
        running = next(iter(worker.running), None)
        if running is not None and state.settings.on_stall is OnStall.RESTART:
            restart_at = stalls.restart_at(worker, state.settings, state.longest_silence)
            if now < restart_at:
                state.look_by(restart_at)
                return
            silent = now - worker.touched_at
            self._replace_stalled(worker, running, f"no progress for {silent:.0f} s", now)
            state.call_waiting()

    def _stall(self, worker: Worker, now: float) -> None:
        state = self._state
        running = next(iter(worker.running), None)
        state.stall(worker, now)
        if running is not None and self._wants_second_attempt(worker):
            state.urge(running)
            state.call_waiting()

    def _wants_second_attempt(self, worker: Worker) -> bool:
        settings = self._state.settings
        if settings.on_stall is OnStall.AUTO:  # only where silence means something
            reports = settings.reports_progress or worker.has_reported
            return reports and settings.second_attempts
        return settings.on_stall is OnStall.RETRY

    def _check_setup(self, worker: Worker, now: float) -> None:
        limit = self._state.settings.setup_timeout
        if now >= worker.spawned_at + limit:
            self._replace_loading(worker, limit, now)
        else:
            self._state.look_by(worker.spawned_at + limit)

    def _check_timeout(self, worker: Worker, limit: float, now: float) -> None:
        for attempt in worker.running:
            if attempt.started_at is None:
                continue
            if now >= attempt.started_at + limit:
                time_out(self._state, attempt, f"took longer than the limit of {limit:g} s", now)
            else:
                self._state.look_by(attempt.started_at + limit)

    # -- processes --

    def lost(self, worker: Worker, event: WorkerLost, now: float) -> None:
        """The process of the worker is gone."""
        state, is_charged = self._state, event.cause.is_charged
        state.go_down(worker)
        running = drop_all(
            state, worker, event.reason, now, is_charged=is_charged, number=event.running
        )
        if running is not None and is_charged:
            state.suspect(worker, running.record)
        if worker.is_retired:
            return
        if worker.is_leaving and event.cause.is_worth_a_restart:
            state.let_go(worker)
        elif not event.cause.is_worth_a_restart or self._is_hopeless(worker):
            state.retire(worker, event.reason, now)
        else:
            state.restart(worker, event.reason, now)

    def doubt(self, worker: Worker, attempt: Attempt, error: str, now: float) -> None:
        """Replace a process on which file after file fails: its GPU context may be gone."""
        state = self._state
        state.suspect(worker, attempt.record)
        if len(set(worker.troubles)) >= _LOSSES_BEFORE_RETIRING and not self._is_hopeless(worker):
            drop_all(state, worker, error, now, is_charged=False)
            state.restart(worker, error, now)

    def _replace_stalled(self, worker: Worker, running: Attempt, reason: str, now: float) -> None:
        """Kill a process that makes no progress; a worker that stalls again is given up."""
        state = self._state
        state.doubt(worker)
        state.suspect(worker, running.record)
        drop_all(state, worker, reason, now, is_charged=True)
        if len(worker.troubles) > 1 and state.has_others(worker):
            state.retire(worker, reason, now)
        else:
            state.restart(worker, reason, now)

    def _replace_loading(self, worker: Worker, limit: float, now: float) -> None:
        """Kill a process that does not get its processor set up; the second one is given up."""
        state = self._state
        state.count_slow_setup(worker)
        reason = f"the processor was not set up within {limit:g} s (--setup-timeout)"
        if worker.slow_setups < _SLOW_SETUPS_BEFORE_RETIRING:
            state.restart(worker, reason, now)
        else:
            state.retire(worker, reason, now)

    def _is_hopeless(self, worker: Worker) -> bool:
        is_bad = len(set(worker.troubles)) >= 2 * _LOSSES_BEFORE_RETIRING
        return is_bad and self._state.has_others(worker)
