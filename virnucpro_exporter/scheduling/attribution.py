"""What makes a worker look fast or slow: the worker itself, or the content of its files.

Some content takes longer on every GPU, so a worker that is slow on one file may be as fast as
declared. What workers do for their declared speeds differs by both. How much the files differ is
learned in the run; if the workers differ by more than that can explain, the rest is their own. This
is the random-effects model of meta-analysis: each worker is a study of its speed, and the variance
between workers is estimated by the method of DerSimonian and Laird ("Meta-analysis in clinical
trials", 1986).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from virnucpro_exporter.scheduling.speed import CERTAIN
from virnucpro_exporter.scheduling.workers import Worker


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the measured speeds of workers are put down to.

    Attributes:
        to_files: How much faster each worker looks than it is expected to be on other files, as the
            natural logarithm of a ratio: below 0 where its files seem to be harder than others.
        slower: The workers that are believed to be slower themselves, beside the others.
    """

    to_files: Mapping[Worker, float]
    slower: frozenset[Worker]


def attribute(workers: Sequence[Worker], certain: frozenset[Worker]) -> Attribution:
    """Share out what workers do for their declared speeds: to them, and to their files.

    Args:
        workers: Those that make progress.
        certain: Those that are so slow that it cannot be the content of their files.
    """
    to_files = dict.fromkeys(workers, 0.0)
    shown = [
        (worker, math.log(worker.learned.value / worker.weight), max(worker.learned.files, 1.0))
        for worker in workers
        if worker.learned.value is not None
    ]
    if len(shown) < 2:
        return Attribution(to_files, certain)
    variance = workers[0].errors.content.value ** 2
    total = sum(files for *_, files in shown)
    mean = sum(files * share for _, share, files in shown) / total
    degrees = len(shown) - 1
    squares = sum(files * (share - mean) ** 2 for _, share, files in shown)
    # Only what is clearly more than chance counts: a file that is taken back for nothing is dear.
    chance = variance * (degrees + CERTAIN * math.sqrt(2.0 * degrees))
    between = (squares - chance) / (total - sum(files * files for *_, files in shown) / total)
    between = max(0.0, between)
    of_files = {worker: variance / files for worker, _, files in shown}
    precision = {worker: 1.0 / (between + of_files[worker]) for worker in of_files}
    mean = sum(precision[worker] * share for worker, share, _ in shown) / sum(precision.values())
    for worker, share, _ in shown:
        if worker not in certain:
            to_files[worker] = (share - mean) * of_files[worker] * precision[worker]
    slower = [worker for worker, share, _ in shown if between and share < mean]
    return Attribution(to_files, certain.union(slower))
