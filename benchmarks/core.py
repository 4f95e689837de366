"""Decisions per second of processor time, and what a million queued files cost.

Run: python benchmarks/core.py
"""

from __future__ import annotations

import resource
import time

from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.scheduler import Scheduler


def cycles_per_second(gpus: int, files: int) -> float:
    """Next-file/complete cycles per second of processor time, all workers asking in turn."""
    scheduler = Scheduler({str(gpu): 1.0 + gpu % 3 for gpu in range(gpus)})
    inputs = tuple(SequenceFile(f"/f/{i:07}.fa", 10, 1 + i * 7919 % 100_003) for i in range(files))
    scheduler.handle(ev.FilesSubmitted(inputs), 0.0)
    now = 0.0
    waiting: list[co.Command] = []
    begin = time.process_time()
    for gpu in range(gpus):
        waiting += scheduler.handle(ev.WorkerReady(WorkerId(str(gpu))), now).commands
    while waiting:
        now += 0.001
        done, waiting = waiting, []
        for command in done:
            if isinstance(command, co.StartAttempt):
                file = command.file
                event = ev.AttemptCompleted(
                    command.worker_id, command.attempt, 10, file.residues, file.residues / 50_000
                )
                waiting += scheduler.handle(event, now).commands
    if not scheduler.is_finished:
        raise RuntimeError("files are left")
    return files / (time.process_time() - begin)


def main() -> None:
    """Print the table."""
    print(f"{'GPUs':>6} {'files':>9} {'cycles/s':>10}")
    for gpus, files in ((8, 100_000), (64, 100_000), (1024, 100_000), (8, 1_000_000)):
        rate = sorted(cycles_per_second(gpus, files) for _ in range(3 if files < 1e6 else 1))
        print(f"{gpus:>6} {files:>9} {rate[len(rate) // 2]:>10,.0f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory, a million files among them: {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
