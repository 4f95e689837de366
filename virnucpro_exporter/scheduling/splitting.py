"""Files that are done in parts: how a file becomes parts, and their results its one result.

Each function is a transition, on top of those of `state`: the parts and the join of their results
are units of work like files, so what is true of both is there.
"""

from __future__ import annotations

from dataclasses import replace

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling.commands import DiscardOutputs, ShrinkAttempt
from virnucpro_exporter.scheduling.events import Cut
from virnucpro_exporter.scheduling.facts import FileSplit, Outcome, PartCompleted
from virnucpro_exporter.scheduling.files import (
    Attempt,
    FilePart,
    FileRecord,
    FileState,
    SequenceFile,
    Step,
)
from virnucpro_exporter.scheduling.parts import (
    JOIN_SHARE,
    LEAST_PART_SECONDS,
    BegunFile,
    PartResult,
    SplitFile,
    cut_at,
    part_seconds,
)
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker


def resume(state: State, begun: BegunFile, target: Worker, now: float) -> None:
    """Continue a file of which an earlier run has done parts.

    Args:
        state: The run.
        begun: The file and its parts.
        target: The worker in whose queue the others go.
        now: The present time.
    """
    split = SplitFile(begun.file, [])
    state.splits[begun.file.path] = split
    state.split_files += 1
    for part, result in begun.parts:
        file = part if result is None else _with_result(part, result)
        record = FileRecord(file)
        record.split = split
        split.parts.append(record)
        state.residues_total += file.residues
        if result is None:
            state.enqueue(record, target, now)
            continue
        record.state = FileState.COMPLETED
        split.results[part.start] = result
        state.residues_done += result.residues
        state.parts_completed += 1
    state.files[begun.file.path] = split.parts[0]
    state.reopen()
    if split.is_done:
        _queue_join(state, split, target, now)


def ask_for_share(
    state: State, attempt: Attempt, share: float, thief: Worker | None, now: float
) -> None:
    """Have the worker of an attempt give away the end of its range.

    Args:
        state: The run.
        attempt: Which attempt.
        share: Of what is not read yet, above 0 and up to 1.
        thief: The worker that is to get it, or None.
        now: The present time.
    """
    attempt.asked_at = now
    attempt.asked_for = thief
    least = 0.0 if thief is None else max(thief.fixed.seconds, LEAST_PART_SECONDS)
    state.commands.append(ShrinkAttempt(attempt.worker.id, attempt.number, share, least))


def end_part_in_time(state: State, attempt: Attempt, now: float) -> None:
    """Have the worker end its part here if it is long enough; it goes on with the rest.

    A part that is done is not done again by the next run, nor by another worker.
    """
    if now < attempt.save_at or attempt.started_at is None:
        return
    is_alone = attempt.asked_at is None and len(attempt.record.holders) == 1
    if not (attempt.can_shrink and is_alone):
        return
    seconds = part_seconds(state.usable(), state.residues_total, attempt.worker)
    attempt.save_at = attempt.started_at + seconds
    if now >= attempt.save_at and attempt.remaining(now) >= seconds:
        attempt.save_at = now + seconds
        ask_for_share(state, attempt, 1.0, None, now)


def keep_all(attempt: Attempt, *, for_good: bool) -> None:
    """The worker gives nothing of the range away, now or ever."""
    attempt.asked_at = attempt.asked_for = None
    attempt.keeps_all = for_good


def split(state: State, attempt: Attempt, cut: Cut, target: Worker, now: float) -> None:
    """The worker has given the end of its range away, which waits for the target now."""
    record, whole = attempt.record, attempt.record.file
    part, rest = cut_at(whole, cut.at, cut.end)
    split = record.split
    if split is None:
        split = SplitFile(whole, [record])
        state.splits[whole.path] = record.split = split
        state.parts_processing += 1
        state.split_files += 1
    record.file = part
    given = FileRecord(rest)
    given.split = split
    split.parts.insert(split.parts.index(record) + 1, given)
    state.residues_total += part.residues + rest.residues - whole.residues
    attempt.asked_at = attempt.asked_for = None
    state.enqueue(given, target, now)
    state.came_back = True
    state.facts.append(
        FileSplit(
            part, rest, attempt.worker.id, attempt.number, target.id, is_left=state.is_draining
        )
    )


def complete_part(
    state: State,
    attempt: Attempt,
    split: SplitFile,
    sequences: int | None,
    residues: int,
    duration: float,
    outputs: tuple[str, ...],
    now: float,
) -> None:
    """A part is done; with the last one the results are joined."""
    state.deliver(attempt, sequences, residues, duration, outputs, now)
    result = PartResult(attempt.number, sequences, residues, outputs, duration)
    record = attempt.record
    part = record.file
    if not isinstance(part, FilePart):
        raise SchedulingError(f"what was split is no part: {record.story()}")
    record.file = _with_result(part, result)
    split.results[part.start] = result
    state.parts_completed += 1
    attempt.worker.counters.parts += 1
    state.facts.append(
        PartCompleted(
            part,
            attempt.worker.id,
            attempt.number,
            record.attempts,
            result.duration,
            result.sequences,
            result.residues,
            result.outputs,
        )
    )
    if split.is_done:
        _queue_join(state, split, attempt.worker, now)


def _queue_join(state: State, split: SplitFile, target: Worker, now: float) -> None:
    cost = max(1, round(JOIN_SHARE * split.file.residues))
    split.join = record = FileRecord(SequenceFile(split.file.path, None, cost))
    record.split = split
    state.open_joins.add(record)
    state.residues_total += cost
    state.enqueue(record, target, now)
    state.came_back = True


def complete_join(
    state: State,
    attempt: Attempt,
    split: SplitFile,
    duration: float,
    outputs: tuple[str, ...],
    now: float,
) -> None:
    """The results of all parts were joined: that is the result of the file."""
    record, worker = attempt.record, attempt.worker
    state.residues_total -= record.file.residues
    state.got_further(worker, now)
    state.win(attempt, outputs, now)
    state.open_joins.discard(record)
    state.split_files -= 1
    attempts = sum(r.attempts for r in split.parts)
    results, known = split.in_order, split.sequences
    state.finish_file(
        split.file, attempt, attempts, duration, known, split.residues, outputs, len(results)
    )
    for result in results:
        state.commands.append(DiscardOutputs(result.attempt))


def drop_siblings(
    state: State, record: FileRecord, split: SplitFile, error: str, now: float
) -> None:
    """The file of a part is given up: the others are not done any more; what is done stays."""
    for other in split.parts:
        if other is record or other.state is FileState.COMPLETED:
            continue
        if other.state is FileState.QUEUED:
            state.withdraw(other, now)
        else:
            for attempt in other.holders:
                state.stop(attempt, Outcome.SUPERSEDED, f"the file is given up: {error}", now)
            state.count_processing(other, -1)
        other.step(Step.GIVE_UP)
    unknown = [r for r in (*split.parts, split.join) if r is not None and r is not record]
    state.residues_total -= sum(r.file.residues for r in unknown)
    state.residues_done -= split.residues
    state.open_joins.discard(record)
    state.split_files -= 1


def _with_result(part: FilePart, result: PartResult) -> FilePart:
    return replace(part, sequences=result.sequences, residues=result.residues)
