"""How long the rest of a run takes, and how much of it is done: for people, not for decisions.

Both are made of seconds: those that every file costs, beside those of its residues on the worker
that does it. Decisions believe a fixed cost only once it is clear, because a wrong plan is dear;
what is shown is the best guess at any moment.

The rest of the run is played through: each file in process ends when it is expected to, the largest
files that wait go where they end first, and the many small ones fill the workers evenly.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

from virnucpro_exporter.scheduling.files import Attempt
from virnucpro_exporter.scheduling.speed import NEVER
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker

# As long as work is left, its estimate is at least this, in seconds.
LEAST_SECONDS = 1.0

# Files times workers that are played through one by one, to bound what a snapshot costs.
_MOST_PLAYED = 1024

# A worker whose present pace is less than this share of what it did before has become slower; the
# content of one file alone seldom looks like that.
_SLOWER = 2.0 / 3.0

# What all GPUs show in the last minute or two may pass: so much of it is expected to last.
_TREND_TRUST = 0.3

# The first report of a worker measures its speed once this share of its file is done; before that
# it measures rather what a file costs beside its residues.
_TELLING_SHARE = 0.25

# The time left is not shown while what files cost may be wrong by this share of what they take.
_VAGUE = 0.5

# What is left of a file that takes longer than expected, as a share of the time it took since.
_OVERDUE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """What the workers are expected to do.

    Attributes:
        fixed: Seconds that every file takes.
        unsure: By how many seconds that may be wrong, as a standard error.
        speeds: Residues per second beside that, by index of the worker.
    """

    fixed: float
    unsure: float
    speeds: tuple[float, ...]

    def seconds(self, worker: Worker, residues: float) -> float:
        """How long a file of so many residues takes there."""
        return self.fixed + residues / self.speeds[worker.index]

    @property
    def mean(self) -> float:
        """Residues per second of the average worker."""
        return sum(self.speeds) / len(self.speeds)


def pace(state: State, now: float) -> Pace | None:
    """What is expected of the workers at this moment; None before anything was learned."""
    fixed, unsure = state.fixed.likely()
    shown = {
        w.index: speed
        for w in state.fleet
        if not _has_just_begun(w) and (speed := w.learned.beside(fixed))
    }
    if not shown or not _is_enough(state, len(shown)):
        return None
    by_weight = sum(shown.values()) / sum(w.weight for w in state.fleet if w.index in shown)
    recent = {w.index: speed for w in state.fleet if w.index in shown and (speed := _recent(w))}
    alike = [index for index, speed in recent.items() if speed >= _SLOWER * shown[index]]
    trend = 1.0  # what is seen of all GPUs at once, for example in a room that gets hot
    if alike:
        ratio = sum(recent[i] for i in alike) / sum(shown[i] for i in alike)
        trend = ratio ** (_TREND_TRUST * len(alike) / (len(alike) + 1.0))
    speeds = []
    for worker in state.fleet:
        index = worker.index
        if index in recent and index not in alike:
            speeds.append(recent[index])
        elif index in shown:
            speeds.append(trend * shown[index])
        else:
            speeds.append(min(trend * worker.weight * by_weight, _at_most(worker, fixed, now)))
    return Pace(fixed, unsure, tuple(speeds))


def _is_enough(state: State, shown: int) -> bool:
    """Whether a guess is worth showing: silent workers that end first predict little of others."""
    return bool(state.fixed.beginning.count) or 2 * shown > len(state.usable())


def _is_vague(state: State, known: Pace) -> bool:
    """Whether the files that wait may take far longer or shorter than expected.

    The first files of a command, which are the largest, may not yet say what small ones cost. What
    reports shows how fast it works on a file, whatever that costs beside it.
    """
    if any(worker.has_reported for worker in state.fleet):
        return False
    files, residues = state.queued_units, sum(w.queued_residues for w in state.fleet)
    seconds = files * known.fixed + residues / known.mean
    return files * known.unsure > _VAGUE * seconds


def _has_just_begun(worker: Worker) -> bool:
    """Whether all that is known of a worker is how long the first residues of a file took."""
    is_first = not worker.counters.completed
    return is_first and any(
        attempt.start is not None and attempt.done < _TELLING_SHARE * attempt.record.file.residues
        for attempt in worker.running
    )


def _recent(worker: Worker) -> float | None:
    """Residues per second of a worker in the last minute or two of its file, or None."""
    for attempt in worker.running:
        seconds = None if attempt.recent is None else attempt.recent.seconds_per_residue
        if seconds:
            return 1.0 / seconds
    return None


def _at_most(worker: Worker, fixed: float, now: float) -> float:
    """Residues per second of a worker at most, as its file has not ended yet."""
    for attempt in worker.running:
        spent = now - attempt.handed_at - fixed
        if spent > 0.0:
            return attempt.record.file.residues / spent
    return NEVER


def seconds_left(state: State, now: float) -> float | None:
    """Expected seconds until the run ends.

    None before anything was learned, while that would be off by far, while files are still being
    looked at, and while no worker gets any further: neither with a file in process nor with one
    that waits.
    """
    if state.is_finished:
        return 0.0
    if state.awaited_files:
        return None
    usable = [w for w in state.usable() if w.stalled_since is None]
    known = pace(state, now)
    if known is None or not usable or _is_vague(state, known):
        return None
    free = {w.index: _ready_in(w, now) for w in usable}
    ends = []
    for worker in state.fleet:
        index = worker.index
        for attempt in worker.running:  # the first of two to end ends the other, too
            left = min(remaining(each, known, now) for each in attempt.record.holders)
            if left < NEVER:
                ends.append(left)
                if index in free:
                    free[index] += left
    waits = state.queued_units and not state.is_draining
    can_go_on = waits and any(w.is_ready or not state.is_push for w in usable)
    if not (ends or can_go_on):
        return None
    if waits:
        ends.append(_play(state, usable, free, known))
    return max(*ends, LEAST_SECONDS)


def share_done(state: State, now: float) -> float | None:
    """Share of the work that is done, 0 to 1: of its expected seconds.

    While files are still being looked at, their seconds are not known, and it is a share of the
    files. None while there are none.
    """
    ended = state.completed_files + state.skipped_files
    files = state.queued_units + state.processing + ended
    if not files:
        return 1.0 if state.failed_files else None
    if state.awaited_files:
        return ended / (files + state.awaited_files)
    known = pace(state, now)
    fixed = known.fixed * known.mean if known else 0.0  # in residues that take as long
    total = state.residues_total + state.skipped_residues + fixed * files
    done = state.residues_done + state.skipped_residues + fixed * ended
    for record in {id(a.record): a.record for w in state.fleet for a in w.running}.values():
        share = max(_share(attempt, known, now) for attempt in record.holders)
        done += share * (record.file.residues + fixed)
    return min(done / total, 1.0) if total > 0 else None


def remaining(attempt: Attempt, known: Pace, now: float) -> float:
    """Expected seconds until an attempt ends; infinite while no progress is expected of it."""
    if attempt.remaining(now) == NEVER:
        return NEVER
    since = now - attempt.counted_at
    if attempt.done:
        expected = _likely_left(attempt) / known.speeds[attempt.worker.index]
    else:
        expected = known.seconds(attempt.worker, attempt.record.file.residues)
    return expected - since if expected > since else _OVERDUE_SHARE * since


def _likely_left(attempt: Attempt) -> float:
    """Residues that are left, as far as sizes were true in this run.

    A file that has not ended yet, though it might have if it were smaller than estimated, is
    probably a large one. All sizes as far off as sizes are in this run count as equally likely.
    """
    believed = attempt.record.file.residues
    half_width = math.sqrt(3.0) * attempt.worker.errors.sizes.seen * believed
    return max(attempt.left, (believed + half_width - attempt.done) / 2.0)


def _share(attempt: Attempt, known: Pace | None, now: float) -> float:
    """Share of an attempt that is done, 0 to 1."""
    left = NEVER if known is None else remaining(attempt, known, now)
    if left < NEVER:
        spent = now - attempt.handed_at
        return spent / (spent + left) if spent + left else 0.0
    return min(attempt.done / max(attempt.record.file.residues, 1), 1.0)


def _ready_in(worker: Worker, now: float) -> float:
    """Seconds until the process of a worker takes files; one that is overdue is late again."""
    return 0.0 if worker.is_ready else abs(worker.spawned_at + worker.startup - now)


def _play(state: State, usable: list[Worker], free: dict[int, float], known: Pace) -> float:
    """Seconds until all files that wait are done.

    Args:
        state: The run.
        usable: The workers that do them.
        free: In how many seconds each of them is free, by index; changed.
        known: What is expected of them.
    """
    queues = (w.queue for w in state.fleet if w.queue)
    waiting = heapq.merge(*queues, key=lambda record: -record.file.residues)
    files, residues, end = state.queued_units, sum(w.queued_residues for w in state.fleet), 0.0
    paces = [(w.index, known.speeds[w.index]) for w in usable]
    for record in itertools.islice(waiting, _MOST_PLAYED // len(usable)):
        cost = record.file.residues
        soonest, index = min([(free[i] + cost / speed, i) for i, speed in paces])
        free[index] = ended = soonest + known.fixed
        end = max(end, ended)
        files, residues = files - 1, residues - cost
    return max(end, _filled(usable, free, known, files, residues)) if files else end


def _filled(
    usable: list[Worker], free: dict[int, float], known: Pace, files: int, residues: int
) -> float:
    """Seconds until so many files are done that fill the workers evenly, like water."""
    mean = residues / files
    level = rate = done = 0.0  # files per second, and files, up to a level
    order = sorted(usable, key=lambda w: free[w.index])
    for worker in order:
        begin = free[worker.index]
        if done + rate * (begin - level) >= files:
            break
        done += rate * (begin - level)
        level = begin
        rate += 1.0 / known.seconds(worker, mean)
    return level + (files - done) / rate
