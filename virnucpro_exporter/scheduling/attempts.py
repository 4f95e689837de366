"""How attempts end: in the one result of their file, in a failure, or with their worker."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.lifecycle import step
from virnucpro_exporter.scheduling.progress import ProgressBook
from virnucpro_exporter.scheduling.records import NOBODY, Attempt, FileRecord, Worker
from virnucpro_exporter.scheduling.state import Ledger

# So many workers are compared when a file goes back into a queue.
_MOST_ASKED = 64


class Outcomes:
    """Books the ends of attempts; who does the file next is left to others.

    Args:
        ledger: The run.
        progress: What is told of work done.
    """

    def __init__(self, ledger: Ledger, progress: ProgressBook) -> None:
        self._ledger = ledger
        self._progress = progress

    def succeed(self, attempt: Attempt, event: ev.AttemptCompleted, now: float) -> None:
        """The attempt is the first to complete: its result is that of the file."""
        ledger, worker, record = self._ledger, attempt.worker, attempt.record
        file, duration = record.file, event.duration
        seconds = now - attempt.reported_at if attempt.done else duration
        residues = file.residues if event.residues is None else event.residues
        sequences = file.sequences if event.sequences is None else event.sequences
        self._progress.advance(attempt, sequences or 0, residues, seconds, now)
        self._progress.was_silent(worker, now)
        self._progress.made(worker, now)
        counters = worker.counters
        counters.completed += 1
        counters.sequences += attempt.sequences if sequences is None else sequences
        counters.durations.add(duration, file, now)
        worker.throughput.file_ended(now)
        worker.longest_recent = max(duration, 0.8 * worker.longest_recent)
        if worker.troubles:
            worker.troubles.clear()
        ledger.residues_total += residues - file.residues
        ledger.residues_done += residues
        ledger.completed_files += 1
        counters.seconds_won += attempt.is_second
        self._cancel_others(attempt)
        self._release(record)
        step(record, ev.FileCompleted)
        ledger.actions.append(
            ev.FileCompleted(
                file, worker.gpu, attempt.number, record.attempts, duration, sequences, residues
            )
        )

    def _release(self, record: FileRecord) -> None:
        """Nobody holds the file any more."""
        record.holders = ()
        self._ledger.processing -= 1

    def _cancel_others(self, winner: Attempt) -> None:
        """Stop the attempts that came second."""
        for attempt in winner.record.holders:
            if attempt is not winner:
                attempt.worker.counters.seconds_lost += attempt.is_second
                self.cancel(attempt)

    def cancel(self, attempt: Attempt) -> None:
        """Stop an attempt; what it still reports is dropped."""
        attempt.is_cancelled = True
        self._ledger.actions.append(ev.CancelAttempt(attempt.worker.gpu, attempt.number))

    def fail(self, attempt: Attempt, error: str, now: float, *, permanent: bool = False) -> None:
        """One attempt failed: try the file again, or give it up."""
        worker, record = attempt.worker, attempt.record
        worker.counters.failures += 1
        record.failures += 1
        record.avoid |= {worker.gpu}
        record.errors = (*record.errors, f"failed on {worker.gpu}: {error}")
        self._leave(attempt)
        given_up = permanent or record.failures >= self._ledger.settings.max_attempts
        if record.holders and not given_up:
            return  # the other attempt goes on
        for other in record.holders:
            self.cancel(other)
        self._release(record)
        if given_up:
            self._give_up(attempt, error)
        else:
            self._ledger.retries += 1
            self._requeue(attempt, error, now)

    def _leave(self, attempt: Attempt) -> None:
        """The attempt holds its file no more."""
        attempt.worker.counters.seconds_lost += attempt.is_second
        record = attempt.record
        record.holders = tuple(a for a in record.holders if a is not attempt)

    def _give_up(self, attempt: Attempt, error: str) -> None:
        ledger, record = self._ledger, attempt.record
        step(record, ev.FileFailed)
        ledger.failed_files += 1
        ledger.failures.append((record.file.path, error))
        ledger.residues_total -= record.file.residues
        ledger.actions.append(
            ev.FileFailed(record.file, attempt.worker.gpu, record.attempts, error)
        )

    def take_back(
        self, attempt: Attempt, reason: str, now: float, target: Worker | None = None
    ) -> None:
        """Stop the only attempt at a file, so that another worker does it; nobody is to blame."""
        self.cancel(attempt)
        self._leave(attempt)
        self._release(attempt.record)
        attempt.record.moves += 1
        self._requeue(attempt, reason, now, target)

    def _requeue(
        self, attempt: Attempt, error: str, now: float, target: Worker | None = None
    ) -> None:
        """Put a file that nobody holds any more into a queue: where it will be done soonest."""
        ledger, record = self._ledger, attempt.record
        step(record, ev.FileRetried)
        ledger.actions.append(
            ev.FileRetried(record.file, attempt.worker.gpu, attempt.number, record.attempts, error)
        )
        self.forgive(record)
        if target is None:
            allowed = [w for w in ledger.usable() if w.gpu not in record.avoid] or [attempt.worker]
            target = _ends_first(allowed, record.file.residues, now)
        if not target.has_work:
            target.touched_at = max(target.touched_at, now)
        target.push(record)
        ledger.waiting.count(1, now)
        ledger.look_by(now + ledger.settings.stall_threshold)
        ledger.came_back = True

    def forgive(self, record: FileRecord) -> None:
        """A file that failed on every worker that is left may be tried on any of them again."""
        if all(w.gpu in record.avoid for w in self._ledger.usable()):
            record.avoid = NOBODY

    def drop_all(
        self, worker: Worker, reason: str, now: float, *, blame: bool, number: int | None = None
    ) -> Attempt | None:
        """The process of a worker is gone: what it held goes back.

        Args:
            worker: Whose process.
            reason: How it ended.
            now: The present time.
            blame: The file it was processing is charged with a failed attempt.
            number: The attempt it was processing; by default the first it was handed.

        Returns:
            The attempt it was processing, or None.
        """
        ledger, attempts = self._ledger, worker.running
        worker.inflight.clear()
        worker.end_busy(now)
        ledger.end_idle(worker, now)
        first = attempts[0] if attempts else None
        running = next((a for a in attempts if a.number == number), first)
        for attempt in attempts:
            if attempt is running and blame:
                self.fail(attempt, reason, now)
                continue
            self._leave(attempt)
            if not attempt.record.holders:
                self._release(attempt.record)
                self._requeue(attempt, reason, now)
        ledger.finish_if_done(now)
        return running


def _ends_first(workers: Sequence[Worker], cost: int, now: float) -> Worker:
    """The worker that would end a file of this cost first.

    Reading a thousand long queues would take longer than most files. So only those workers are
    asked that could end it soonest if their queues were empty.
    """
    least = [(w.free_at(now) + cost / w.speed, w.index, w) for w in workers]
    soonest = heapq.nsmallest(_MOST_ASKED, least)
    return min((w for *_, w in soonest), key=lambda w: (w.would_end(cost, now), w.index))
