"""Which worker steals what: the decisions, apart from the bookkeeping.

`EarliestFinish` looks at when each worker is expected to finish, from speeds learned in this run:

- the victim is the worker expected to finish last;
- the thief takes the largest file that it would finish sooner than the victim would;
- it declines when there is none, because then a faster worker does better with what is left;
- when no file waits anywhere, it makes a speculative attempt at the running file that ends last, if
  it would clearly end sooner;
- a running file that may outlast the rest of the run gets a speculative attempt at once, from
  the worker that would end it first: that is a large file on a GPU that turned out to be slow.
  While little of it is done, it is taken back instead (see `rebalancing`). Where it may be the
  content of the file that is slow, and not the GPU, the speculative attempt shows which; the loser
  is stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from virnucpro_exporter.scheduling.files import Attempt, FilePart, FileRecord
from virnucpro_exporter.scheduling.fitting import fitted_plan
from virnucpro_exporter.scheduling.parts import Share, choose_shares, is_whole
from virnucpro_exporter.scheduling.rebalancing import (
    Move,
    Outlook,
    better_plan,
)
from virnucpro_exporter.scheduling.speed import NEVER
from virnucpro_exporter.scheduling.workers import Worker

# A speculative attempt must be expected to end this much sooner than the first one.
_CLEARLY_SOONER = 1.25

# And at least so many seconds: the one that loses may cost its worker the process.
_WORTH_SECONDS = 0.5

# A thief looks at so many victims, and a ranking of them serves this long, in seconds.
_VICTIMS = 4
_RANKING_SECONDS = 0.05

# How far into a victim's queue a thief looks. The files are sorted, so those behind the first few
# differ little from each other.
_LOOK_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Steal:
    """Take the file at this position of the victim's queue."""

    victim: Worker
    position: int


class StealPolicy(Protocol):
    """Decides what a worker with an empty queue does next."""

    name: str

    def steal(self, thief: Worker, workers: Sequence[Worker], now: float) -> Steal | None:
        """Choose a waiting file of another worker, or None to leave them all where they are."""

    def shares(self, idle: Sequence[Worker], workers: Sequence[Worker], now: float) -> list[Share]:
        """Choose running files and parts of which idle workers should take a share.

        Asked when no file waits. The fastest of the idle workers come first.
        """

    def repeats(
        self, idle: Sequence[Worker], workers: Sequence[Worker], now: float
    ) -> list[tuple[Worker, Attempt]]:
        """Choose running files that are worth a speculative attempt, and by which idle worker.

        Asked when no file waits. The fastest of the idle workers come first, and there is at least
        one.
        """

    def replan(self, outlook: Outlook, now: float) -> list[Move]:
        """Choose files, waiting or in process, that other workers should do, if any."""

    def critical(self, outlook: Outlook, now: float) -> list[Attempt]:
        """Choose the attempts that may make the run end late, and whose files need not be so."""

    def suits(
        self, worker: Worker, attempt: Attempt, workers: Sequence[Worker], now: float
    ) -> bool:
        """Whether the worker should make the speculative attempt at a critical file."""

    def needless(self, outlook: Outlook, now: float) -> list[Attempt]:
        """Choose attempts, at files in process twice, that are not worth continuing."""


class NoStealing:
    """The control: every worker does what it was assigned at the start."""

    name = "static"

    def steal(self, thief: Worker, workers: Sequence[Worker], now: float) -> Steal | None:
        """Take over only what is left by workers that will never come back."""
        del now
        for victim in workers:
            if (victim.is_retired or victim.is_leaving) and victim.queue:
                position = _first_allowed(victim, thief)
                if position is not None:
                    return Steal(victim, position)
        return None

    def shares(self, idle: Sequence[Worker], workers: Sequence[Worker], now: float) -> list[Share]:
        """None."""
        del idle, workers, now
        return []

    def repeats(
        self, idle: Sequence[Worker], workers: Sequence[Worker], now: float
    ) -> list[tuple[Worker, Attempt]]:
        """None."""
        del idle, workers, now
        return []

    def replan(self, outlook: Outlook, now: float) -> list[Move]:
        """None."""
        del outlook, now
        return []

    def critical(self, outlook: Outlook, now: float) -> list[Attempt]:
        """None."""
        del outlook, now
        return []

    def suits(
        self, worker: Worker, attempt: Attempt, workers: Sequence[Worker], now: float
    ) -> bool:
        """Whether it has not failed on the file; called only for stalled workers' files."""
        del workers, now
        return worker.id not in attempt.record.avoid

    def needless(self, outlook: Outlook, now: float) -> list[Attempt]:
        """None."""
        del outlook, now
        return []


