"""The scheduler's state as an immutable snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from virnucpro_exporter.scheduling import stalls
from virnucpro_exporter.scheduling.estimate import seconds_left, share_done
from virnucpro_exporter.scheduling.files import Attempt, FileRecord, FileState
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker
from virnucpro_exporter.snapshot import (
    WHOLE,
    RunEnd,
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
    is_imbalanced,
)


@dataclass(frozen=True, slots=True)
class RunContext:
    """The context of a run, beside the scheduler's state.

    Attributes:
        run_id: A unique id of the run.
        name: The run name.
        processor: Name of the processor.
        wall_offset: Wall-clock seconds minus the scheduler's clock.
        started_at: When the run started, on the scheduler's clock.
        end: How the run ended; None before that.
    """

    run_id: str = ""
    name: str = ""
    processor: str = ""
    wall_offset: float = 0.0
    started_at: float = 0.0
    end: RunEnd | None = None


def take_snapshot(
    scheduler: Scheduler, context: RunContext, now: float, beat_at: float | None = None
) -> RunSnapshot:
    """The run at `now`, on the scheduler's clock. Costs time in proportion to the workers.

    Args:
        scheduler: The scheduler.
        context: The context of its run.
        now: On the scheduler's clock, in seconds.
        beat_at: When the run loop last turned, on the same clock; None where there is no such loop.
    """
    state = scheduler.state
    inflight = sum(a.done for w in state.fleet for a in w.inflight.values())
    done = state.residues_done + inflight
    total = state.residues_total + state.skipped_residues
    ranges = _ranges(state)
    joins = Counter(record.state for record in state.open_joins)
    return RunSnapshot(
        timestamp=now + context.wall_offset,
        heartbeat_age=None if beat_at is None else now - beat_at,
        run_id=context.run_id,
        name=context.name,
        processor=context.processor,
        balancer=scheduler.policy.name,
        state=_run_state(state),
        start_timestamp=context.started_at + context.wall_offset,
        elapsed_seconds=_now_or_end(state, now) - context.started_at,
        stall_threshold=state.settings.stall_threshold,
        files_queued=state.queued_files + state.awaited_files,
        files_processing=state.processing_files,
        files_completed=state.completed_files + state.skipped_files,
        files_failed=state.failed_files,
        files_skipped=state.skipped_files,
        parts_queued=state.parts_queued - joins[FileState.QUEUED],
        parts_processing=state.parts_processing - joins[FileState.PROCESSING],
        parts_completed=state.parts_completed,
        residues_total=None if state.awaited_files else total,
        residues_done=min(done, state.residues_total) + state.skipped_residues,
        progress=share_done(state, now),
        eta_seconds=seconds_left(state, now),
        load_imbalanced=is_load_imbalanced(state),
        work_imbalanced=_is_work_imbalanced(state, now),
        workers=tuple(_worker(state, worker, ranges, context, now) for worker in state.fleet),
        steals=tuple(state.steals.items()),
        stolen_residues=tuple(state.stolen_residues.items()),
        recent_steals=tuple(
            StealEvent(at + context.wall_offset, victim, thief, name)
            for at, victim, thief, name in state.recent_steals
        ),
        resteals=state.resteals,
        retries=state.retries,
        late_results=state.late_results,
        plan_changes=state.plan_changes,
        is_held=state.is_held,
        end=context.end,
        failures=tuple(state.failures),
    )


def is_load_imbalanced(state: State) -> bool:
    """Whether the queues of the workers that empty them are of very different length.

    A process that loads its processor, or is lost, empties no queue, and after a drain none does.
    Where callers request files, every worker counts after the first request: others will follow.
    """
    if state.is_draining:
        return False
    live = [w for w in state.fleet if w.is_ready]
    if live and not state.is_push:
        live = state.usable()
    return is_imbalanced([len(w.queue) for w in live])


def _is_work_imbalanced(state: State, now: float) -> bool:
    """Whether workers would end at very different times if no file moved any more.

    Files are whole, so ends that lie no more than two of the longest files apart are even. Queue
    depths in files are no measure: a fast GPU has more of them.
    """
    live = [w for w in state.fleet if _seconds_left(state, w, now) is not None]
    if state.is_draining or not state.queued_units or len(live) < 2:
        return False
    left = [w.finish_at(now) - now for w in live]
    held = [(a.record.file.residues, w.speed) for w in live for a in w.running]
    queued = [(w.queue[0].file.residues, w.speed) for w in live if w.queue]
    # All that waits may be that of workers which are not up: then none of these has anything.
    longest = max((residues / speed for residues, speed in (*held, *queued)), default=0.0)
    return max(left) - min(left) > 2 * longest and max(left) > 2 * min(left)


# Where in their files the parts lie that are in process, as shares.
_Ranges = Mapping[FileRecord, tuple[float, float]]


def _ranges(state: State) -> _Ranges:
    """Of all files of which parts are in process."""
    held = (attempt.record.split for w in state.fleet for attempt in w.running)
    splits = dict.fromkeys(split for split in held if split is not None)
    return {record: where for split in splits for record, where in split.ranges().items()}


def _ratio(attempt: Attempt) -> float | None:
    """Share of its file that an attempt has done; None before it reports progress."""
    residues = attempt.record.file.residues
    return min(attempt.done / residues, 1.0) if attempt.done and residues else None


def _seconds_left(state: State, worker: Worker, now: float) -> float | None:
    """Expected seconds until a worker has done what it holds and what is queued for it."""
    is_up = worker.is_ready and worker.stalled_since is None
    if state.is_finished or not is_up or worker.learned.value is None:
        return None
    return worker.finish_at(now) - now


def _now_or_end(state: State, now: float) -> float:
    return now if state.finished_at is None else state.finished_at


def _run_state(state: State) -> RunState:
    """The state of the run."""
    if state.is_finished:
        is_whole = not (state.failed_files or state.queued_units or state.awaited_files)
        return RunState.COMPLETED if is_whole else RunState.FAILED
    if state.is_draining:
        return RunState.DRAINING
    return RunState.RUNNING if state.has_begun else RunState.STARTING


def _worker_state(state: State, worker: Worker) -> WorkerState:
    if worker.is_retired:
        return WorkerState.LEFT if worker.has_left else WorkerState.LOST
    if worker.is_loading:
        return WorkerState.LOADING
    if not (worker.is_ready or worker.is_leaving):
        return WorkerState.STARTING
    if worker.inflight:
        return WorkerState.BUSY
    others_wait = state.queued_units > len(worker.queue) and not state.starts_nothing
    return WorkerState.STARVED if others_wait else WorkerState.IDLE


def _worker(
    state: State, w: Worker, ranges: _Ranges, context: RunContext, now: float
) -> WorkerSnapshot:
    counters = w.counters
    current = next(iter(w.running), None)
    begun = None if current is None else current.started_at or current.reported_at
    progress = w.last_progress
    return WorkerSnapshot(
        gpu=w.id,
        name=w.name,
        weight=w.weight,
        state=_worker_state(state, w),
        is_alive=None if w.has_left else w.is_ready or w.is_loading or w.is_leaving,
        is_stalled=w.stalled_since is not None,
        stall_deadline_time=_deadline(state, w, context),
        queue_depth=len(w.queue),
        queue_residues=w.queued_residues,
        inflight_files=len(w.inflight),
        current_file=None if current is None else current.record.file.path,
        current_seconds=None if begun is None else now - begun,
        current_range=None if current is None else ranges.get(current.record, WHOLE),
        current_ratio=None if current is None else _ratio(current),
        is_ending=current is not None and state.is_draining and current.asked_at is not None,
        is_joining=current is not None and current.record.is_join,
        files_completed=counters.completed,
        parts_completed=counters.parts,
        file_failures=counters.failures,
        sequences_completed=counters.sequences,
        sequences_processed=w.throughput.sequences,
        residues_processed=counters.residues,
        throughput=_per_second(state, w, w.throughput.sequences_per_second, now),
        residue_throughput=_per_second(state, w, w.throughput.residues_per_second, now),
        residues_per_second=w.learned.value,
        seconds_left=_seconds_left(state, w, now),
        attempts_moved=counters.moved,
        busy_seconds=counters.busy_seconds + _since(w.busy_since, _now_or_end(state, now)),
        starved_seconds=counters.starved_seconds + state.starved_now(w, now),
        last_progress_time=None if progress is None else progress + context.wall_offset,
        stalls=counters.stalls,
        lost_seconds=counters.lost_seconds
        + max(0.0, _since(None if w.has_left else w.retired_at, _now_or_end(state, now))),
        stalled_seconds=counters.stalled_seconds + _since(w.stalled_since, _now_or_end(state, now)),
        restarts=counters.restarts,
        memory_shortages=counters.shortages,
        work_stolen_from=counters.stolen_from,
        work_stolen_to=counters.stolen_to,
        residues_stolen_from=counters.stolen_residues,
        steal_attempts=counters.steal_attempts,
        steals_empty=counters.steals_empty,
        steals_declined=counters.steals_declined,
        second_attempts_won=counters.speculative_won,
        second_attempts_lost=counters.speculative_lost,
        durations=counters.durations.snapshot(context.wall_offset),
    )


class _Rate(Protocol):
    def __call__(self, now: float, *, is_busy: bool) -> float | None: ...


def _per_second(state: State, worker: Worker, rate_at: _Rate, now: float) -> float | None:
    """What a worker does in a second; 0 while it stalls, None where nothing was ever reported."""
    is_busy = worker.busy_since is not None
    rate = rate_at(_now_or_end(state, now), is_busy=is_busy)
    return rate if rate is None or worker.stalled_since is None else 0.0


def _deadline(state: State, worker: Worker, context: RunContext) -> float | None:
    """When more silence of the worker is a stall; None where no progress is expected."""
    is_judged = stalls.is_judged(worker, is_push=state.is_push, is_draining=state.starts_nothing)
    if state.is_finished or not (is_judged or worker.is_loading):
        return None
    return stalls.deadline(worker, state.settings, state.longest_silence) + context.wall_offset


def _since(begin: float | None, now: float) -> float:
    return 0.0 if begin is None else now - begin
