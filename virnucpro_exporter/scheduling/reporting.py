"""The scheduler's state as an immutable snapshot, and the laws that it must obey."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from virnucpro_exporter.scheduling.files import FileState
from virnucpro_exporter.scheduling.records import Worker
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.snapshot import (
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
    is_imbalanced,
)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the scheduler does not know about its run.

    Attributes:
        run_id: A name for the run.
        processor: What is done to a file, by name.
        wall_offset: Wall-clock seconds minus the scheduler's clock.
        started_at: When the run started, on the scheduler's clock.
        skipped: Files that an earlier run had finished.
        skipped_residues: Their residues.
    """

    run_id: str = ""
    processor: str = ""
    wall_offset: float = 0.0
    started_at: float = 0.0
    skipped: int = 0
    skipped_residues: int = 0


def run_state(scheduler: Scheduler) -> RunState:
    """Where the run stands."""
    if scheduler.is_finished:
        is_whole = not scheduler.failed_files and not scheduler.queued_files
        return RunState.COMPLETED if is_whole else RunState.FAILED
    if scheduler.is_draining:
        return RunState.DRAINING
    return RunState.RUNNING if scheduler.has_begun else RunState.STARTING


def take_snapshot(scheduler: Scheduler, facts: RunFacts, now: float) -> RunSnapshot:
    """The run at `now`, on the scheduler's clock. Costs time in proportion to the workers."""
    workers = tuple(_worker(scheduler, worker, facts, now) for worker in scheduler.fleet)
    inflight = sum(a.done for w in scheduler.fleet for a in w.inflight.values())
    done = scheduler.residues_done + inflight
    return RunSnapshot(
        timestamp=now + facts.wall_offset,
        run_id=facts.run_id,
        processor=facts.processor,
        balancer=scheduler.policy.name,
        state=run_state(scheduler),
        start_timestamp=facts.started_at + facts.wall_offset,
        elapsed_seconds=(scheduler.finished_at or now) - facts.started_at,
        stall_threshold=scheduler.settings.stall_threshold,
        files_queued=scheduler.queued_files,
        files_processing=scheduler.processing,
        files_completed=scheduler.completed_files + facts.skipped,
        files_failed=scheduler.failed_files,
        files_skipped=facts.skipped,
        residues_total=scheduler.residues_total + facts.skipped_residues,
        residues_done=min(done, scheduler.residues_total) + facts.skipped_residues,
        eta_seconds=_eta(scheduler, now),
        load_imbalanced=is_imbalanced(
            [len(w.queue) for w in scheduler.fleet if w.is_ready and not scheduler.is_draining]
        ),
        workers=workers,
        steals=tuple(scheduler.steals.items()),
        stolen_residues=tuple(scheduler.stolen_residues.items()),
        recent_steals=tuple(
            StealEvent(at + facts.wall_offset, victim, thief, name)
            for at, victim, thief, name in scheduler.recent_steals
        ),
        resteals=scheduler.resteals,
        retries=scheduler.retries,
        late_results=scheduler.late_results,
        failures=tuple(scheduler.failures),
    )


def _eta(scheduler: Scheduler, now: float) -> float | None:
    """Seconds left: all work on all workers, but no less than the file that ends last."""
    if scheduler.is_finished:
        return 0.0
    usable = [w for w in scheduler.fleet if not w.is_retired]
    if not any(w.learned.value is not None for w in usable):
        return None
    attempts = [a for w in usable for a in w.inflight.values() if not a.is_cancelled]
    work = sum(w.queued_residues for w in scheduler.fleet) + sum(a.left for a in attempts)
    moving = [a for a in attempts if a.worker.stalled_since is None]
    longest = max((a.remaining(now) for a in moving), default=0.0)
    return max(work / sum(w.speed for w in usable), longest)


def _worker_state(scheduler: Scheduler, worker: Worker) -> WorkerState:
    if worker.is_retired:
        return WorkerState.LOST
    if not worker.is_ready:
        return WorkerState.STARTING
    if worker.inflight:
        return WorkerState.BUSY
    others_wait = scheduler.queued_files > len(worker.queue) and not scheduler.is_draining
    return WorkerState.STARVED if others_wait else WorkerState.IDLE


