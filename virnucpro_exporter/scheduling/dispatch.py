"""Handing out files: from the worker's own queue, from another's, or once more."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import FileState
from virnucpro_exporter.scheduling.lifecycle import step
from virnucpro_exporter.scheduling.records import Attempt, FileRecord, Worker
from virnucpro_exporter.scheduling.review import rethink_interval
from virnucpro_exporter.scheduling.state import NEVER, Ledger
from virnucpro_exporter.snapshot import PAIRED_WORKERS


class Dispatcher:
    """Finds the next file for a worker and starts the attempt.

    Args:
        ledger: The run.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def feed(self, worker: Worker, now: float) -> None:
        """Give a worker that waits for files its next one, or several very short ones."""
        self._feed([worker], now)

    def feed_waiting(self, now: float) -> None:
        """Look again at the workers that got nothing, the fastest first."""
        self._ledger.next_rethink = NEVER
        waiting = [w for w in self._ledger.fleet if w.is_ready and not w.inflight]
        self._feed(sorted(waiting, key=lambda w: -w.speed), now)

    def _feed(self, workers: Sequence[Worker], now: float) -> None:
        ledger = self._ledger
        if ledger.is_draining or ledger.is_finished or not ledger.is_push:
            return
        left = []
        for worker in workers:
            if worker.is_ready:
                self._hand_over(worker, now)
                if not worker.inflight:
                    left.append(worker)
        if left:
            self._repeat_or_wait(left, now)

    def _hand_over(self, worker: Worker, now: float) -> None:
        inflight = worker.inflight
        if not inflight:
            record = self._next_record(worker, now, asked=not worker.awaits_work)
            if record is None:
                return
            self._start(worker, record, now)
        wanted = self._batch_size(worker)
        if wanted > 1 and len(inflight) <= wanted // 2:
            while worker.queue and len(inflight) < wanted:
                self._start(worker, worker.take(0), now)

    def _repeat_or_wait(self, idle: Sequence[Worker], now: float) -> None:
        """Start second attempts if no file waits; whoever gets none waits."""
        ledger = self._ledger
        if ledger.settings.second_attempts and not ledger.waiting.files:
            for worker, attempt in ledger.policy.repeats(idle, ledger.fleet, now):
                self._start(worker, attempt.record, now)
        for worker in idle:
            if not worker.inflight:
                self._wait(worker, now)

    def ask(self, worker: Worker, now: float) -> None:
        """Give one file to a worker whose caller came and asked."""
        if self._ledger.is_draining:
            return
        record = self._next_record(worker, now, asked=True)
        if record is None:
            self._repeat_or_wait([worker], now)
        else:
            self._start(worker, record, now)

    def released(self, worker: Worker, now: float) -> None:
        """The worker has one file less in its hands."""
        self.feed(worker, now)
        if not worker.inflight:
            worker.end_busy(now)
        if not self._ledger.processing:
            self._ledger.finish_if_done(now)

    def _wait(self, worker: Worker, now: float) -> None:
        ledger = self._ledger
        ledger.begin_idle(worker, now)
        # All who wait are looked at again together.
        if ledger.next_rethink == NEVER and (ledger.processing or ledger.waiting.files):
            ledger.next_rethink = now + rethink_interval(ledger, now)

    def _batch_size(self, worker: Worker) -> int:
        settings, longest = self._ledger.settings, worker.longest_recent
        if longest * 2 > settings.batch_seconds or self._ledger.urgent:
            return 1
        if longest * settings.batch_files <= settings.batch_seconds:
            return settings.batch_files
        return int(settings.batch_seconds / longest)

    def _next_record(self, worker: Worker, now: float, *, asked: bool) -> FileRecord | None:
        ledger = self._ledger
        if ledger.urgent:
            urgent = self._next_urgent(worker, now)
            if urgent is not None:
                return urgent
        if worker.queue:
            return worker.take(0)
        counters = worker.counters
        counters.steal_attempts += asked
        if ledger.waiting.files:
            choice = ledger.policy.steal(worker, ledger.fleet, now)
            if choice is not None:
                return self._steal(choice.victim, worker, choice.position, now)
            counters.steals_declined += asked
        else:
            counters.steals_empty += asked
        return None

    def _next_urgent(self, worker: Worker, now: float) -> FileRecord | None:
        """The file of which the worker should make the second attempt at once, or None."""
        ledger = self._ledger
        ledger.urgent = [a for a in ledger.urgent if a.record.holders == (a,)]
        for attempt in ledger.urgent:
            if worker is not attempt.worker and ledger.policy.suits(
                worker, attempt, ledger.fleet, now
            ):
                return attempt.record
        return None

    def _steal(self, victim: Worker, thief: Worker, position: int, now: float) -> FileRecord:
        ledger, record = self._ledger, victim.take(position)
        step(record, ev.FileStolen)
        is_paired = len(ledger.fleet) <= PAIRED_WORKERS
        pair = (victim.gpu if is_paired else "", thief.gpu)
        ledger.steals[pair] = ledger.steals.get(pair, 0) + 1
        cost = record.file.residues
        ledger.stolen_residues[pair] = ledger.stolen_residues.get(pair, 0) + cost
        ledger.resteals += record.steals > 0
        record.steals += 1
        victim.counters.stolen_from += 1
        victim.counters.stolen_residues += cost
        thief.counters.stolen_to += 1
        ledger.recent_steals.append((now, victim.gpu, thief.gpu, record.file.name))
        ledger.actions.append(ev.FileStolen(record.file, victim.gpu, thief.gpu))
        return record

    def _start(self, worker: Worker, record: FileRecord, now: float) -> None:
        ledger = self._ledger
        ledger.last_number = number = ledger.last_number + 1
        is_second = record.state is FileState.PROCESSING
        attempt = Attempt(number, record, worker, now, is_second=is_second)
        if not is_second:
            ledger.waiting.count(-1, now)
            ledger.processing += 1
        step(record, ev.StartAttempt)
        record.holders = (*record.holders, attempt)
        record.attempts += 1
        if not worker.inflight:
            self._begin(worker, now)
        worker.inflight[number] = attempt
        ledger.actions.append(ev.StartAttempt(worker.gpu, number, record.file))

    def _begin(self, worker: Worker, now: float) -> None:
        """The worker holds a file again."""
        worker.touched_at = max(worker.touched_at, now)
        if worker.busy_since is None:
            worker.busy_since = now
            self._ledger.end_idle(worker, now)
            worker.throughput.begin(now)
            self._ledger.look_by(now + self._ledger.settings.stall_threshold)
