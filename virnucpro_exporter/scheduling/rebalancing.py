"""Rebalancing: which workers should do the large files, now that speeds are known better.

The first assignment uses declared speeds. When a worker turns out to be slow, what it holds and
what waits for it may make the whole run end late, however well the small files are balanced. So the
largest files are laid out anew, by longest processing time first with the speeds learned, in three
ways: only waiting files may move; also the running files that would outlast the rest; also all
running files. A file in process may move while little of it is done: its attempt is then taken back
and lost, and so is the time in which its worker gets a new process.

Costs are estimates, so that a file may take longer than expected, by as much as this run has shown;
a layout is worth what it takes when any one of its files does. It must promise to end the run
clearly sooner than what would happen anyway, and to move running files must promise more than to
leave them where they are.

`Rebalancing` looks at this now and then, and follows the plan that the policy makes of it.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virnucpro_exporter.scheduling.attempts import take_back
from virnucpro_exporter.scheduling.attribution import Attribution, attribute
from virnucpro_exporter.scheduling.facts import Outcome
from virnucpro_exporter.scheduling.files import Attempt, FileRecord
from virnucpro_exporter.scheduling.parts import is_whole
from virnucpro_exporter.scheduling.speed import CERTAIN, NEVER
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.workers import Worker

if TYPE_CHECKING:
    from virnucpro_exporter.scheduling.policy import StealPolicy

# Estimates are looked at again this often: a share of the time that the run is expected to take,
# within bounds. In seconds.
_RETHINK_SHARE = 0.02
_RETHINK_AT_LEAST = 0.02
_RETHINK_AT_MOST = 1.0

# So many waiting and so many running files are laid out; those that are smaller hardly matter.
_LARGEST = 64

# A new plan must be expected to end this much sooner, and one that moves more running files this
# much sooner than one that moves fewer.
_CLEARLY_SOONER = 1.1
_WORTH_MOVING = 1.02

# So many files in process are tried, those of the fastest workers, as the place for one whose
# worker is slow or has fallen silent; in the second case the run must be expected to end this much
# sooner.
_PLACES = 3
_WORTH_A_PLACE = 1.05

# A file moves only while no more than this share of it is done, and not again and again, so that
# every run ends.
_YOUNG_SHARE = 0.5
MOST_MOVES = 2


# Running work is taken back only where a worker does at most this share of what the others do for
# their declared speeds. Content that takes 40 % longer makes a worker look 0.71 times as fast.
# Where the content of files varies, what was seen in few of them must differ more.
_SLOW = 2.0 / 3.0

# Where a worker that was watched for long does at most this share, the others may change the files
# that they have begun, too. Two pauses in a row must not look like that.
_LOPSIDED = 0.4

# A worker is watched for this share of what a file takes before the file is taken from it, and for
# a minute and a half at most: a pause must not look like a slow GPU. In seconds.
_WATCHED_SHARE = 0.1
_WATCHED_AT_MOST = 90.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is left of a run.

    Attributes:
        workers: Those that make progress or will.
        stranded: Those that do not get to what waits for them: given up, stalled or silent.
        lost: Attempts that are not expected to end, at files that are done nowhere else, though
            their workers reported progress before.
        seconds: How long it takes at least: all work on all of them, or the largest file.
        risk: By which share a file may take longer than believed, as learned in this run.
        slow: Those that have shown to be far slower than declared, beside the others.
        doubtful: These, and those that look like it, though it may be the content of their files.
        is_lopsided: One of them is so slow that others may change the file that they have begun.
        causes: Whether it is the workers that are slow, or the content of their files.
    """

    workers: tuple[Worker, ...]
    stranded: tuple[Worker, ...]
    lost: tuple[Attempt, ...]
    seconds: float
    risk: float
    slow: frozenset[Worker]
    doubtful: frozenset[Worker]
    is_lopsided: bool
    causes: Attribution

    def seconds_elsewhere(self, attempt: Attempt, worker: Worker) -> float:
        """How long the file of an attempt takes another worker, from its beginning.

        Hard content goes with the file; what its present worker lacks in speed does not.
        """
        to_files = self.causes.to_files
        easier = to_files.get(attempt.worker, 0.0) - to_files[worker]
        return worker.seconds(attempt.record.file.residues * math.exp(-easier))


