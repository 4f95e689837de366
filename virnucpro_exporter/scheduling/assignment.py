"""The initial assignment: weighted longest-processing-time-first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from virnucpro_exporter.scheduling.files import SequenceFile


def assign_files_weighted(
    files: Iterable[SequenceFile],
    weights: Mapping[str, float],
    loads: Mapping[str, float] | None = None,
) -> dict[str, list[SequenceFile]]:
    """Assign files to GPUs so that all GPUs are expected to finish at the same time.

    Files are assigned in order of decreasing cost, each to the GPU that would finish it first: the
    one with the least (load + cost) / weight. Ties go to the GPU listed first, so the result is
    reproducible.

    Args:
        files: The files to assign; the cost of a file is its residues.
        weights: Speed of each GPU, above 0, all in the same unit.
        loads: Residues already assigned to each GPU, 0 where missing.

    Returns:
        The files of every GPU, largest first.

    Raises:
        ValueError: There is no GPU, or a weight is not above 0.
    """
    if not weights:
        raise ValueError("files cannot be assigned to no GPU")
    bad = [gpu for gpu, weight in weights.items() if not weight > 0]
    if bad:
        raise ValueError(f"the weight of GPU {bad[0]} must be above 0")
    loads = loads or {}
    order: Sequence[SequenceFile] = sorted(files, key=lambda file: -file.residues)
    assigned: dict[str, list[SequenceFile]] = {gpu: [] for gpu in weights}
    classes = _classes(weights, loads)
    for file in order:
        cost = file.residues
        # Of the GPUs with the same weight the least loaded is best, so only the heap heads compete.
        best = min(classes, key=lambda c: ((c[1][0][0] + cost) / c[0], c[1][0][1]))
        load, rank, gpu = best[1][0]
        heapq.heapreplace(best[1], (load + cost, rank, gpu))
        assigned[gpu].append(file)
    return assigned


def _classes(
    weights: Mapping[str, float], loads: Mapping[str, float]
) -> list[tuple[float, list[tuple[float, int, str]]]]:
    """Heaps of (load, rank, GPU), one for each distinct weight."""
    heaps: dict[float, list[tuple[float, int, str]]] = {}
    for rank, (gpu, weight) in enumerate(weights.items()):
        heaps.setdefault(weight, []).append((loads.get(gpu, 0.0), rank, gpu))
    for heap in heaps.values():
        heapq.heapify(heap)
    return list(heaps.items())