class EarliestFinish:
    """Steal so that the whole run ends soonest."""

    name = "stealing"

    def __init__(self) -> None:
        self._ranking = _Ranking()

    def steal(self, thief: Worker, workers: Sequence[Worker], now: float) -> Steal | None:
        """Choose the largest file that ends sooner with the thief, from the latest victim."""
        for victim in self._ranking.latest(workers, now):
            position = self._improved(victim, thief, now) if victim is not thief else None
            if position is not None:
                return Steal(victim, position)
        return None

    def _improved(self, victim: Worker, thief: Worker, now: float) -> int | None:
        if victim.is_leaving:
            return _first_allowed(victim, thief)
        if not victim.inflight:
            is_coming = not victim.is_ready and not victim.is_retired and victim.startup > 0.0
            if not is_coming:  # it is not working on its queue
                return _first_allowed(victim, thief)
        ends = victim.free_at(now)
        begins, speed, fixed = now + thief.fixed.seconds, thief.speed, victim.fixed.seconds
        for position, record in enumerate(victim.queue):
            residues = record.file.residues
            ends += fixed + residues / victim.speed
            is_sooner = begins + residues / speed < ends or _is_divisible(record, thief)
            if is_sooner and may_take(record, thief):
                return position
            if position >= _LOOK_AHEAD:
                break
        return None

    def shares(self, idle: Sequence[Worker], workers: Sequence[Worker], now: float) -> list[Share]:
        """Take from the ranges that end last, so that both workers end together."""
        return choose_shares(idle, workers, now)

    def repeats(
        self, idle: Sequence[Worker], workers: Sequence[Worker], now: float
    ) -> list[tuple[Worker, Attempt]]:
        """Give the running files that end last to the fastest workers that end clearly sooner.

        One that ends long before another does not delay the run, and stopping the attempt that
        loses costs a process.
        """
        fastest = idle[0]
        running = [
            (attempt.remaining(now), attempt)
            for worker in workers
            for attempt in worker.inflight.values()
            if not attempt.is_cancelled
        ]
        if any(a.asked_at is not None and a.worker.cuts_first for _, a in running):
            return []  # there is about to be work for all of them
        running = [(end, a) for end, a in running if end == NEVER or is_whole(a)]
        ends = (end if len(a.record.holders) == 1 else _ends(a, now) for end, a in running)
        latest = max((end for end in ends if end < float("inf")), default=0.0)
        late = [
            (remaining, attempt)
            for remaining, attempt in running
            if remaining * (1.0 + fastest.errors.risk_of_size) >= latest
            and len(attempt.record.holders) == 1
            and _is_worth_a_process(attempt, fastest, remaining)
        ]
        free, chosen = list(idle), []
        for remaining, attempt in sorted(late, key=lambda pair: -pair[0]):
            record = attempt.record
            # What the fastest would not end clearly sooner, none of the others would.
            thief = next((w for w in free if w.id not in record.avoid), None)
            if thief and _is_worth_a_process(attempt, thief, remaining):
                free.remove(thief)
                chosen.append((thief, attempt))
        return chosen

    def replan(self, outlook: Outlook, now: float) -> list[Move]:
        """Lay files out anew, if that makes the run end clearly sooner.

        The large ones where workers are slow; else all, where every file has a fixed cost.
        """
        return better_plan(outlook, now) or fitted_plan(outlook, now)

    def critical(self, outlook: Outlook, now: float) -> list[Attempt]:
        """Choose the attempts that may outlast all other work and would end sooner elsewhere.

        Only on workers that are slow beside the others, or that have fallen silent: a file whose
        content is slow is so on every GPU, and a speculative attempt takes a worker from files
        that wait.
        """
        limit = outlook.seconds / (1.0 + outlook.risk)
        return [
            attempt
            for worker in outlook.workers
            for attempt in worker.running
            if (worker in outlook.slow or attempt.is_quiet(now) or _is_doubtful(attempt, outlook))
            and (is_whole(attempt) or attempt.is_quiet(now))
            and attempt.remaining(now) > limit
            and attempt.record.holders == (attempt,)
            and _ends_sooner_elsewhere(attempt, outlook.workers, now)
        ]

    def suits(
        self, worker: Worker, attempt: Attempt, workers: Sequence[Worker], now: float
    ) -> bool:
        """Whether it would end clearly sooner, and no other would end even sooner once free."""
        record, cost = attempt.record, attempt.record.file.residues
        own = worker.seconds(cost)
        if worker.id in record.avoid or not _is_clearly_sooner(own, attempt.remaining(now)):
            return False
        return not any(
            other.free_at(now) + other.seconds(cost) < now + own
            for other in workers
            if other is not worker and other is not attempt.worker and other.id not in record.avoid
        )

    def needless(self, outlook: Outlook, now: float) -> list[Attempt]:
        """Of two attempts, choose the one that has shown to end later, while files wait.

        Where the speculative one is no faster, the content of the file is slow, and not the first
        worker.
        """
        if not any(worker.queue for worker in outlook.workers):
            return []
        pairs = (
            (attempt.record.holders[0], attempt)
            for worker in outlook.workers
            for attempt in worker.running
            if attempt.is_speculative and len(attempt.record.holders) > 1
        )
        losers = (_loser(first, second, now) for first, second in pairs)
        return [loser for loser in losers if loser is not None]


