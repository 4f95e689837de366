"""Time while something ran: the pauses between runs that were resumed are cut out."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from virnucpro_exporter.history import LogHistory, RunPeriod

LONGEST_SILENCE = 60.0  # a log that is silent for longer, in seconds, was not being written


class RunningTime:
    """Turns moments into seconds of running time.

    Args:
        periods: The runs, oldest first, at least one.

    Attributes:
        periods: The same.
        starts: At which running time each of them began.
        total: Running time of all, in seconds.
    """

    def __init__(self, periods: Sequence[RunPeriod]) -> None:
        self.periods = tuple(periods)
        lengths = [period.ended - period.started for period in self.periods]
        self.starts = [0.0, *accumulate(lengths[:-1])]
        self.total = self.starts[-1] + lengths[-1]
        # By the clock: one that was set back between two runs has the later one begin earlier.
        self._order = sorted(range(len(self.periods)), key=lambda i: self.periods[i].started)
        self._begins = [self.periods[index].started for index in self._order]

    def at(self, moment: float) -> float:
        """The running time at a moment; a moment in a pause counts as its beginning."""
        index = self._index(moment)
        period = self.periods[index]
        return self.starts[index] + min(max(moment, period.started), period.ended) - period.started

    def period_of(self, moment: float) -> RunPeriod:
        """The run of a moment, or the last one before it."""
        return self.periods[self._index(moment)]

    def _index(self, moment: float) -> int:
        """The period of a moment, or the last one before it."""
        index = max(0, bisect_right(self._begins, moment) - 1)
        return self._order[index]

    def covers(self, moment: float, slack: float = 0.0) -> bool:
        """Whether something ran at a moment, give or take some seconds."""
        return any(p.started - slack <= moment <= p.ended + slack for p in self.periods)


def periods_of_log(log: LogHistory) -> tuple[RunPeriod, ...]:
    """The runs in a log without a journal: the log has gaps between them."""
    moments = sorted({moment for series in log.gpus.values() for moment in series.times})
    steps = [after - before for before, after in pairwise(moments)]
    limit = max(LONGEST_SILENCE, 10 * statistics.median(steps)) if steps else LONGEST_SILENCE
    begins = [0, *(index for index, step in enumerate(steps, 1) if step > limit), len(moments)]
    return tuple(
        RunPeriod("", "", moments[first], moments[last - 1]) for first, last in pairwise(begins)
    )
