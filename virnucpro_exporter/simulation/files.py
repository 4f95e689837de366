"""Synthetic files of very different sizes."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.simulation.workers import RESIDUES_PER_SEQUENCE

_LARGE_SHARE = 0.25  # of bimodal files


def skewed_files(
    count: int,
    rng: random.Random,
    *,
    distribution: str = "lognormal",
    sigma: float = 1.5,
    error: float = 0.3,
    mean: int = 1_000_000,
    folder: str = "/virtual",
) -> tuple[list[SequenceFile], dict[str, int]]:
    """Generate files of very different sizes, with their real residues.

    Args:
        count: How many.
        rng: The random number generator.
        distribution: `"lognormal"`, `"pareto"` (alpha 1.2) or `"bimodal"`: one file in four is
            six times as large as the others.
        sigma: How wide the lognormal distribution is.
        error: Spread of the declared cost around the real one, as a share.
        mean: About so many residues per file.
        folder: Of their paths.

    Returns:
        The files with their declared costs, and the real residues by path.
    """
    draws: dict[str, Callable[[], float]] = {
        "lognormal": partial(rng.lognormvariate, 0.0, sigma),
        "pareto": partial(rng.paretovariate, 1.2),
        "bimodal": lambda: 6.0 if rng.random() < _LARGE_SHARE else 1.0,
    }
    draw = draws[distribution]
    sizes = [draw() for _ in range(count)]
    scale = mean * count / sum(sizes)
    files, work = [], {}
    for index, size in enumerate(sizes):
        path = f"{folder}/{index:06}.fa"
        work[path] = max(1, round(size * scale))
        declared = max(1, round(work[path] * rng.uniform(1.0 - error, 1.0 + error)))
        sequences = max(1, work[path] // RESIDUES_PER_SEQUENCE)
        files.append(SequenceFile(path, sequences, declared))
    return files, work
