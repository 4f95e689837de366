"""The laws that the scheduler must obey, as code."""

from __future__ import annotations

import itertools
from collections import Counter

from virnucpro_exporter.scheduling.files import FileRecord, FileState
from virnucpro_exporter.scheduling.parts import SplitFile, start_of, stop_of
from virnucpro_exporter.scheduling.rebalancing import MOST_MOVES
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.speed import NEVER
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker


def check_invariants(scheduler: Scheduler) -> None:
    """Check the laws that hold after every event; for tests, in proportion to the files.

    Raises:
        AssertionError: A law is broken; the message says which and for which file or worker.
    """
    state = scheduler.state
    _check_counts(state)
    queued = Counter(id(r) for w in state.fleet for r in w.queue)
    for record in state.records():
        _check_file(record, queued[id(record)], state.settings.max_attempts)
    for path, split in state.splits.items():
        _check_split(path, split, state)
    for worker in state.fleet:
        _check_worker(worker, state)
    if state.is_finished:
        _law(not state.processing, "a run that is finished has no file in process")


def check_nobody_idles(scheduler: Scheduler, now: float) -> None:
    """Check that no worker waits beside a file that it should take.

    This holds whenever the waiting workers have just been looked at; between two looks, which a
    deadline keeps close together, estimates may change.

    Raises:
        AssertionError: A worker waits in vain.
    """
    state = scheduler.state
    for worker in state.fleet:
        if _may_work(worker, state) and not worker.inflight:
            choice = scheduler.policy.steal(worker, state.fleet, now)
            _law(choice is None, f"{worker.id} does not wait beside a file that it should take")


def _may_work(worker: Worker, state: State) -> bool:
    return worker.is_ready and state.is_push and not (state.starts_nothing or state.is_finished)


def _check_counts(state: State) -> None:
    units = Counter(record.state for record in state.records())
    _law(units[FileState.QUEUED] == state.queued_units, "what waits adds up")
    _law(units[FileState.PROCESSING] == state.processing, "what is in process adds up")
    states = Counter(r.state for r in state.files.values() if r.split is None)
    states += Counter(map(_state_of, state.splits.values()))
    _law(states[FileState.QUEUED] == state.queued_files, "queued files add up")
    _law(states[FileState.PROCESSING] == state.processing_files, "files in process add up")
    _law(states[FileState.COMPLETED] == state.completed_files, "completed files add up")
    _law(states[FileState.FAILED] == state.failed_files, "failed files add up")
    _law(sum(states.values()) == len(state.files), "every file is in one state")
    joins = (split.join for split in state.splits.values())
    going = {j for j in joins if j and j.state in (FileState.QUEUED, FileState.PROCESSING)}
    _law(going == state.open_joins, "joins add up")
    counters = [worker.counters for worker in state.fleet]
    steals = sum(state.steals.values())
    _law(sum(c.completed for c in counters) == state.completed_files, "completions add up")
    _law(sum(c.stolen_from for c in counters) == steals, "files stolen from workers add up")
    _law(sum(c.stolen_to for c in counters) == steals, "files stolen by workers add up")
    residues = sum(state.stolen_residues.values())
    _law(sum(c.stolen_residues for c in counters) == residues, "residues stolen add up")
    _law(sum(r.steals for r in state.records()) == steals, "steals of files add up")
    asked = all(c.steal_attempts >= c.steals_empty + c.steals_declined for c in counters)
    _law(asked, "who got nothing had asked")
    begun = state.last_number - state.number_before
    _law(sum(r.attempts for r in state.records()) == begun, "attempts add up")


def _check_file(record: FileRecord, times_queued: int, max_attempts: int) -> None:
    story = record.story()
    is_queued = record.state is FileState.QUEUED
    is_held = record.state is FileState.PROCESSING
    _law(times_queued == is_queued, f"a file is in one queue or none: {story}")
    _law(len(record.holders) <= 2, f"a file has at most two holders: {story}")
    _law(bool(record.holders) == is_held, f"a file in process has a holder: {story}")
    workers = {attempt.worker.id for attempt in record.holders}
    _law(len(workers) == len(record.holders), f"no worker holds a file twice: {story}")
    for attempt in record.holders:
        held = attempt.worker.inflight.get(attempt.number) is attempt
        _law(held and not attempt.is_cancelled, f"holders hold: {story}")
    _law(len(record.holders) < 2 or record.holders[1].is_speculative, f"the second is one: {story}")
    _law(record.failures <= max_attempts, f"attempts stay within the limit: {story}")
    _law(record.moves <= MOST_MOVES, f"a file is not taken back again and again: {story}")


def _state_of(split: SplitFile) -> FileState:
    """Where a file stands that is done in parts."""
    if split.has_failed:
        return FileState.FAILED
    is_joined = split.join is not None and split.join.state is FileState.COMPLETED
    return FileState.COMPLETED if is_joined else FileState.PROCESSING


def _check_split(path: str, split: SplitFile, state: State) -> None:
    parts = [record.file for record in split.parts]
    story = "; ".join(record.story() for record in split.parts)
    _law(state.files[path] is split.parts[0], f"a file begins with its first part: {story}")
    _law(start_of(parts[0]) == 0, f"the parts of a file begin where it begins: {story}")
    _law(stop_of(parts[-1]) is None, f"the parts of a file end where it ends: {story}")
    for before, after in itertools.pairwise(parts):
        _law(stop_of(before) == start_of(after), f"each part ends where the next begins: {story}")
        _law(start_of(before) < start_of(after), f"parts are in order: {story}")
    done = {start_of(r.file) for r in split.parts if r.state is FileState.COMPLETED}
    _law(done == set(split.results), f"parts that are done have results: {story}")
    _law(split.join is None or split.is_done, f"a file is joined once all parts are done: {story}")
    is_open = _state_of(split) is FileState.PROCESSING
    waits = any(r.state is FileState.QUEUED for r in (*split.parts, split.join) if r)
    held = any(r.state is FileState.PROCESSING for r in (*split.parts, split.join) if r)
    _law(is_open == (waits or held), f"a file in parts goes on until it is joined: {story}")
    attempts = [result.attempt for result in split.results.values()]
    _law(len(set(attempts)) == len(attempts), f"each part has a result of its own: {story}")


def _check_worker(worker: Worker, state: State) -> None:
    residues = sum(record.file.residues for record in worker.queue)
    _law(residues == worker.queued_residues, f"queue of {worker.id} adds up")
    costs = [record.file.residues for record in worker.queue]
    _law(costs == sorted(costs, reverse=True), f"queue of {worker.id} is sorted")
    for attempt in worker.running:
        _law(attempt in attempt.record.holders, f"what {worker.id} holds is wanted")
    _law(not (worker.is_retired and worker.inflight), f"{worker.id} is gone and holds nothing")
    if _may_work(worker, state) and not worker.inflight:
        _law(not worker.queue, f"{worker.id} does not wait beside its own files")
        is_watched = state.next_rethink < NEVER or not state.queued_units
        _law(is_watched, f"{worker.id} is looked at again while files wait")
    if worker.has_work and worker.is_ready and not (state.starts_nothing or state.is_finished):
        is_watched = worker.stalled_since is not None or state.next_look < NEVER
        _law(is_watched, f"{worker.id} is watched for stalls")


def _law(holds: bool, law: str) -> None:  # noqa: FBT001 - reads as a sentence where it is used
    if not holds:
        raise AssertionError(law)