def _loser(first: Attempt, second: Attempt, now: float) -> Attempt | None:
    """Which attempt will end later than the other; None while that is not known."""
    if not all(a.recent is not None and a.recent.seconds_per_residue for a in (first, second)):
        return None
    left, other = first.remaining(now), second.remaining(now)
    if NEVER in (left, other) or min(left, other) < second.worker.startup:
        return None
    if other >= left:
        return second
    return first if _is_clearly_sooner(other, left) else None


def _is_worth_a_process(attempt: Attempt, thief: Worker, remaining: float) -> bool:
    """Whether a speculative attempt gains more than a new process for the one that loses takes."""
    seconds = thief.seconds(attempt.record.file.residues)
    return _is_clearly_sooner(seconds, remaining) and remaining - seconds >= thief.startup


def _ends(attempt: Attempt, now: float) -> float:
    """Seconds until the first of the attempts at its file ends."""
    return min(other.remaining(now) for other in attempt.record.holders)


def _is_doubtful(attempt: Attempt, outlook: Outlook) -> bool:
    """Whether a speculative attempt may show whether the worker is slow, or the file."""
    return attempt.worker in outlook.doubtful and attempt.record.attempts == 1


def _ends_sooner_elsewhere(attempt: Attempt, workers: Sequence[Worker], now: float) -> bool:
    """Whether another worker would end the file clearly sooner, once it is free for it."""
    record = attempt.record
    ends = (
        worker.would_end(record.file.residues, now) - now
        for worker in workers
        if worker is not attempt.worker and worker.id not in record.avoid
    )
    return _is_clearly_sooner(min(ends, default=float("inf")), attempt.remaining(now))


def _is_clearly_sooner(seconds: float, remaining: float) -> bool:
    """Whether a speculative attempt of so many seconds is worth it, beside what remains."""
    return seconds * _CLEARLY_SOONER < remaining and remaining - seconds >= _WORTH_SECONDS


class _Ranking:
    """The workers with waiting files, those that finish last first.

    With a thousand workers, ranking all of them for each steal would cost more than the steal. So
    the ranking is kept for a moment and only its top is looked at anew.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Worker]] = []
        self._made_at = float("-inf")
        self._uses_left = 0

    def latest(self, workers: Sequence[Worker], now: float) -> list[Worker]:
        """The few victims worth looking at, best first."""
        if not self._uses_left or now - self._made_at >= _RANKING_SECONDS:
            self._rank(workers, now)
        self._uses_left -= 1
        heap = self._heap
        found: list[tuple[float, int, Worker]] = []
        while heap and len(found) < _VICTIMS:
            _, index, victim = heap[0]
            if not victim.queue:
                heapq.heappop(heap)
                continue
            current = (-victim.finish_at(now), index, victim)
            if current > heap[0]:  # it will finish sooner than thought: back into its place
                heapq.heapreplace(heap, current)
            else:
                found.append(heapq.heappop(heap))
        for entry in found:
            heapq.heappush(heap, entry)
        return [victim for _, _, victim in found]

    def _rank(self, workers: Sequence[Worker], now: float) -> None:
        self._heap = [(-w.finish_at(now), w.index, w) for w in workers if w.queue]
        heapq.heapify(self._heap)
        self._made_at = now
        self._uses_left = len(workers) // 4 + 1


def may_take(record: FileRecord, thief: Worker) -> bool:
    """Whether the file has not failed on this worker before."""
    return thief.id not in record.avoid


def _is_divisible(record: FileRecord, thief: Worker) -> bool:
    """Whether others can take shares of a part from the thief, so that it need not be sooner."""
    return (thief.can_split or thief.cuts_first) and isinstance(record.file, FilePart)


def _first_allowed(victim: Worker, thief: Worker) -> int | None:
    return next((i for i, record in enumerate(victim.queue) if may_take(record, thief)), None)
