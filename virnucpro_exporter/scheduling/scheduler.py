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

`TRANSITIONS` is the life of a file. A step that is not in it is a defect of the caller or of the
scheduler, and raises with the story of the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.assignment import assign_files_weighted
from virnucpro_exporter.scheduling.files import FileState, SequenceFile
from virnucpro_exporter.scheduling.policy import EarliestFinish, StealPolicy
from virnucpro_exporter.scheduling.rates import DOUBT
from virnucpro_exporter.scheduling.records import Attempt, FileRecord, WaitingClock, Worker
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings

# (state, what happens to the file) -> state. FileRetried puts it back into a queue.
TRANSITIONS: dict[tuple[FileState, type[ev.Action]], FileState] = {
    (FileState.QUEUED, ev.StartAttempt): FileState.PROCESSING,
    (FileState.QUEUED, ev.FileStolen): FileState.QUEUED,
    (FileState.PROCESSING, ev.StartAttempt): FileState.PROCESSING,
    (FileState.PROCESSING, ev.FileCompleted): FileState.COMPLETED,
    (FileState.PROCESSING, ev.FileRetried): FileState.QUEUED,
    (FileState.PROCESSING, ev.FileFailed): FileState.FAILED,
}

# A worker is given up after its process was lost on this many different files in a row, as long as
# another worker is left; a lone worker goes on, because each file is given up in time.
_LOSSES_BEFORE_RETIRING = 3

# While a worker waits and files run, a second attempt is thought about again this often: a share
# of the time that the run is expected to take, within bounds. In seconds.
_RETHINK_SHARE = 0.02
_RETHINK_AT_LEAST = 0.02
_RETHINK_AT_MOST = 1.0

RECENT_STEALS = 50

_NEVER = float("inf")


