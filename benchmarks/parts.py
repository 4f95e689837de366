"""What splitting files on demand is worth, in virtual time, on the real scheduler.

Each row is a set of files on eight GPUs, of equal or of mixed speeds, that would take an hour if
all GPUs were busy all the time. The figures are the makespan over that time: of whole files, and of
files that are split where each part costs 0.1 s or 1 s beside its residues, with exact sizes and
with sizes that are estimated up to 30 % wrong. The cost of the first part of each file is in the
bound. A file that is lost or done twice makes the exit status 1.

Run: python benchmarks/parts.py
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.simulation import VirtualGpu, VirtualRun, VirtualWorkers

SECONDS = 3600.0
RESIDUES = 1_000_000  # per second of a GPU of speed 1
EQUAL = (1.0,) * 8
MIXED = (1.0, 1.0, 1.5, 1.5, 0.9, 2.5, 1.2, 0.75)


def rows() -> Iterator[tuple[str, list[float], Sequence[float]]]:
    """The name, the sizes of the files and the speeds of the GPUs of each row."""
    rng = random.Random(7)
    yield "1 file, 8 equal", [1.0], EQUAL
    yield "1 file, 8 mixed", [1.0], MIXED
    yield "5 files, 8 mixed", [rng.lognormvariate(0.0, 1.0) for _ in range(5)], MIXED
    sizes = [rng.lognormvariate(0.0, 1.0) for _ in range(99)]
    yield "100 files, one is 40 %", [*sizes, sum(sizes) * 0.4 / 0.6], MIXED
    yield "100 Pareto", [rng.paretovariate(1.1) for _ in range(100)], MIXED
    yield "500 files", [rng.lognormvariate(0.0, 1.0) for _ in range(500)], MIXED


def measure(
    sizes: Sequence[float],
    speeds: Sequence[float],
    overhead: float,
    *,
    can_split: bool = True,
    error: float = 0.0,
) -> tuple[float, int] | None:
    """Makespan over the least possible, and the number of parts; None where a file was lost."""
    rng = random.Random(1)
    scale = SECONDS * RESIDUES * sum(speeds) / sum(sizes)
    work = {f"/{n}": int(size * scale) for n, size in enumerate(sizes)}
    files = [
        SequenceFile(path, None, int(size * rng.uniform(1.0 - error, 1.0 + error)))
        for path, size in work.items()
    ]
    gpus = {str(n): VirtualGpu(speed * RESIDUES) for n, speed in enumerate(speeds)}
    workers = VirtualWorkers(gpus, 1.0, overhead=overhead, can_split=can_split)
    scheduler = Scheduler({str(n): speed for n, speed in enumerate(speeds)})
    outcome = VirtualRun(scheduler, gpus, work, workers=workers).run(files)
    if outcome.completed != dict.fromkeys(work, 1):
        return None
    least = SECONDS + overhead * len(sizes) / sum(speeds)
    return outcome.makespan / least, scheduler.state.parts_completed


def main() -> int:
    """Print the table.

    Returns:
        1 if a file was lost or doubled.
    """
    print("makespan / least possible (parts): whole, 0.1 s and 1 s per part; then sizes 30 % off")
    is_sound = True
    for name, sizes, speeds in rows():
        cases = [
            measure(sizes, speeds, 0.1, can_split=False),
            *(measure(sizes, speeds, o, error=e) for e in (0.0, 0.3) for o in (0.1, 1.0)),
        ]
        cells = [f"{ratio:7.4f} {f'({parts})':>6}" for ratio, parts in filter(None, cases)]
        is_sound = is_sound and all(cases)
        print(f"{name:<24}", *cells, flush=True)
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