def _worker(scheduler: Scheduler, w: Worker, facts: RunFacts, now: float) -> WorkerSnapshot:
    counters = w.counters
    current = next((a for a in w.inflight.values() if not a.is_cancelled), None)
    begun = None if current is None else current.started_at or current.reported_at
    progress = w.last_progress
    return WorkerSnapshot(
        gpu=w.gpu,
        name=w.name,
        weight=w.weight,
        state=_worker_state(scheduler, w),
        is_alive=w.is_ready,
        is_stalled=w.stalled_since is not None,
        queue_depth=len(w.queue),
        queue_residues=w.queued_residues,
        inflight_files=len(w.inflight),
        current_file=None if current is None else current.record.file.path,
        current_seconds=None if begun is None else now - begun,
        files_completed=counters.completed,
        file_failures=counters.failures,
        sequences_processed=w.throughput.total,
        residues_processed=counters.residues,
        throughput=w.throughput.per_second(scheduler.finished_at or now),
        residues_per_second=w.learned.value,
        busy_seconds=counters.busy_seconds + _since(w.busy_since, now),
        starved_seconds=counters.starved_seconds + scheduler.starved_now(w, now),
        last_progress_time=None if progress is None else progress + facts.wall_offset,
        stalls=counters.stalls,
        stalled_seconds=counters.stalled_seconds + _since(w.stalled_since, now),
        restarts=counters.restarts,
        work_stolen_from=counters.stolen_from,
        work_stolen_to=counters.stolen_to,
        steal_attempts=counters.steal_attempts,
        steals_empty=counters.steals_empty,
        steals_declined=counters.steals_declined,
        second_attempts_won=counters.seconds_won,
        second_attempts_lost=counters.seconds_lost,
        durations=counters.durations.snapshot(facts.wall_offset),
    )


def _since(begin: float | None, now: float) -> float:
    return 0.0 if begin is None else now - begin


def check_invariants(scheduler: Scheduler) -> None:
    """Check the laws of the scheduler; for tests, in proportion to the number of files.

    Raises:
        AssertionError: A law is broken; the message says which and for which file or worker.
    """
    states = Counter(record.state for record in scheduler.files.values())
    queued = Counter(r.file.path for w in scheduler.fleet for r in w.queue)
    _law(states[FileState.QUEUED] == scheduler.queued_files, "queued files add up")
    _law(states[FileState.PROCESSING] == scheduler.processing, "files in process add up")
    _law(states[FileState.COMPLETED] == scheduler.completed_files, "completed files add up")
    _law(states[FileState.FAILED] == scheduler.failed_files, "failed files add up")
    for path, record in scheduler.files.items():
        story = scheduler.story(record.file)
        is_queued = record.state is FileState.QUEUED
        is_held = record.state is FileState.PROCESSING
        _law(queued[path] == is_queued, f"a file is in one queue or none: {story}")
        _law(len(record.holders) <= 2, f"a file has at most two holders: {story}")
        _law(bool(record.holders) == is_held, f"a file in process has a holder: {story}")
        for attempt in record.holders:
            held = attempt.worker.inflight.get(attempt.number) is attempt
            _law(held and not attempt.is_cancelled, f"holders hold: {story}")
        limit = scheduler.settings.max_attempts
        _law(record.failures <= limit, f"attempts stay within the limit: {story}")
    for worker in scheduler.fleet:
        residues = sum(record.file.residues for record in worker.queue)
        _law(residues == worker.queued_residues, f"queue of {worker.gpu} adds up")
        costs = [record.file.residues for record in worker.queue]
        _law(costs == sorted(costs, reverse=True), f"queue of {worker.gpu} is sorted")
        is_free = worker.is_ready and not worker.inflight and scheduler.is_push
        if is_free and not scheduler.is_draining and not scheduler.is_finished:
            _law(not worker.queue, f"{worker.gpu} does not wait beside its own files")


def _law(holds: bool, law: str) -> None:  # noqa: FBT001 - reads as a sentence where it is used
    if not holds:
        raise AssertionError(law)
