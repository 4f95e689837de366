"""The laws that the scheduler must obey, as code."""

from __future__ import annotations

from collections import Counter

from virnucpro_exporter.scheduling.files import FileState
from virnucpro_exporter.scheduling.rebalancing import MOST_MOVES
from virnucpro_exporter.scheduling.records import FileRecord, Worker
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.state import NEVER, Ledger


def check_invariants(scheduler: Scheduler) -> None:
    """Check the laws that hold after every event; for tests, in proportion to the files.

    Raises:
        AssertionError: A law is broken; the message says which and for which file or worker.
    """
    ledger = scheduler.ledger
    _check_counts(ledger)
    queued = Counter(r.file.path for w in ledger.fleet for r in w.queue)
    for record in ledger.files.values():
        _check_file(record, queued[record.file.path], ledger.settings.max_attempts)
    for worker in ledger.fleet:
        _check_worker(worker, ledger)
    if ledger.is_finished:
        _law(not ledger.processing, "a run that is finished has no file in process")


def check_nobody_idles(scheduler: Scheduler, now: float) -> None:
    """Check that no worker waits beside a file that it should take.

    This holds whenever the waiting workers have just been looked at; between two looks, which a
    deadline keeps close together, estimates may change.

    Raises:
        AssertionError: A worker waits in vain.
    """
    ledger = scheduler.ledger
    for worker in ledger.fleet:
        if _may_work(worker, ledger) and not worker.inflight:
            choice = ledger.policy.steal(worker, ledger.fleet, now)
            _law(choice is None, f"{worker.gpu} does not wait beside a file that it should take")


def _may_work(worker: Worker, ledger: Ledger) -> bool:
    return worker.is_ready and ledger.is_push and not (ledger.is_draining or ledger.is_finished)


def _check_counts(ledger: Ledger) -> None:
    states = Counter(record.state for record in ledger.files.values())
    _law(states[FileState.QUEUED] == ledger.queued_files, "queued files add up")
    _law(states[FileState.PROCESSING] == ledger.processing, "files in process add up")
    _law(states[FileState.COMPLETED] == ledger.completed_files, "completed files add up")
    _law(states[FileState.FAILED] == ledger.failed_files, "failed files add up")
    counters = [worker.counters for worker in ledger.fleet]
    steals = sum(ledger.steals.values())
    _law(sum(c.completed for c in counters) == ledger.completed_files, "completions add up")
    _law(sum(c.stolen_from for c in counters) == steals, "files stolen from workers add up")
    _law(sum(c.stolen_to for c in counters) == steals, "files stolen by workers add up")
    residues = sum(ledger.stolen_residues.values())
    _law(sum(c.stolen_residues for c in counters) == residues, "residues stolen add up")
    _law(sum(r.steals for r in ledger.files.values()) == steals, "steals of files add up")
    asked = all(c.steal_attempts >= c.steals_empty + c.steals_declined for c in counters)
    _law(asked, "who got nothing had asked")
    begun = ledger.last_number - ledger.number_before
    _law(sum(r.attempts for r in ledger.files.values()) == begun, "attempts add up")


def _check_file(record: FileRecord, times_queued: int, max_attempts: int) -> None:
    story = record.story()
    is_queued = record.state is FileState.QUEUED
    is_held = record.state is FileState.PROCESSING
    _law(times_queued == is_queued, f"a file is in one queue or none: {story}")
    _law(len(record.holders) <= 2, f"a file has at most two holders: {story}")
    _law(bool(record.holders) == is_held, f"a file in process has a holder: {story}")
    workers = {attempt.worker.gpu for attempt in record.holders}
    _law(len(workers) == len(record.holders), f"no worker holds a file twice: {story}")
    for attempt in record.holders:
        held = attempt.worker.inflight.get(attempt.number) is attempt
        _law(held and not attempt.is_cancelled, f"holders hold: {story}")
    _law(record.failures <= max_attempts, f"attempts stay within the limit: {story}")
    _law(record.moves <= MOST_MOVES, f"a file is not taken back again and again: {story}")


def _check_worker(worker: Worker, ledger: Ledger) -> None:
    residues = sum(record.file.residues for record in worker.queue)
    _law(residues == worker.queued_residues, f"queue of {worker.gpu} adds up")
    costs = [record.file.residues for record in worker.queue]
    _law(costs == sorted(costs, reverse=True), f"queue of {worker.gpu} is sorted")
    for attempt in worker.running:
        _law(attempt in attempt.record.holders, f"what {worker.gpu} holds is wanted")
    _law(not (worker.is_retired and worker.inflight), f"{worker.gpu} is gone and holds nothing")
    if _may_work(worker, ledger) and not worker.inflight:
        _law(not worker.queue, f"{worker.gpu} does not wait beside its own files")
        is_watched = ledger.next_rethink < NEVER or not ledger.queued_files
        _law(is_watched, f"{worker.gpu} is looked at again while files wait")
    if worker.has_work and worker.is_ready and not ledger.is_draining and not ledger.is_finished:
        is_watched = worker.stalled_since is not None or ledger.next_look < NEVER
        _law(is_watched, f"{worker.gpu} is watched for stalls")


def _law(holds: bool, law: str) -> None:  # noqa: FBT001 - reads as a sentence where it is used
    if not holds:
        raise AssertionError(law)