@dataclass(frozen=True, slots=True)
class Move:
    """A file that another worker should do.

    Attributes:
        record: The file.
        attempt: The attempt to take back, or None where the file waits.
        source: The worker that has it.
        target: The worker that should have it.
    """

    record: FileRecord
    attempt: Attempt | None
    source: Worker
    target: Worker


def look_ahead(workers: Sequence[Worker], now: float) -> Outlook | None:
    """What is left of the run, or None when no worker makes progress."""
    going = tuple(w for w in workers if not w.is_retired and w.stalled_since is None)
    if not going:
        return None
    stranded = tuple(w for w in workers if w.queue and w.free_at(now) == NEVER)
    lost = tuple(
        attempt
        for worker in workers
        if worker.has_reported
        for attempt in worker.running
        if attempt.record.holders == (attempt,) and attempt.remaining(now) == NEVER
    )
    work = sum(w.queued_residues + len(w.queue) * w.fixed.seconds * w.speed for w in workers)
    fastest = max(going, key=lambda w: w.speed)
    largest = 0.0
    for worker in going:
        for attempt in worker.running:
            work += attempt.left
            anew = fastest.seconds(attempt.record.file.residues)
            largest = max(largest, min(attempt.left / worker.speed, anew))
        if worker.queue:
            largest = max(largest, fastest.seconds(worker.queue[0].file.residues))
    least = max(work / sum(w.speed for w in going), largest, 1e-9)
    slow = slow_workers(going)
    far_slower = slow_workers(going, _LOPSIDED) if slow else slow
    is_lopsided = any(w.learned.seconds >= _WATCHED_AT_MOST for w in far_slower)
    doubtful = slow_workers(going, is_certain=False)
    return Outlook(
        going,
        stranded,
        lost,
        least,
        going[0].errors.risk,
        slow,
        doubtful,
        is_lopsided,
        attribute(going, slow),
    )


def slow_workers(
    workers: Sequence[Worker], share_at_most: float = _SLOW, *, is_certain: bool = True
) -> frozenset[Worker]:
    """The workers that do far less for their declared speed than the median of the others.

    Args:
        workers: Those that make progress.
        share_at_most: Of what the median of the others does.
        is_certain: The content of the files that were seen cannot be what makes it slow.
    """
    shown = [(w.learned.value / w.weight, w) for w in workers if w.learned.value is not None]
    shown.sort(key=lambda pair: pair[0])
    slow = []
    unsure = CERTAIN * shown[0][1].errors.content.value if shown else 0.0
    for index, (share, worker) in enumerate(shown[:-1]):
        middle = (len(shown) - 2) // 2  # of the others, which are all but this one
        median, _ = shown[middle + (index <= middle)]
        if share > share_at_most * median:
            break
        clear = 1.0 - unsure / math.sqrt(max(worker.learned.files, 1.0))
        if not is_certain or share <= clear * median:
            slow.append(worker)
    return frozenset(slow)


def is_movable(attempt: Attempt, now: float) -> bool:
    """Whether an attempt may be taken back, where there is reason to.

    Its worker must have been watched for at least as long as a new process takes, because that is
    what a hasty judgement would cost, and for a share of what the file takes.
    """
    worker, record = attempt.worker, attempt.record
    learned = worker.learned
    watched = _WATCHED_SHARE * worker.seconds(record.file.residues)
    return (
        is_whole(attempt)
        and record.holders == (attempt,)
        and len(worker.inflight) == 1
        and record.moves < MOST_MOVES
        and attempt.likely_done(now) <= _YOUNG_SHARE * record.file.residues
        and learned.value is not None
        and learned.seconds >= max(worker.startup, min(watched, _WATCHED_AT_MOST))
    )


def better_plan(outlook: Outlook, now: float) -> list[Move]:
    """The moves that make the run end clearly sooner; none where it would not."""
    if not _is_at_risk(outlook, now):
        return []
    holders = dict.fromkeys((*outlook.workers, *outlook.stranded))
    queues = (zip(w.queue, itertools.repeat(w), strict=False) for w in holders if w.queue)
    waiting = heapq.merge(*queues, key=lambda pair: -pair[0].file.residues)  # as each is sorted
    queued = [Move(r, None, w, w) for r, w in itertools.islice(waiting, _LARGEST)]
    anyway = max(_as_it_is(outlook, {m.record.file.path for m in queued}, now), outlook.seconds)
    best, moves = anyway, list[Move]()
    for moving, worth in _ways(outlook, now):
        items = [*queued, *(Move(a.record, a, a.worker, a.worker) for a in moving)]
        ends, laid_out = _lay_out(outlook, items, now)
        ends = max(ends, outlook.seconds)
        if ends * worth < anyway and ends * _WORTH_MOVING < best:
            best, moves = ends, laid_out
    return moves


