"""The laws that the scheduler must obey, as code."""

from __future__ import annotations

from collections import Counter

from virnucpro_exporter.scheduling.files import FileState
from virnucpro_exporter.scheduling.planning import MOST_MOVES
from virnucpro_exporter.scheduling.scheduler import Scheduler


def check_invariants(scheduler: Scheduler) -> None:
    """Check the laws of the scheduler; for tests, in proportion to the number of files.

    Raises:
        AssertionError: A law is broken; the message says which and for which file or worker.
    """
    ledger = scheduler.ledger
    states = Counter(record.state for record in ledger.files.values())
    queued = Counter(r.file.path for w in ledger.fleet for r in w.queue)
    _law(states[FileState.QUEUED] == ledger.queued_files, "queued files add up")
    _law(states[FileState.PROCESSING] == ledger.processing, "files in process add up")
    _law(states[FileState.COMPLETED] == ledger.completed_files, "completed files add up")
    _law(states[FileState.FAILED] == ledger.failed_files, "failed files add up")
    for path, record in ledger.files.items():
        story = record.story()
        is_queued = record.state is FileState.QUEUED
        is_held = record.state is FileState.PROCESSING
        _law(queued[path] == is_queued, f"a file is in one queue or none: {story}")
        _law(len(record.holders) <= 2, f"a file has at most two holders: {story}")
        _law(bool(record.holders) == is_held, f"a file in process has a holder: {story}")
        for attempt in record.holders:
            held = attempt.worker.inflight.get(attempt.number) is attempt
            _law(held and not attempt.is_cancelled, f"holders hold: {story}")
        limit = ledger.settings.max_attempts
        _law(record.failures <= limit, f"attempts stay within the limit: {story}")
        _law(record.moves <= MOST_MOVES, f"a file is not taken back again and again: {story}")
    for worker in ledger.fleet:
        residues = sum(record.file.residues for record in worker.queue)
        _law(residues == worker.queued_residues, f"queue of {worker.gpu} adds up")
        costs = [record.file.residues for record in worker.queue]
        _law(costs == sorted(costs, reverse=True), f"queue of {worker.gpu} is sorted")
        is_free = worker.is_ready and not worker.inflight and ledger.is_push
        if is_free and not ledger.is_draining and not ledger.is_finished:
            _law(not worker.queue, f"{worker.gpu} does not wait beside its own files")


def _law(holds: bool, law: str) -> None:  # noqa: FBT001 - reads as a sentence where it is used
    if not holds:
        raise AssertionError(law)
