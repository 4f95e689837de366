"""The last minutes of values, for small pictures: means of short intervals, unknown ones absent."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot

INTERVALS, SECONDS = 60, 10.0  # ten minutes


class Trail:
    """The means of one value over the last intervals.

    Args:
        intervals: How many are kept.
        seconds: The length of each.
    """

    __slots__ = ("_length", "_means", "_seconds")

    def __init__(self, intervals: int = INTERVALS, seconds: float = SECONDS) -> None:
        self._length, self._seconds = intervals, seconds
        self._means: deque[tuple[int, float, int]] = deque(maxlen=intervals)

    def add(self, now: float, value: float | None) -> None:
        """Take a value into the interval of `now`, seconds that never go back; None is no value."""
        if value is None or not math.isfinite(value):
            return
        interval = int(now // self._seconds)
        total, count = 0.0, 0
        if self._means and self._means[-1][0] == interval:
            _, total, count = self._means.pop()
        self._means.append((interval, total + value, count + 1))

    def means(self, now: float) -> tuple[float | None, ...]:
        """One mean for each interval up to `now`, the oldest first; None where nothing is known."""
        length = self._length
        first = int(now // self._seconds) - length + 1
        means: list[float | None] = [None] * length
        for interval, total, count in self._means:
            if 0 <= interval - first < length:
                means[interval - first] = total / count
        return tuple(means)

    def is_over(self, now: float) -> bool:
        """Whether nothing was known in all of the intervals up to `now`."""
        last = int(now // self._seconds)
        return not self._means or last - self._means[-1][0] >= self._length


def halved(means: Sequence[float | None]) -> tuple[float | None, ...]:
    """The means of intervals of twice the length."""
    return tuple(
        second if first is None else first if second is None else (first + second) / 2
        for first, second in zip(means[::2], means[1::2], strict=True)
    )


class Trails:
    """The trails of a machine: what each GPU did, and how fast each run was.

    Args:
        intervals: How many are kept.
        seconds: The length of each.
    """

    def __init__(self, intervals: int = INTERVALS, seconds: float = SECONDS) -> None:
        self._new = partial(Trail, intervals, seconds)
        self._nothing = self._new()
        self._utilization: dict[str, Trail] = {}
        self._throughput: dict[str, Trail] = {}

    def add(self, now: float, gpus: GpuSnapshot | None, runs: Mapping[str, RunSnapshot]) -> None:
        """Take what is known now.

        Args:
            now: Seconds that never go back.
            gpus: All GPUs, or None where none is watched.
            runs: The runs by id.
        """
        for device in gpus.devices if gpus else ():
            sample = device.sample if device.up else None
            value = sample.utilization_ratio if sample else None
            self._utilization.setdefault(device.gpu, self._new()).add(now, value)
        for run_id, run in runs.items():
            self._throughput.setdefault(run_id, self._new()).add(now, run.throughput)
        for trails in (self._utilization, self._throughput):
            for key in [key for key, trail in trails.items() if trail.is_over(now)]:
                del trails[key]

    def utilization(self, gpu: str, now: float) -> tuple[float | None, ...]:
        """Of a GPU, 0 to 1."""
        return self._utilization.get(gpu, self._nothing).means(now)

    def throughput(self, run: str, now: float) -> tuple[float | None, ...]:
        """Of a run, in sequences per second."""
        return self._throughput.get(run, self._nothing).means(now)