def _ways(outlook: Outlook, now: float) -> Iterator[tuple[list[Attempt], float]]:
    """Which files in process might move, and how much sooner the run must then end.

    Those that would outlast the rest, and with them one that a fast worker has just begun: the
    large file of a slow worker may be worth its place. Where a worker is far slower than it should
    be, so may any. So may a file whose worker has fallen silent.
    """
    yield [], _CLEARLY_SOONER
    movable = [a for w in outlook.workers for a in w.running if is_movable(a, now)]
    loose = [a for a in movable if outlook.is_lopsided or a.worker in outlook.slow]
    loose = heapq.nlargest(_LARGEST, loose, key=lambda a: a.record.file.residues)
    longest = outlook.seconds / (1.0 + outlook.risk)
    late = [a for a in movable if _may_be_slow(a, outlook) and longest < a.remaining(now) < NEVER]
    late = heapq.nlargest(_LARGEST, late, key=lambda a: a.record.file.residues)
    yield late, _CLEARLY_SOONER
    yield loose, _CLEARLY_SOONER
    if late:
        places = [a for a in movable if a not in late]
        for place in heapq.nlargest(_PLACES, places, key=lambda a: a.worker.speed):
            yield [*late, place], _CLEARLY_SOONER
    if outlook.lost:
        places = [a for a in movable if a not in outlook.lost]
        for place in heapq.nlargest(_PLACES, places, key=lambda a: a.worker.speed):
            yield [place], _WORTH_A_PLACE


def _may_be_slow(attempt: Attempt, outlook: Outlook) -> bool:
    """Whether the worker of an attempt is slow, rather than its file.

    Where another attempt was made, the file has shown to be no faster there.
    """
    is_first = attempt.record.attempts == 1
    return attempt.worker in (outlook.causes.slower if is_first else outlook.slow)


def _is_at_risk(outlook: Outlook, now: float) -> bool:
    """Whether any file in process or first in a queue may outlast the rest of the run."""
    if outlook.stranded:
        return True
    limit = outlook.seconds * _CLEARLY_SOONER
    for worker in outlook.workers:
        until_free = worker.free_at(now) - now
        if until_free * (1.0 + outlook.risk) > limit:
            return True
        if worker.queue:
            head = worker.seconds(worker.queue[0].file.residues)
            if until_free + head * (1.0 + outlook.risk) > limit:
                return True
    return False


def _as_it_is(outlook: Outlook, paths: set[str], now: float) -> float:
    """Seconds until the largest files end, if every worker does what is in its queue."""
    if any(w.queue[0].file.path in paths for w in outlook.stranded):
        return NEVER
    latest = 0.0
    for attempt in outlook.lost:
        cost, avoid = attempt.record.file.residues, attempt.record.avoid
        able = (w for w in outlook.workers if w.id not in avoid)
        takes = ((w.free_at(now) - now + w.seconds(cost), w.seconds(cost)) for w in able)
        ends, seconds = min(takes, default=(NEVER, NEVER))
        if ends < NEVER:
            latest = max(latest, ends + outlook.risk * seconds)
    for worker in outlook.workers:
        ends = worker.free_at(now) - now
        if ends == NEVER:  # others will have to do what it holds
            continue
        if worker.is_ready and worker not in outlook.slow:  # a pause soon ends
            ends = min(ends, sum(_steady(attempt) for attempt in worker.running))
        latest = max(latest, ends * (1.0 + outlook.risk))
        for record in worker.queue:
            if record.file.path not in paths:
                break
            seconds = worker.seconds(record.file.residues)
            ends += seconds
            latest = max(latest, ends + outlook.risk * seconds)
    return latest


def _steady(attempt: Attempt) -> float:
    """Seconds that an attempt still takes, by the long-run speed of its worker."""
    worker = attempt.worker
    return attempt.left / worker.speed if attempt.done else worker.seconds(attempt.left)


