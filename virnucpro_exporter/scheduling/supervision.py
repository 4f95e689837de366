"""Workers whose process is lost or of no use: a new process, or none any more."""

from __future__ import annotations

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.attempts import Outcomes
from virnucpro_exporter.scheduling.progress import ProgressBook
from virnucpro_exporter.scheduling.records import Attempt, Worker
from virnucpro_exporter.scheduling.speed import DOUBT
from virnucpro_exporter.scheduling.state import Ledger

# A worker is given up after its process was lost on this many different files in a row, as long as
# another worker is left; a lone worker goes on, because each file is given up in time.
_LOSSES_BEFORE_RETIRING = 3

# Processes of a worker in a row that take too long to load.
_SLOW_SETUPS_BEFORE_RETIRING = 2


class Recovery:
    """Replaces processes and gives workers up.

    Args:
        ledger: The run.
        progress: What is told of stalls that end.
        outcomes: What is told of attempts that end with their worker.
    """

    def __init__(self, ledger: Ledger, progress: ProgressBook, outcomes: Outcomes) -> None:
        self._ledger = ledger
        self._progress = progress
        self._outcomes = outcomes

    def lost(self, worker: Worker, event: ev.WorkerLost, now: float) -> None:
        """The process of the worker is gone."""
        worker.is_ready = worker.is_loading = False
        running = self._outcomes.drop_all(
            worker, event.reason, now, blame=event.blame, number=event.running
        )
        if running is not None and event.blame:
            worker.troubles.append(running.record.file.path)
        if worker.is_retired:
            return
        if not event.restart or self._is_hopeless(worker):
            self._retire(worker, event.reason, now)
        else:
            self._restart(worker, event.reason, now)

    def doubt(self, worker: Worker, attempt: Attempt, error: str, now: float) -> None:
        """Replace a process on which file after file fails: its GPU context may be gone."""
        worker.troubles.append(attempt.record.file.path)
        if len(set(worker.troubles)) >= _LOSSES_BEFORE_RETIRING and not self._is_hopeless(worker):
            self._outcomes.drop_all(worker, error, now, blame=False)
            self._restart(worker, error, now)

    def replace_stalled(self, worker: Worker, running: Attempt, reason: str, now: float) -> None:
        """Kill a process that makes no progress; a worker that stalls again is given up."""
        worker.learned.doubt()
        worker.speed = worker.learned.value or worker.speed / DOUBT
        worker.troubles.append(running.record.file.path)
        self._outcomes.drop_all(worker, reason, now, blame=True)
        if len(worker.troubles) > 1 and self._ledger.has_others(worker):
            self._retire(worker, reason, now)
        else:
            self._restart(worker, reason, now)

    def replace_loading(self, worker: Worker, limit: float, now: float) -> None:
        """Kill a process that does not get its processor set up; the second one is given up."""
        worker.slow_setups += 1
        reason = f"the processor was not set up within {limit:g} s (--setup-timeout)"
        if worker.slow_setups < _SLOW_SETUPS_BEFORE_RETIRING:
            self._restart(worker, reason, now)
        else:
            self._retire(worker, reason, now)

    def come_back(self, worker: Worker, now: float) -> None:
        """A worker that was given up is there again: its node has returned."""
        worker.is_retired = False
        worker.touched_at = worker.spawned_at = now
        worker.troubles.clear()
        worker.slow_setups = 0
        if worker.has_work:
            self._ledger.look_by(now + self._ledger.settings.stall_threshold)

    def _is_hopeless(self, worker: Worker) -> bool:
        is_bad = len(set(worker.troubles)) >= 2 * _LOSSES_BEFORE_RETIRING
        return is_bad and self._ledger.has_others(worker)

    def _restart(self, worker: Worker, reason: str, now: float) -> None:
        worker.is_ready = worker.is_loading = False
        worker.counters.restarts += 1
        worker.touched_at = worker.spawned_at = now
        self._progress.end_stall(worker, now)
        self._ledger.actions.append(ev.RestartWorker(worker.gpu, reason))

    def _retire(self, worker: Worker, reason: str, now: float) -> None:
        worker.is_retired = True
        worker.is_ready = worker.is_loading = False
        self._progress.end_stall(worker, now)
        ledger = self._ledger
        ledger.actions.append(ev.RetireWorker(worker.gpu, reason))
        # A file has failed on fewer workers than it may fail, so it cannot avoid all of many.
        if len(ledger.usable()) < ledger.settings.max_attempts:
            for record in [r for w in ledger.fleet for r in w.queue if r.avoid]:
                self._outcomes.forgive(record)
        ledger.came_back = True
        ledger.finish_if_done(now)
