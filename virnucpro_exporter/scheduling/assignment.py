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
    """Spread files over GPUs so that all are expected to finish at the same time.

    Files go by falling cost, each to the GPU that would finish it first: the one with the least
    (load + cost) / weight. Equal choices go to the GPU named first, so the result is reproducible.

    Args:
        files: What to assign; the cost of a file is its residues.
        weights: Speed of each GPU, above 0, in any one unit.
        loads: Residues that each GPU has to do already, 0 where not given.

    Returns:
        For every GPU its files, largest first.

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
        # Among GPUs of one weight the least loaded is the best, so only the heads compete.
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