def _lay_out(outlook: Outlook, items: list[Move], now: float) -> tuple[float, list[Move]]:
    """Give each file to the worker that ends it first, largest first.

    Returns:
        Seconds until the last of them ends, and the moves that this takes.
    """
    held = {item.source for item in items if item.attempt is not None}
    items = [*items, *(Move(a.record, a, a.worker, a.worker) for a in outlook.lost)]
    ready = ((0.0 if w in held else w.free_at(now) - now, w.index, w) for w in outlook.workers)
    free = sorted(entry for entry in ready if entry[0] < NEVER)
    lost = set(outlook.lost)
    if not free:
        return NEVER, []
    fastest = max((worker for *_, worker in free), key=lambda w: w.speed)
    latest = free[-1][0] * (1.0 + outlook.risk)
    moves = []
    for item in sorted(items, key=lambda item: -item.record.file.residues):
        cost, source = item.record.file.residues, item.source
        ends, seconds, begins, target = float("inf"), 0.0, 0.0, source
        if item.attempt is not None and source in held:  # it may go on where it is
            ends = seconds = item.attempt.left / source.speed
        for since, _, worker in free:
            if (
                since + fastest.seconds(cost) >= ends
            ):  # nor would those that are free later be sooner
                break
            if worker.id in item.record.avoid or (item.attempt is not None and worker is source):
                continue
            restart = worker.startup if worker in held else 0.0
            takes = (
                worker.seconds(cost)
                if item.attempt is None
                else outlook.seconds_elsewhere(item.attempt, worker)
            )
            then = since + restart + takes
            if then < ends:
                ends, seconds, begins, target = then, takes, since, worker
        if ends == float("inf"):  # it failed on all of these: others will have to do it
            continue
        goes_on = item.attempt is not None and target is source and source in held
        held.discard(target)
        free.pop(bisect.bisect_left(free, (begins, target.index)))
        bisect.insort(free, (ends, target.index, target))
        latest = max(latest, ends + outlook.risk * seconds)
        is_moved = target is not source or item.attempt is not None
        if is_moved and not goes_on and item.attempt not in lost:
            moves.append(Move(item.record, item.attempt, source, target))
    return latest, moves


def rethink_interval(state: State, now: float) -> float:
    """After how many seconds estimates have changed enough to be looked at again."""
    ends = [w.finish_at(now) for w in state.fleet if w.has_work]
    left = max((end - now for end in ends if end < NEVER), default=NEVER)
    return min(max(left * _RETHINK_SHARE, _RETHINK_AT_LEAST), _RETHINK_AT_MOST)


class Rebalancing:
    """Changes the plan where speeds differ from those expected.

    Args:
        state: The run.
        policy: What makes the plan.
    """

    def __init__(self, state: State, policy: StealPolicy) -> None:
        self._state = state
        self._policy = policy
        self._not_before = 0.0

    def news(self, now: float) -> None:
        """There was progress, so estimates are better: look now, or as soon as it is time again."""
        if self._state.settings.second_attempts:
            if now >= self._not_before:
                self.look(now)
            else:
                self._state.review_by(self._not_before)

    def look(self, now: float) -> None:
        """Follow a plan that is clearly better; else deal with each file that is critical."""
        state = self._state
        state.begin_review()
        self._not_before = now + rethink_interval(state, now)
        outlook = look_ahead(state.fleet, now)
        if outlook is None or state.starts_nothing:
            return
        moves = self._policy.replan(outlook, now)
        if moves:
            self._follow(moves, now)
        self._relieve(outlook, now, may_move=not moves)
        for attempt in self._policy.needless(outlook, now):
            state.stop(attempt, Outcome.SUPERSEDED, "the other attempt will end sooner", now)

    def _follow(self, moves: list[Move], now: float) -> None:
        state = self._state
        state.change_plan((move.record, move.source, move.target) for move in moves)
        for move in moves:
            if move.attempt is not None:
                reason = f"it would end sooner on {move.target.id}"
                take_back(state, move.attempt, reason, now, move.target)
            else:
                state.move(move.record, move.source, move.target, now)

    def _relieve(self, outlook: Outlook, now: float, *, may_move: bool) -> None:
        """Take critical files back while little of them is done; else have them done twice."""
        self._state.calm()  # estimates have changed since: what was critical may not be so now
        for attempt in self._policy.critical(outlook, now):
            if attempt.worker not in outlook.slow or not is_movable(attempt, now):
                self._state.urge(attempt)
            elif may_move:
                take_back(self._state, attempt, "it would end sooner elsewhere", now)
