"""Small files for slow workers: a better plan where every file has a fixed cost.

The seconds that every file takes beside its residues, for loading or writing, cost a fast GPU as
much as a slow one, and a fast one would have done more in them. So the fewest and largest files
belong on the fastest GPUs. The first plan and stealing do not consider that, only when files
end. Once the fixed cost is known, and no more files wait than make a difference to the end of the
run, they are fitted into the time that is left: by falling size, each on the fastest worker that
still has room, as in MULTIFIT.
"""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.scheduling.files import FileRecord
from virnucpro_exporter.scheduling.rebalancing import Move, Outlook
from virnucpro_exporter.scheduling.speed import NEVER
from virnucpro_exporter.scheduling.workers import Worker

# So many waiting files are fitted, into the time of so many workers: that takes milliseconds.
_MOST_FILES = 64
_MOST_WORKERS = 64

# The run must be expected to end this much sooner.
_WORTH_FITTING = 1.03

# The fixed cost must make up this share of what the waiting files take, on average.
_LEAST_SHARE = 0.05

# The fastest worker must be so many times as fast as the slowest: equal ones lose the same seconds.
_UNEQUAL = 1.25

# The time that is left is halved so often to find the least that is enough.
_HALVINGS = 8


def fitted_plan(outlook: Outlook, now: float) -> list[Move]:
    """The moves of waiting files that make the run end sooner, where files have a fixed cost.

    Args:
        outlook: What is left of the run.
        now: The present time, in seconds.

    Returns:
        The moves; none where the fixed cost is small or not known, or where they gain little.
    """
    waiting = sum(len(worker.queue) for worker in outlook.workers)
    if not 0 < waiting <= _MOST_FILES or len(outlook.workers) > _MOST_WORKERS:
        return []
    free = [(worker.free_at(now) - now, worker) for worker in outlook.workers]
    usable = [(left, w) for left, w in free if left < NEVER and not w.is_leaving]
    if outlook.stranded or not usable or not _matters(outlook.workers):
        return []
    usable.sort(key=lambda pair: (-pair[1].speed, pair[1].index))
    if usable[0][1].speed < _UNEQUAL * usable[-1][1].speed:
        return []
    queued = [(record, worker) for worker in outlook.workers for record in worker.queue]
    queued.sort(key=lambda pair: -pair[0].file.residues)
    records = [record for record, _ in queued]
    enough = max(worker.finish_at(now) for worker in outlook.workers) - now
    enough /= _WORTH_FITTING
    targets = _fit(records, usable, enough)
    if not targets:
        return []
    too_short = 0.0
    for _ in range(_HALVINGS):
        middle = (too_short + enough) / 2.0
        found = _fit(records, usable, middle)
        if found:
            enough, targets = middle, found
        else:
            too_short = middle
    return [
        Move(record, None, source, target)
        for (record, source), target in zip(queued, targets, strict=True)
        if target is not source
    ]


def _matters(workers: Sequence[Worker]) -> bool:
    """Whether the fixed cost is a fair share of what the waiting files take."""
    fixed = sum(len(worker.queue) * worker.fixed.seconds for worker in workers)
    total = sum(worker.seconds(worker.queued_residues, len(worker.queue)) for worker in workers)
    return fixed > _LEAST_SHARE * total


def _fit(
    records: Sequence[FileRecord], workers: Sequence[tuple[float, Worker]], seconds: float
) -> list[Worker]:
    """The worker of each file, the largest first, if all end within so many seconds, else none.

    Args:
        records: The files, largest first.
        workers: In how many seconds each is free, the fastest first.
        seconds: From now.
    """
    room = [seconds - left for left, _ in workers]
    targets = []
    for record in records:
        for place, (_, worker) in enumerate(workers):
            takes = worker.seconds(record.file.residues)
            if takes <= room[place] and worker.id not in record.avoid:
                room[place] -= takes
                targets.append(worker)
                break
        else:
            return []
    return targets
