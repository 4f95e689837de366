"""Histories of runs that were, made up from a seed: for the report."""

from __future__ import annotations

import math
import random

from virnucpro_exporter.history import (
    AttemptSpan,
    GpuSeries,
    LogHistory,
    Outcome,
    RunHistory,
    RunPeriod,
    StallSpan,
    WorkerTotals,
)
from virnucpro_exporter.snapshot import StealEvent

START = 1_700_000_000.0
NAMES = ("NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090")


def history(gpus: int = 4, files: int = 60, *, resumed: bool = False) -> RunHistory:
    """A run of some hours with a stall, failures, steals and a second attempt."""
    rng = random.Random(7)
    free = [START + rng.uniform(5, 20) for _ in range(gpus)]
    attempts, steals = [], []
    for number in range(files):
        gpu = min(range(gpus), key=free.__getitem__)
        seconds = rng.lognormvariate(math.log(12_000 * gpus / files), 0.6)
        begin, free[gpu] = free[gpu], free[gpu] + seconds + 0.5
        fate = Outcome.FAILED if number % 29 == 17 else Outcome.COMPLETED
        path = f"/data/reads/sample_{number:04}.fastq.gz"
        done = int(seconds * 40) if fate is Outcome.COMPLETED else None
        error = "" if done is not None else "the command ended with status 1: CUDA out of memory"
        attempts.append(AttemptSpan(str(gpu), path, begin, begin + seconds, fate, done, error))
        if number > 0.7 * files and number % 3 == 0:
            victim = str((gpu + 1) % gpus)
            steals.append(StealEvent(begin, victim, str(gpu), path.rpartition("/")[2]))
    end = max(free)
    last = max(attempts, key=lambda a: a.ended)
    thief = str((int(last.gpu) + 1) % gpus)
    attempts.append(
        AttemptSpan(thief, last.path, max(free[int(thief)], last.started), end, Outcome.CANCELLED)
    )
    stall = StallSpan("1", START + 5_000, START + 5_900)
    pause = START + 7_000
    periods: tuple[RunPeriod, ...] = (RunPeriod("r1", "failed", START, end),)
    if resumed:
        periods = (
            RunPeriod("r1", "interrupted", START, pause),
            RunPeriod("r2", "failed", pause, end),
        )
    return RunHistory(
        folder="/data/RESULTS",
        runs=periods,
        attempts=tuple(attempts),
        steals=tuple(steals),
        stalls=(stall,),
        workers=tuple(
            WorkerTotals(
                period.run_id,
                str(gpu),
                NAMES[gpu % len(NAMES)],
                30.0 * gpu,
                int(gpu == 2),
            )
            for period in periods
            for gpu in range(gpus)
        ),
        counts={"completed": files - 2, "failed": 2},
        failed=(
            ("/data/reads/sample_0017.fastq.gz", "the command ended with status 1"),
            ("/data/reads/<script>alert(1)</script>.fa", "record 3 has no sequence"),
        ),
        settings={"metrics_log": "gpu_metrics.log"},
    )


def log(gpus: int = 4, seconds: float = 12_500.0, step: float = 5.0) -> LogHistory:
    """The metrics log beside it; the last GPU does not answer for a while."""
    rng = random.Random(8)
    made = {}
    for gpu in range(gpus):
        series = GpuSeries()
        level = 60.0 + 30 * gpu / gpus
        for index in range(int(seconds / step)):
            gone = gpu == gpus - 1 and 0.4 < index * step / seconds < 0.5
            stalled = gpu == 1 and 5_000 < index * step < 5_900
            level = min(100.0, max(20.0, level + rng.gauss(0, 2)))
            series.times.append(START + index * step)
            series.throughput.append(0.0 if stalled else level * 0.6)
            series.compute.append(math.nan if gone else 0.0 if stalled else level)
            series.memory.append(math.nan if gone else 40.0 + 5 * (gpu % 8))
            series.residues.append(math.nan)
            series.power.append(math.nan if gone else 100.0 + 2.0 * level)
        made[str(gpu)] = series
    return LogHistory("/data/RESULTS/gpu_metrics.log", made)
