"""The scheduler: which worker does which file next.

Theory of operation
-------------------
The scheduler is a state machine. `handle(event, now)` takes one thing that happened and returns
what is to be done about it; `next_deadline()` says when it wants to hear `TimePassed` at the
latest. It reads no clock, starts no thread and touches no file, so every decision can be replayed.

Each worker has a queue, filled at the start by weighted longest-processing-time-first. A worker
that is ready is handed the first file of its queue. When its queue is empty, the policy looks for a
file to steal, and when no file waits anywhere, for a running file that is worth a second attempt.
A worker that gets nothing waits; it is looked at again when a file comes back or a deadline passes.

A worker holds one file at a time, except where files are so short that the way to the worker and
back would cost more than they do: then it is handed as many as it does in about 50 ms.

A file has one result. Every attempt has a number; the first attempt to complete wins and the others
are cancelled. Whatever arrives for an attempt that is no longer current is dropped and counted.

The parts, each on top of those before it:

- `state`: the state of the run, which all parts share; `lifecycle`: what may happen to a file;
- `progress`: work done and the speeds learned from it;
- `attempts`: how they end; `supervision`: processes that are lost or of no use; `watch`: stalls
  and limits;
- `review`: files in process that would end late, and a better plan where there is one;
- `dispatch`: handing out files. Both do what the `policy` chooses;
- this module: which event concerns which part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.assignment import assign_files_weighted
from virnucpro_exporter.scheduling.attempts import Outcomes
from virnucpro_exporter.scheduling.dispatch import Dispatcher
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.policy import EarliestFinish, StealPolicy
from virnucpro_exporter.scheduling.progress import ProgressBook
from virnucpro_exporter.scheduling.records import FileRecord, Worker
from virnucpro_exporter.scheduling.review import Review
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.state import NEVER, Ledger
from virnucpro_exporter.scheduling.supervision import Recovery
from virnucpro_exporter.scheduling.watch import Watch


class Scheduler:
    """Decides; see the module's theory of operation.

    Attributes:
        ledger: The state of the run, for whoever looks on; nobody else changes it.

    Args:
        weights: Declared speed of each worker, by its id, in the order in which they are shown.
        names: Model names of the devices, where known.
        settings: Limits and choices.
        policy: Who steals what.
        first_attempt: Number of the first attempt; a resumed run goes on counting.
        now: The time at which the workers are started.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        names: Mapping[str, str] | None = None,
        settings: SchedulerSettings | None = None,
        policy: StealPolicy | None = None,
        first_attempt: int = 1,
        now: float = 0.0,
    ) -> None:
        self.ledger = ledger = Ledger(
            settings or SchedulerSettings(), policy or EarliestFinish(), first_attempt
        )
        self._progress = ProgressBook(ledger)
        self._outcomes = Outcomes(ledger, self._progress)
        self._recovery = Recovery(ledger, self._progress, self._outcomes)
        self._watch = Watch(ledger, self._progress, self._outcomes, self._recovery)
        self._review = Review(ledger, self._outcomes)
        self._dispatcher = Dispatcher(ledger)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.FilesSubmitted: self._on_submitted,
            ev.WorkerLoading: self._on_loading,
            ev.WorkerReady: self._on_ready,
            ev.WorkRequested: self._on_requested,
            ev.AttemptStarted: self._on_started,
            ev.Progress: self._on_progress,
            ev.SignOfLife: self._on_sign_of_life,
            ev.AttemptCompleted: self._on_completed,
            ev.AttemptFailed: self._on_failed,
            ev.WorkerLost: self._on_lost,
            ev.WorkerJoined: self._on_joined,
            ev.TimePassed: self._on_time,
            ev.DrainRequested: self._on_drain,
        }
        for gpu, weight in weights.items():
            ledger.add_worker(gpu, (names or {}).get(gpu, ""), weight, now)

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take in one event.

        Args:
            event: What happened.
            now: When, in seconds on any clock that never goes back.

        Returns:
            What is to be done, in this order.

        Raises:
            SchedulingError: The event cannot have happened.
        """
        ledger = self.ledger
        actions = ledger.actions = []
        self._handlers[type(event)](event, now)
        if ledger.came_back:
            ledger.came_back = False
            self._dispatcher.feed_waiting(now)
        return actions

    def next_deadline(self) -> float | None:
        """When to call with `TimePassed` at the latest, or None while nothing is awaited."""
        ledger = self.ledger
        soonest = min(ledger.next_look, ledger.next_rethink, ledger.next_review)
        return None if self.is_finished or soonest == NEVER else soonest

    @property
    def is_finished(self) -> bool:
        """Whether no file is left to do, or (after a drain) in process."""
        return self.ledger.is_finished

    def story(self, file: SequenceFile) -> str:
        """What happened to a file so far, in one line."""
        record = self.ledger.files.get(file.path)
        return f"{file.path} was never submitted" if record is None else record.story()

    # -- files and workers that come --

    def _on_submitted(self, event: ev.FilesSubmitted, now: float) -> None:
        ledger = self.ledger
        new = {file.path: file for file in event.files if file.path not in ledger.files}
        if not new:
            ledger.finish_if_done(now)
            return
        usable = ledger.usable() or ledger.fleet
        weights = {w.gpu: w.speed for w in usable}
        loads = {w.gpu: float(w.queued_residues) for w in usable}
        for gpu, files in assign_files_weighted(new.values(), weights, loads).items():
            self._fill_queue(ledger.workers[gpu], files, now)
        ledger.residues_total += sum(file.residues for file in new.values())
        ledger.waiting.count(len(new), now)
        ledger.is_finished = False
        ledger.finished_at = None
        self._dispatcher.feed_waiting(now)
        ledger.finish_if_done(now)

    def _fill_queue(self, worker: Worker, files: list[SequenceFile], now: float) -> None:
        if not files:
            return
        ledger = self.ledger
        if not worker.has_work:
            worker.touched_at = now
            ledger.look_by(now + ledger.settings.stall_threshold)
        records = [FileRecord(file) for file in files]
        ledger.files.update((record.file.path, record) for record in records)
        if worker.queue:
            records = sorted([*worker.queue, *records], key=lambda r: -r.file.residues)
        worker.queue = deque(records)
        worker.queued_residues += sum(file.residues for file in files)

    def _on_joined(self, event: ev.WorkerJoined, now: float) -> None:
        known = self.ledger.workers.get(event.gpu)
        if known is None:
            known = self.ledger.add_worker(event.gpu, event.name, event.weight, now)
        elif known.is_retired:
            self._recovery.come_back(known, now)
        else:
            raise SchedulingError(f"worker {event.gpu} is there already")
        self.ledger.reopen_if_stuck(now)
        self._progress.expect(known)

    def _on_loading(self, event: ev.WorkerLoading, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        if not (worker.is_ready or worker.is_retired):
            self.ledger.is_push = True
            worker.is_loading = True
            worker.spawned_at = now
            self.ledger.look_by(now + self.ledger.settings.setup_timeout)

    def _on_ready(self, event: ev.WorkerReady, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        if not worker.is_ready:
            worker.startup = now - worker.spawned_at
        worker.is_ready = True
        worker.is_loading = False
        worker.slow_setups = 0
        worker.touched_at = now
        self.ledger.look_by(now + self.ledger.settings.stall_threshold)
        self.ledger.is_push = True
        self._dispatcher.feed(worker, now)

    def _on_requested(self, event: ev.WorkRequested, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        worker.is_ready = True
        self._dispatcher.ask(worker, now)

    # -- attempts --

    def _on_started(self, event: ev.AttemptStarted, now: float) -> None:
        attempt = self.ledger.worker(event.gpu).inflight.get(event.attempt)
        if attempt is not None and not attempt.is_cancelled:
            attempt.started_at = attempt.reported_at = now
            self._progress.made(attempt.worker, now)
            if self.ledger.settings.file_timeout is not None:
                self.ledger.look_by(now + self.ledger.settings.file_timeout)

    def _on_progress(self, event: ev.Progress, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        attempt = worker.inflight.get(event.attempt)
        if attempt is None or attempt.is_cancelled:
            return
        if attempt.started_at is None:
            attempt.started_at = attempt.reported_at
        file = attempt.record.file
        residues = event.residues
        if residues is None and file.sequences:
            residues = file.residues * event.sequences // file.sequences
        seconds = now - attempt.reported_at
        self._progress.advance(attempt, event.sequences, residues, seconds, now)
        attempt.reported_at = now
        worker.has_reported = True
        self._progress.was_silent(worker, now)
        self._progress.made(worker, now)
        self._review.news(now)

    def _on_sign_of_life(self, event: ev.SignOfLife, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        if event.attempt in worker.inflight:
            self._watch.lives(worker, now)

    def _on_completed(self, event: ev.AttemptCompleted, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        attempt = worker.inflight.pop(event.attempt, None)
        if attempt is None or attempt.is_cancelled:
            self.ledger.late_results += 1
        else:
            self._outcomes.succeed(attempt, event, now)
        self._dispatcher.released(worker, now)

    def _on_failed(self, event: ev.AttemptFailed, now: float) -> None:
        worker = self.ledger.worker(event.gpu)
        attempt = worker.inflight.pop(event.attempt, None)
        if attempt is None:
            self.ledger.late_results += 1
            return
        if not attempt.is_cancelled:
            self._progress.made(worker, now)
            self._outcomes.fail(attempt, event.error, now, permanent=event.permanent)
            if not event.permanent:
                self._recovery.doubt(worker, attempt, event.error, now)
        self._dispatcher.released(worker, now)

    # -- processes, time and the end --

    def _on_lost(self, event: ev.WorkerLost, now: float) -> None:
        self._recovery.lost(self.ledger.worker(event.gpu), event, now)

    def _on_time(self, event: ev.TimePassed, now: float) -> None:
        del event
        if now >= self.ledger.next_look:
            self._watch.look(now)
        if now >= self.ledger.next_review:
            self._review.look(now)
        if now >= self.ledger.next_rethink:
            self._dispatcher.feed_waiting(now)

    def _on_drain(self, event: ev.DrainRequested, now: float) -> None:
        del event
        self.ledger.is_draining = True
        self.ledger.waiting.close(now)
        self.ledger.finish_if_done(now)