class Scheduler:
    """Decides; see the module's theory of operation.

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
        self.settings = settings or SchedulerSettings()
        self.policy: StealPolicy = policy or EarliestFinish()
        self.workers: dict[str, Worker] = {}
        self.fleet: list[Worker] = []
        self.files: dict[str, FileRecord] = {}
        self.steals: dict[tuple[str, str], int] = {}
        self.stolen_residues: dict[tuple[str, str], int] = {}
        self.recent_steals: deque[tuple[float, str, str, str]] = deque(maxlen=RECENT_STEALS)
        self.failures: deque[tuple[str, str]] = deque(maxlen=1000)
        self.resteals = self.retries = self.late_results = 0
        self.completed_files = self.failed_files = 0
        self.finished_at: float | None = None
        self.processing = 0  # files that at least one worker holds
        self._base = 1.0  # residues per second of a worker of weight 1, once anything was learned
        self.residues_total = self.residues_done = 0
        self.is_draining = False
        self.is_push = False  # workers wait for files; else callers come and ask
        self.is_finished = False
        self._actions: list[ev.Action] = []
        self._first_number = self._next_number = first_attempt - 1
        self._waiting = WaitingClock()
        self._urgent: list[Attempt] = []  # their files want a second attempt at once
        self._next_review = 0.0
        self._came_back = False  # a file was put back, for whoever waits
        self._next_look = _NEVER
        self._next_rethink = _NEVER
        for gpu, weight in weights.items():
            self._add_worker(gpu, (names or {}).get(gpu, ""), weight, now)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.FilesSubmitted: self._on_submitted,
            ev.WorkerReady: self._on_ready,
            ev.WorkRequested: self._on_requested,
            ev.AttemptStarted: self._on_started,
            ev.Progress: self._on_progress,
            ev.AttemptCompleted: self._on_completed,
            ev.AttemptFailed: self._on_failed,
            ev.WorkerLost: self._on_lost,
            ev.WorkerJoined: self._on_joined,
            ev.TimePassed: self._on_time,
            ev.DrainRequested: self._on_drain,
        }

    # -- the interface --

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
        actions = self._actions = []
        self._handlers[type(event)](event, now)
        if self._came_back:
            self._came_back = False
            self._feed_waiting(now)
        return actions

    def next_deadline(self) -> float | None:
        """When to call with `TimePassed` at the latest, or None while nothing is awaited."""
        soonest = min(self._next_look, self._next_rethink)
        return None if self.is_finished or soonest == _NEVER else soonest

    @property
    def queued_files(self) -> int:
        """Files that wait."""
        return self._waiting.files

    @property
    def has_begun(self) -> bool:
        """Whether any file was ever handed out."""
        return self._next_number > self._first_number

    def starved_now(self, worker: Worker, now: float) -> float:
        """Seconds since the worker became idle during which files waited elsewhere."""
        return self._waiting.read(now) - worker.idle_from if worker.awaits_work else 0.0

    # -- events --

    def _on_submitted(self, event: ev.FilesSubmitted, now: float) -> None:
        new = {file.path: file for file in event.files if file.path not in self.files}
        if not new:
            self._finish_if_done(now)
            return
        usable = [w for w in self.fleet if not w.is_retired] or self.fleet
        weights = {w.gpu: w.speed for w in usable}
        loads = {w.gpu: float(w.queued_residues) for w in usable}
        for gpu, files in assign_files_weighted(new.values(), weights, loads).items():
            self._fill_queue(self.workers[gpu], files, now)
        self.residues_total += sum(file.residues for file in new.values())
        self._waiting.count(len(new), now)
        self.is_finished = False
        self.finished_at = None
        self._feed_waiting(now)
        self._finish_if_done(now)

    def _fill_queue(self, worker: Worker, files: list[SequenceFile], now: float) -> None:
        if not files:
            return
        if not worker.has_work:
            worker.touched_at = now
            self._look_by(now + self.settings.stall_threshold)
        records = [FileRecord(file) for file in files]
        self.files.update((record.file.path, record) for record in records)
        if worker.queue:
            records = sorted([*worker.queue, *records], key=lambda r: -r.file.residues)
        worker.queue = deque(records)
        worker.queued_residues += sum(file.residues for file in files)

    def _on_joined(self, event: ev.WorkerJoined, now: float) -> None:
        if event.gpu in self.workers:
            raise SchedulingError(f"worker {event.gpu} is there already")
        self._add_worker(event.gpu, event.name, event.weight, now)

    def _on_ready(self, event: ev.WorkerReady, now: float) -> None:
        worker = self._worker(event.gpu)
        worker.is_ready = True
        worker.touched_at = now
        self.is_push = True
        self._feed(worker, now)

    def _on_requested(self, event: ev.WorkRequested, now: float) -> None:
        worker = self._worker(event.gpu)
        worker.is_ready = True
        if self.is_draining:
            return
        record = self._next_record(worker, now, asked=True)
        if record is None:
            self._idle(worker, now)
        else:
            self._start(worker, record, now)

    def _on_started(self, event: ev.AttemptStarted, now: float) -> None:
        attempt = self._worker(event.gpu).inflight.get(event.attempt)
        if attempt is not None and not attempt.is_cancelled:
            attempt.started_at = attempt.reported_at = now
            self._progressed(attempt.worker, now)
            if self.settings.file_timeout is not None:
                self._look_by(now + self.settings.file_timeout)

    def _on_progress(self, event: ev.Progress, now: float) -> None:
        worker = self._worker(event.gpu)
        attempt = worker.inflight.get(event.attempt)
        if attempt is None or attempt.is_cancelled:
            return
        if attempt.started_at is None:
            attempt.started_at = attempt.reported_at
        file = attempt.record.file
        residues = event.residues
        if residues is None and file.sequences:
            residues = file.residues * event.sequences // file.sequences
        self._advance(attempt, event.sequences, residues, now - attempt.reported_at, now)
        attempt.reported_at = now
        self._progressed(worker, now)
        if now >= self._next_review and self.settings.second_attempts:
            self._review(now)

    def _on_completed(self, event: ev.AttemptCompleted, now: float) -> None:
        worker = self._worker(event.gpu)
        attempt = worker.inflight.pop(event.attempt, None)
        if attempt is None or attempt.is_cancelled:
            self.late_results += 1
        else:
            self._succeed(attempt, event, now)
        self._released(worker, now)

    def _on_failed(self, event: ev.AttemptFailed, now: float) -> None:
        worker = self._worker(event.gpu)
        attempt = worker.inflight.pop(event.attempt, None)
        if attempt is None:
            self.late_results += 1
            return
        if not attempt.is_cancelled:
            self._progressed(worker, now)
            self._fail(attempt, event.error, now, permanent=event.permanent)
            if not event.permanent:
                self._doubt(worker, attempt, event.error, now)
        self._released(worker, now)

    def _on_lost(self, event: ev.WorkerLost, now: float) -> None:
        worker = self._worker(event.gpu)
        worker.is_ready = False
        running = self._drop_all(worker, event.reason, now, blame=event.blame, number=event.running)
        if running is not None and event.blame:
            worker.troubles.append(running.record.file.path)
        if worker.is_retired:
            return
        if not event.restart or self._is_hopeless(worker):
            self._retire(worker, event.reason, now)
        else:
            self._restart(worker, event.reason, now)

    def _on_time(self, event: ev.TimePassed, now: float) -> None:
        del event
        if now >= self._next_look:
            self._look(now)
        if now >= self._next_rethink:
            self._feed_waiting(now)

    def _on_drain(self, event: ev.DrainRequested, now: float) -> None:
        del event
        self.is_draining = True
        self._waiting.stop(now)
        self._finish_if_done(now)

    # -- handing out files --

    def _feed(self, worker: Worker, now: float) -> None:
        """Give the worker its next file, or several very short ones."""
        if self.is_draining or self.is_finished or not (worker.is_ready and self.is_push):
            return
        inflight = worker.inflight
        if not inflight:
            record = self._next_record(worker, now, asked=not worker.awaits_work)
            if record is None:
                self._idle(worker, now)
                return
            self._start(worker, record, now)
        wanted = self._batch_size(worker)
        if wanted > 1 and len(inflight) <= wanted // 2:
            while worker.queue and len(inflight) < wanted:
                self._start(worker, worker.take(0), now)

    def _batch_size(self, worker: Worker) -> int:
        settings = self.settings
        if worker.longest_recent * 2 > settings.batch_seconds or self._urgent:
            return 1
        if worker.longest_recent * settings.batch_files <= settings.batch_seconds:
            return settings.batch_files
        return int(settings.batch_seconds / worker.longest_recent)

    def _next_record(self, worker: Worker, now: float, *, asked: bool) -> FileRecord | None:
        if self._urgent:
            urgent = self._next_urgent(worker, now)
            if urgent is not None:
                return urgent
        if worker.queue:
            return worker.take(0)
        counters = worker.counters
        counters.steal_attempts += asked
        if self._waiting.files:
            choice = self.policy.steal(worker, self.fleet, now)
            if choice is not None:
                return self._steal(choice.victim, worker, choice.position, now)
            counters.steals_declined += asked
            return None
        counters.steals_empty += asked
        if self.settings.second_attempts:
            repeat = self.policy.repeat(worker, self.fleet, now)
            return repeat.record if repeat else None
        return None

    def _next_urgent(self, worker: Worker, now: float) -> FileRecord | None:
        """A file that wants a second attempt at once: its worker stalls or is far too slow."""
        self._urgent = [a for a in self._urgent if a.record.holders == (a,)]
        fastest = max(w.speed for w in self._usable())
        for attempt in self._urgent:
            if worker is not attempt.worker and (
                self.policy.suits(worker, attempt, fastest, now)
                or attempt.worker.stalled_since is not None
            ):
                return attempt.record
        return None

    def _review(self, now: float) -> None:
        """Find the attempts that alone would make the run end late."""
        self._next_review = now + self._rethink_interval(now)
        for worker in self.fleet:
            for attempt in worker.inflight.values():
                if attempt.record.holders != (attempt,) or attempt in self._urgent:
                    continue
                if self.policy.is_critical(attempt, self.fleet, now):
                    self._urgent.append(attempt)

    def _steal(self, victim: Worker, thief: Worker, position: int, now: float) -> FileRecord:
        record = victim.take(position)
        self._step(record, ev.FileStolen)
        pair = (victim.gpu, thief.gpu)
        self.steals[pair] = self.steals.get(pair, 0) + 1
        cost = record.file.residues
        self.stolen_residues[pair] = self.stolen_residues.get(pair, 0) + cost
        self.resteals += record.steals > 0
        record.steals += 1
        victim.counters.stolen_from += 1
        thief.counters.stolen_to += 1
        self.recent_steals.append((now, victim.gpu, thief.gpu, record.file.name))
        self._actions.append(ev.FileStolen(record.file, victim.gpu, thief.gpu))
        return record

    def _start(self, worker: Worker, record: FileRecord, now: float) -> None:
        self._next_number = number = self._next_number + 1
        is_second = record.state is FileState.PROCESSING
        attempt = Attempt(number, record, worker, now, is_second=is_second)
        if not is_second:
            self._waiting.count(-1, now)
            self.processing += 1
        self._step(record, ev.StartAttempt)
        record.holders = (*record.holders, attempt)
        record.attempts += 1
        if not worker.inflight:
            self._begin_busy(worker, now)
        worker.inflight[number] = attempt
        self._actions.append(ev.StartAttempt(worker.gpu, number, record.file))

    def _begin_busy(self, worker: Worker, now: float) -> None:
        self._end_idle(worker, now)
        worker.busy_since = now
        worker.touched_at = max(worker.touched_at, now)
        worker.throughput.begin(now)
        self._look_by(now + self.settings.stall_threshold)

    def _released(self, worker: Worker, now: float) -> None:
        """The worker has one file less in its hands."""
        if not worker.inflight and worker.busy_since is not None:
            worker.counters.busy_seconds += now - worker.busy_since
            worker.busy_since = None
        self._feed(worker, now)
        if not self.processing:
            self._finish_if_done(now)

    def _idle(self, worker: Worker, now: float) -> None:
        if not worker.awaits_work:
            worker.awaits_work = True
            worker.idle_from = self._waiting.read(now)
        if self.processing or self._waiting.files:
            self._next_rethink = min(self._next_rethink, now + self._rethink_interval(now))

    def _end_idle(self, worker: Worker, now: float) -> None:
        if worker.awaits_work:
            worker.awaits_work = False
            worker.counters.starved_seconds += self._waiting.read(now) - worker.idle_from

    def _feed_waiting(self, now: float) -> None:
        """Look again at the workers that got nothing, the fastest first."""
        self._next_rethink = _NEVER
        waiting = [w for w in self.fleet if w.is_ready and not w.inflight]
        for worker in sorted(waiting, key=lambda w: -w.speed):
            self._feed(worker, now)

    def _rethink_interval(self, now: float) -> float:
        ends = [w.finish_at(now) for w in self.fleet if w.has_work]
        left = max((end - now for end in ends if end < _NEVER), default=_RETHINK_AT_MOST)
        return min(max(left * _RETHINK_SHARE, _RETHINK_AT_LEAST), _RETHINK_AT_MOST)

    # -- how attempts end --

    def _succeed(self, attempt: Attempt, event: ev.AttemptCompleted, now: float) -> None:
        worker, record = attempt.worker, attempt.record
        file = record.file
        seconds = now - attempt.reported_at if attempt.done else event.duration
        residues = file.residues if event.residues is None else event.residues
        sequences = file.sequences if event.sequences is None else event.sequences
        self._advance(attempt, sequences or 0, residues, seconds, now)
        self._progressed(worker, now)
        counters = worker.counters
        counters.completed += 1
        counters.durations.add(event.duration, file.name, now)
        worker.throughput.file_ended(now)
        worker.longest_recent = max(event.duration, 0.8 * min(worker.longest_recent, 1e9))
        if worker.troubles:
            worker.troubles.clear()
        self.residues_total += residues - file.residues
        self.residues_done += residues
        self.completed_files += 1
        counters.seconds_won += attempt.is_second
        self.processing -= 1
        self._step(record, ev.FileCompleted)
        self._cancel_others(attempt)
        record.holders = ()
        self._actions.append(
            ev.FileCompleted(
                file,
                worker.gpu,
                attempt.number,
                record.attempts,
                event.duration,
                sequences,
                residues,
            )
        )

    def _cancel_others(self, winner: Attempt) -> None:
        """Stop the attempts that came second."""
        for attempt in winner.record.holders:
            if attempt is not winner:
                attempt.worker.counters.seconds_lost += attempt.is_second
                self._cancel(attempt)

    def _cancel(self, attempt: Attempt) -> None:
        attempt.is_cancelled = True
        self._actions.append(ev.CancelAttempt(attempt.worker.gpu, attempt.number))

    def _fail(self, attempt: Attempt, error: str, now: float, *, permanent: bool = False) -> None:
        """One attempt failed: try the file again, or give it up."""
        worker, record = attempt.worker, attempt.record
        worker.counters.failures += 1
        worker.counters.seconds_lost += attempt.is_second
        record.failures += 1
        record.avoid |= {worker.gpu}
        record.holders = tuple(a for a in record.holders if a is not attempt)
        record.story = (*record.story, f"failed on {worker.gpu}: {error}")
        given_up = permanent or record.failures >= self.settings.max_attempts
        if record.holders and not given_up:
            return  # the other attempt goes on
        for other in record.holders:
            self._cancel(other)
        record.holders = ()
        self.processing -= 1
        file = record.file
        if given_up:
            self._step(record, ev.FileFailed)
            self.failed_files += 1
            self.failures.append((file.path, error))
            self.residues_total -= file.residues
            self._actions.append(ev.FileFailed(file, worker.gpu, record.attempts, error))
        else:
            self.retries += 1
            self._requeue(attempt, error, now)

    def _requeue(self, attempt: Attempt, error: str, now: float) -> None:
        """Put the file of an attempt that ended without a result where it will be done soonest."""
        record = attempt.record
        self._step(record, ev.FileRetried)
        self._actions.append(
            ev.FileRetried(record.file, attempt.worker.gpu, attempt.number, record.attempts, error)
        )
        self._forgive(record)
        allowed = [w for w in self._usable() if w.gpu not in record.avoid] or [attempt.worker]
        target = min(allowed, key=lambda w: (w.finish_at(now), w.index))
        if not target.has_work:
            target.touched_at = max(target.touched_at, now)
        target.push(record)
        self._waiting.count(1, now)
        self._look_by(now + self.settings.stall_threshold)
        self._came_back = True

    def _forgive(self, record: FileRecord) -> None:
        """A file that failed on every worker that is left may be tried on any of them again."""
        if all(w.gpu in record.avoid for w in self._usable()):
            record.avoid = frozenset()

    def _drop_all(
        self, worker: Worker, reason: str, now: float, *, blame: bool, number: int | None = None
    ) -> Attempt | None:
        """The process of a worker is gone: what it held goes back. Returns what it was doing."""
        attempts = [a for a in worker.inflight.values() if not a.is_cancelled]
        worker.inflight.clear()
        self._end_idle(worker, now)
        first = attempts[0] if attempts else None
        running = next((a for a in attempts if a.number == number), first)
        for attempt in attempts:
            record = attempt.record
            if attempt is running and blame:
                self._fail(attempt, reason, now)
                continue
            record.holders = tuple(a for a in record.holders if a is not attempt)
            worker.counters.seconds_lost += attempt.is_second
            if not record.holders:
                self.processing -= 1
                self._requeue(attempt, reason, now)
        if worker.busy_since is not None:
            worker.counters.busy_seconds += now - worker.busy_since
            worker.busy_since = None
        if not self.processing:
            self._finish_if_done(now)
        return running

    # -- workers that come and go --

    def _add_worker(self, gpu: str, name: str, weight: float, now: float) -> None:
        worker = Worker(gpu, name, weight, len(self.fleet), now)
        worker.speed = weight * self._base
        self.workers[gpu] = worker
        self.fleet.append(worker)

    def _worker(self, gpu: str) -> Worker:
        try:
            return self.workers[gpu]
        except KeyError:
            raise SchedulingError(f"there is no worker {gpu}") from None

    def _doubt(self, worker: Worker, attempt: Attempt, error: str, now: float) -> None:
        """Replace a process on which file after file fails: its GPU context may be gone."""
        worker.troubles.append(attempt.record.file.path)
        if len(set(worker.troubles)) >= _LOSSES_BEFORE_RETIRING and not self._is_hopeless(worker):
            self._drop_all(worker, error, now, blame=False)
            self._restart(worker, error, now)

    def _is_hopeless(self, worker: Worker) -> bool:
        others = any(w is not worker and not w.is_retired for w in self.fleet)
        return others and len(set(worker.troubles)) >= 2 * _LOSSES_BEFORE_RETIRING

    def _restart(self, worker: Worker, reason: str, now: float) -> None:
        worker.is_ready = False
        worker.counters.restarts += 1
        worker.touched_at = now
        self._end_stall(worker, now)
        self._actions.append(ev.RestartWorker(worker.gpu, reason))

    def _retire(self, worker: Worker, reason: str, now: float) -> None:
        worker.is_retired = True
        worker.is_ready = False
        self._end_stall(worker, now)
        self._actions.append(ev.RetireWorker(worker.gpu, reason))
        for record in [r for w in self.fleet for r in w.queue if r.avoid]:
            self._forgive(record)
        self._came_back = True
        self._finish_if_done(now)

    # -- progress, stalls and limits --

    def _advance(
        self, attempt: Attempt, sequences: int, residues: int | None, seconds: float, now: float
    ) -> None:
        """Count what was done since the last report and learn from it."""
        worker = attempt.worker
        new = sequences - attempt.sequences
        if new > 0:
            worker.throughput.add(new, now)
            attempt.sequences = sequences
        if residues is None or residues <= attempt.done:
            return
        done = residues - attempt.done
        attempt.done = residues
        worker.counters.residues += done
        learned = worker.learned
        first = learned.value is None
        learned.observe(done, seconds, min(1.0, done / max(attempt.record.file.residues, 1)))
        if learned.value is not None:
            worker.speed = learned.value
            if first:
                self._rebase()

    def _rebase(self) -> None:
        """Express the declared speeds in residues per second, now that something was measured."""
        known = [w for w in self.fleet if w.learned.value is not None]
        self._base = sum(w.speed for w in known) / sum(w.weight for w in known)
        for worker in self.fleet:
            if worker.learned.value is None:
                worker.speed = worker.weight * self._base

    def _progressed(self, worker: Worker, now: float) -> None:
        worker.last_progress = worker.touched_at = now
        if worker.stalled_since is not None:
            self._end_stall(worker, now)

    def _end_stall(self, worker: Worker, now: float) -> None:
        if worker.stalled_since is not None:
            seconds = now - worker.stalled_since
            worker.counters.stalled_seconds += seconds
            worker.stalled_since = None
            self._actions.append(ev.StallEnded(worker.gpu, seconds))

    def _look_by(self, when: float) -> None:
        self._next_look = min(self._next_look, when)

    def _look(self, now: float) -> None:
        """Find the workers that stall and the attempts that take too long."""
        self._next_look = _NEVER
        threshold = self.settings.stall_threshold
        for worker in self.fleet:
            if not self._can_stall(worker):
                continue
            if now >= worker.touched_at + threshold:
                self._stall(worker, now)
            else:
                self._look_by(worker.touched_at + threshold)
            if self.settings.file_timeout is not None:
                self._check_timeout(worker, self.settings.file_timeout, now)

    def _can_stall(self, worker: Worker) -> bool:
        has_work = worker.has_work if not self.is_draining else bool(worker.inflight)
        return has_work and not worker.is_retired and worker.stalled_since is None

    def _stall(self, worker: Worker, now: float) -> None:
        silent = now - worker.touched_at
        running = next((a for a in worker.inflight.values() if not a.is_cancelled), None)
        worker.stalled_since = now
        worker.counters.stalls += 1
        path = running.record.file.path if running else None
        self._actions.append(ev.StallStarted(worker.gpu, path, silent))
        if running is None:
            return
        if self.settings.on_stall is OnStall.RETRY:
            self._urgent.append(running)
            self._feed_waiting(now)
        elif self.settings.on_stall is OnStall.RESTART:
            reason = f"no progress for {silent:.0f} s"
            worker.learned.doubt()
            worker.speed = worker.learned.value or worker.speed / DOUBT
            worker.troubles.append(running.record.file.path)
            self._drop_all(worker, reason, now, blame=True)
            if len(worker.troubles) > 1 and any(w is not worker for w in self._usable()):
                self._retire(worker, reason, now)
            else:
                self._restart(worker, reason, now)
            self._feed_waiting(now)

    def _usable(self) -> list[Worker]:
        return [w for w in self.fleet if not w.is_retired]

    def _check_timeout(self, worker: Worker, limit: float, now: float) -> None:
        for attempt in list(worker.inflight.values()):
            if attempt.started_at is None or attempt.is_cancelled:
                continue
            if now >= attempt.started_at + limit:
                self._cancel(attempt)
                self._fail(attempt, f"took longer than the limit of {limit:g} s", now)
            else:
                self._look_by(attempt.started_at + limit)

    # -- states --

    def _step(self, record: FileRecord, cause: type[ev.Action]) -> None:
        try:
            record.state = TRANSITIONS[record.state, cause]
        except KeyError:
            raise SchedulingError(
                f"{cause.__name__} cannot happen to a file that is {record.state.value}; "
                f"its story: {self.story(record.file)}"
            ) from None

    def _finish_if_done(self, now: float) -> None:
        if self.is_finished or self.processing:
            return
        stuck = all(w.is_retired for w in self.fleet)
        if self._waiting.files and not self.is_draining and not stuck:
            return
        self.is_finished = True
        self.finished_at = now
        self._waiting.stop(now)
        self._actions.append(ev.RunFinished())

    def story(self, file: SequenceFile) -> str:
        """What happened to a file so far, in one line."""
        record = self.files.get(file.path)
        if record is None:
            return f"{file.path} was never submitted"
        holders = ", ".join(f"attempt {a.number} on {a.worker.gpu}" for a in record.holders)
        facts = [record.state.value, f"{record.attempts} attempts", f"{record.steals} steals"]
        return "; ".join([*facts, *record.story, *([f"held by {holders}"] if holders else [])])
