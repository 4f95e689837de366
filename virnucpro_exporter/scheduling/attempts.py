"""How attempts end: in the one result of their file, in a failure, or with their worker."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from virnucpro_exporter.scheduling import splitting
from virnucpro_exporter.scheduling.events import AttemptCompleted, Cut
from virnucpro_exporter.scheduling.facts import Outcome
from virnucpro_exporter.scheduling.files import Attempt
from virnucpro_exporter.scheduling.ids import AttemptNumber
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker

# So many workers are compared when a file goes back into a queue.
_MOST_ASKED = 64


def succeed(state: State, attempt: Attempt, event: AttemptCompleted, now: float) -> None:
    """The attempt is the first to complete: its result is that of the file, or of its part."""
    split = attempt.record.split
    if split is not None and attempt.record.is_join:
        splitting.complete_join(state, attempt, split, event.duration, event.outputs, now)
        return
    file = attempt.record.file
    residues = file.residues if event.residues is None else event.residues
    sequences = file.sequences if event.sequences is None else event.sequences
    state.finish_work(attempt, sequences or 0, residues, event.duration, now)
    result = (sequences, residues, event.duration, event.outputs)
    if split is None:
        state.complete(attempt, *result, now)
    else:
        splitting.complete_part(state, attempt, split, *result, now)


def shrink(state: State, attempt: Attempt, cut: Cut, now: float) -> None:
    """The worker of an attempt has given the end of its range away.

    Another attempt at the whole range may have begun before the worker answered. Then this one no
    longer does all that is wanted of it.
    """
    if attempt.record.holders != (attempt,):
        state.stop(attempt, Outcome.SUPERSEDED, "another attempt has all of its range", now)
        return
    wanted = attempt.asked_for
    if wanted is not None and wanted.is_ready and not wanted.has_work:
        target = wanted
    elif wanted is None and attempt.started_at is not None:
        target = attempt.worker  # it is about to be free
    else:
        left = max(1, attempt.record.file.residues // 2)
        target = _ends_first(state.usable() or [attempt.worker], left, now)
    splitting.split(state, attempt, cut, target, now)


def fail(
    state: State,
    attempt: Attempt,
    outcome: Outcome,
    error: str,
    now: float,
    *,
    permanent: bool = False,
) -> None:
    """An attempt that its worker holds no more failed: try the file again, or give it up."""
    state.end(attempt, outcome, error, is_charged=True, has_begun=True)
    _go_on_after_failure(state, attempt, outcome, error, now, permanent=permanent)


def excuse(state: State, attempt: Attempt, error: str, now: float) -> None:
    """An attempt failed for what is no fault of its file: the file waits again."""
    state.end(attempt, Outcome.FAILED, error, has_begun=True)
    if not attempt.record.holders:
        _requeue(state, attempt, Outcome.FAILED, error, now)


def time_out(state: State, attempt: Attempt, error: str, now: float) -> None:
    """An attempt took too long: that is a failure, and its worker has to stop it."""
    state.stop(attempt, Outcome.TIMED_OUT, error, now, is_charged=True)
    _go_on_after_failure(state, attempt, Outcome.TIMED_OUT, error, now)


def _go_on_after_failure(
    state: State,
    attempt: Attempt,
    outcome: Outcome,
    error: str,
    now: float,
    *,
    permanent: bool = False,
) -> None:
    record = attempt.record
    if permanent or record.failures >= state.settings.max_attempts:
        _give_up(state, attempt, error, now)
    elif not record.holders:  # else the other attempt goes on
        _requeue(state, attempt, outcome, error, now, is_charged=True)


def _give_up(state: State, attempt: Attempt, error: str, now: float) -> None:
    record, file = attempt.record, attempt.record.file
    state.give_up(attempt, error, now)
    if record.split is not None:
        file = record.split.file
        splitting.drop_siblings(state, record, record.split, error, now)
    state.fail(file, attempt, error)


def take_back(
    state: State, attempt: Attempt, reason: str, now: float, target: Worker | None = None
) -> None:
    """Stop the only attempt at a file, so that another worker does it; no failure of either."""
    state.stop(attempt, Outcome.MOVED, reason, now)
    _requeue(state, attempt, Outcome.MOVED, reason, now, target)


def _requeue(
    state: State,
    attempt: Attempt,
    cause: Outcome,
    reason: str,
    now: float,
    target: Worker | None = None,
    *,
    is_charged: bool = False,
) -> None:
    """Put a file that no worker holds any more where it will be done soonest, or to the target."""
    if target is None:
        record = attempt.record
        usable = state.usable()
        # One that failed on all that are left may be tried on any of them again.
        allowed = [w for w in usable if w.id not in record.avoid] or usable or [attempt.worker]
        target = _ends_first(allowed, record.file.residues, now)
    state.requeue(attempt, cause, reason, target, now, is_charged=is_charged)


def drop_all(
    state: State,
    worker: Worker,
    reason: str,
    now: float,
    *,
    is_charged: bool,
    number: AttemptNumber | None = None,
) -> Attempt | None:
    """The process of a worker is gone: what it held goes back.

    Args:
        state: The run.
        worker: Whose process.
        reason: How it ended.
        now: The present time.
        is_charged: The file it was processing is charged with a failed attempt.
        number: The attempt it was processing; by default the first it was handed.

    Returns:
        The attempt it was processing, or None.
    """
    attempts = worker.running
    state.empty_hands(worker, now)
    first = attempts[0] if attempts else None
    running = next((a for a in attempts if a.number == number), first)
    for attempt in attempts:
        if attempt is running and is_charged:
            fail(state, attempt, Outcome.WORKER_LOST, reason, now)
            continue
        state.end(attempt, Outcome.WORKER_LOST, reason, has_begun=attempt is running)
        if not attempt.record.holders:
            _requeue(state, attempt, Outcome.WORKER_LOST, reason, now)
    state.finish_if_done(now)
    return running


def _ends_first(workers: Sequence[Worker], cost: int, now: float) -> Worker:
    """The worker that would end a file of this cost first.

    Reading a thousand long queues would take longer than most files. So only those workers are
    asked that could end it soonest if their queues were empty.
    """
    least = [(w.free_at(now) + w.seconds(cost), w.index, w) for w in workers]
    soonest = heapq.nsmallest(_MOST_ASKED, least)
    return min((w for *_, w in soonest), key=lambda w: (w.would_end(cost, now), w.index))
