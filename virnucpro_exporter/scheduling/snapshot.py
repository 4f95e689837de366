"""The scheduler's state as an immutable snapshot."""

from __future__ import annotations

from dataclasses import dataclass

from virnucpro_exporter.scheduling import stalls
from virnucpro_exporter.scheduling.records import Worker
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.state import Ledger
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


def take_snapshot(
    scheduler: Scheduler, facts: RunFacts, now: float, beat_at: float | None = None
) -> RunSnapshot:
    """The run at `now`, on the scheduler's clock. Costs time in proportion to the workers.

    Args:
        scheduler: Whose state it is.
        facts: What it does not know about its run.
        now: On its clock.
        beat_at: When the run loop last turned, on the same clock; None where there is no such loop.
    """
    ledger = scheduler.ledger
    inflight = sum(a.done for w in ledger.fleet for a in w.inflight.values())
    done = ledger.residues_done + inflight
    return RunSnapshot(
        timestamp=now + facts.wall_offset,
        heartbeat_age=None if beat_at is None else now - beat_at,
        run_id=facts.run_id,
        processor=facts.processor,
        balancer=ledger.policy.name,
        state=_run_state(ledger),
        start_timestamp=facts.started_at + facts.wall_offset,
        elapsed_seconds=_now_or_end(ledger, now) - facts.started_at,
        stall_threshold=ledger.settings.stall_threshold,
        files_queued=ledger.queued_files,
        files_processing=ledger.processing,
        files_completed=ledger.completed_files + facts.skipped,
        files_failed=ledger.failed_files,
        files_skipped=facts.skipped,
        residues_total=ledger.residues_total + facts.skipped_residues,
        residues_done=min(done, ledger.residues_total) + facts.skipped_residues,
        eta_seconds=_eta(ledger, now),
        load_imbalanced=is_imbalanced(
            [len(w.queue) for w in ledger.fleet if w.is_ready and not ledger.is_draining]
        ),
        workers=tuple(_worker(ledger, worker, facts, now) for worker in ledger.fleet),
        steals=tuple(ledger.steals.items()),
        stolen_residues=tuple(ledger.stolen_residues.items()),
        recent_steals=tuple(
            StealEvent(at + facts.wall_offset, victim, thief, name)
            for at, victim, thief, name in ledger.recent_steals
        ),
        resteals=ledger.resteals,
        retries=ledger.retries,
        late_results=ledger.late_results,
        failures=tuple(ledger.failures),
    )


def _now_or_end(ledger: Ledger, now: float) -> float:
    return now if ledger.finished_at is None else ledger.finished_at


def _run_state(ledger: Ledger) -> RunState:
    """Where the run stands."""
    if ledger.is_finished:
        is_whole = not ledger.failed_files and not ledger.queued_files
        return RunState.COMPLETED if is_whole else RunState.FAILED
    if ledger.is_draining:
        return RunState.DRAINING
    return RunState.RUNNING if ledger.has_begun else RunState.STARTING


def _eta(ledger: Ledger, now: float) -> float | None:
    """Seconds left: all work on all workers, but no less than the file that ends last."""
    if ledger.is_finished:
        return 0.0
    usable = ledger.usable()
    if not any(w.learned.value is not None for w in usable):
        return None
    attempts = [a for w in usable for a in w.running]
    work = sum(w.queued_residues for w in ledger.fleet) + sum(a.left for a in attempts)
    moving = [a for a in attempts if a.worker.stalled_since is None]
    longest = max((a.remaining(now) for a in moving), default=0.0)
    return max(work / sum(w.speed for w in usable), longest)


def _worker_state(ledger: Ledger, worker: Worker) -> WorkerState:
    if worker.is_retired:
        return WorkerState.LOST
    if worker.is_loading:
        return WorkerState.LOADING
    if not worker.is_ready:
        return WorkerState.STARTING
    if worker.inflight:
        return WorkerState.BUSY
    others_wait = ledger.queued_files > len(worker.queue) and not ledger.is_draining
    return WorkerState.STARVED if others_wait else WorkerState.IDLE


def _worker(ledger: Ledger, w: Worker, facts: RunFacts, now: float) -> WorkerSnapshot:
    counters = w.counters
    current = next(iter(w.running), None)
    begun = None if current is None else current.started_at or current.reported_at
    progress = w.last_progress
    return WorkerSnapshot(
        gpu=w.gpu,
        name=w.name,
        weight=w.weight,
        state=_worker_state(ledger, w),
        is_alive=w.is_ready or w.is_loading,
        is_stalled=w.stalled_since is not None,
        stall_deadline_time=_deadline(ledger, w, facts),
        queue_depth=len(w.queue),
        queue_residues=w.queued_residues,
        inflight_files=len(w.inflight),
        current_file=None if current is None else current.record.file.path,
        current_seconds=None if begun is None else now - begun,
        files_completed=counters.completed,
        file_failures=counters.failures,
        sequences_completed=counters.sequences,
        sequences_processed=w.throughput.total,
        residues_processed=counters.residues,
        throughput=w.throughput.per_second(_now_or_end(ledger, now)),
        residues_per_second=w.learned.value,
        busy_seconds=counters.busy_seconds + _since(w.busy_since, _now_or_end(ledger, now)),
        starved_seconds=counters.starved_seconds + ledger.starved_now(w, now),
        last_progress_time=None if progress is None else progress + facts.wall_offset,
        stalls=counters.stalls,
        stalled_seconds=counters.stalled_seconds
        + _since(w.stalled_since, _now_or_end(ledger, now)),
        restarts=counters.restarts,
        work_stolen_from=counters.stolen_from,
        work_stolen_to=counters.stolen_to,
        residues_stolen_from=counters.stolen_residues,
        steal_attempts=counters.steal_attempts,
        steals_empty=counters.steals_empty,
        steals_declined=counters.steals_declined,
        second_attempts_won=counters.seconds_won,
        second_attempts_lost=counters.seconds_lost,
        durations=counters.durations.snapshot(facts.wall_offset),
    )


def _deadline(ledger: Ledger, worker: Worker, facts: RunFacts) -> float | None:
    """When more silence of the worker is a stall; None where nothing is expected of it."""
    is_judged = stalls.is_judged(worker, is_push=ledger.is_push, is_draining=ledger.is_draining)
    if ledger.is_finished or not (is_judged or worker.is_loading):
        return None
    return stalls.deadline(worker, ledger.settings, ledger.longest_silence) + facts.wall_offset


def _since(begin: float | None, now: float) -> float:
    return 0.0 if begin is None else now - begin
