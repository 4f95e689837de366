"""A log of any length as a few hundred means over equal steps of running time."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from virnucpro_exporter.history import GpuSeries
from virnucpro_exporter.report.running_time import RunningTime

MOST_BINS = 240
Column = list[float | None]


@dataclass(frozen=True, slots=True)
class Binned:
    """The log in equal steps of running time; None where nothing is known.

    Attributes:
        centers: The middle of each step, in seconds of running time.
        throughput: Sequences per second, by GPU.
        compute: Percent, by GPU.
        memory: Percent, by GPU.
        residues: Residues per second, by GPU.
        power: Watts, by GPU.
    """

    centers: list[float]
    throughput: Mapping[str, Column]
    compute: Mapping[str, Column]
    memory: Mapping[str, Column]
    residues: Mapping[str, Column]
    power: Mapping[str, Column]


def binned(series: Mapping[str, GpuSeries], time: RunningTime) -> Binned:
    """The means of every GPU's values; a step is never so short that it may miss every row."""
    moments = sorted({time.at(moment) for one in series.values() for moment in one.times})
    gaps = [after - before for before, after in pairwise(moments)]
    interval = statistics.median(gaps) if gaps else time.total
    count = max(1, min(MOST_BINS, int(time.total / (1.5 * interval)) if interval else 1))
    width = time.total / count or 1.0
    places = {
        gpu: [min(count - 1, int(time.at(moment) / width)) for moment in one.times]
        for gpu, one in series.items()
    }
    return Binned(
        centers=[(index + 0.5) * width for index in range(count)],
        throughput={g: _means(s.throughput, places[g], count) for g, s in series.items()},
        compute={g: _means(s.compute, places[g], count) for g, s in series.items()},
        memory={g: _means(s.memory, places[g], count) for g, s in series.items()},
        residues={g: _means(s.residues, places[g], count) for g, s in series.items()},
        power={g: _means(s.power, places[g], count) for g, s in series.items()},
    )


def _means(values: array[float], places: list[int], count: int) -> Column:
    sums, numbers = [0.0] * count, [0] * count
    for place, value in zip(places, values, strict=True):
        if not math.isnan(value):
            sums[place] += value
            numbers[place] += 1
    return [round(s / n, 3) if n else None for s, n in zip(sums, numbers, strict=True)]
