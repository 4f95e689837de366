"""Snapshots of runs and GPUs in the states that every view must show well.

All are deterministic: the wall clock stands at `NOW`. Change one with `dataclasses.replace`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from virnucpro_exporter.snapshot import (
    DURATION_BUCKETS,
    PAIRED_WORKERS,
    WHOLE,
    CollectorHealth,
    DurationHistogram,
    GpuDevice,
    GpuModes,
    GpuProcess,
    GpuSample,
    GpuSnapshot,
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
    XidErrors,
)

NOW = 1_700_000_000.0
GIB = 1024**3
NAMES = (
    "NVIDIA A100-SXM4-80GB",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA GeForce RTX 3090",
    "Tesla V100",
)


def check_golden(file: Path, text: str) -> None:
    """Compare with a golden file, byte by byte; UPDATE_GOLDEN=1 writes it anew."""
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def durations(*seconds: float, name: str = "reads_00.fa", now: float = NOW) -> DurationHistogram:
    """The histogram of these durations, the latest of each bucket as its exemplar."""
    counts = [0] * (len(DURATION_BUCKETS) + 1)
    exemplars: list[tuple[str, float, float] | None] = [None] * len(counts)
    for value in seconds:
        bucket = sum(value > bound for bound in DURATION_BUCKETS)
        counts[bucket] += 1
        exemplars[bucket] = (name, value, now)
    return DurationHistogram(tuple(counts), sum(seconds), tuple(exemplars))


def worker(index: int, now: float = NOW) -> WorkerSnapshot:
    """A busy worker in the middle of its third file."""
    return WorkerSnapshot(
        gpu=str(index),
        name=NAMES[index % len(NAMES)],
        weight=1.0 + 0.1 * index,
        state=WorkerState.BUSY,
        is_alive=True,
        queue_depth=4 - index % 2,
        queue_residues=4_000_000 - 1_000_000 * (index % 2),
        inflight_files=1,
        current_file=f"/data/reads_{index:02d}.fa",
        current_seconds=12.5,
        current_range=WHOLE,
        files_completed=2,
        sequences_processed=5_000 + index,
        residues_processed=2_500_000 + index,
        throughput=100.0 + index,
        residues_per_second=50_000.0,
        seconds_left=80.0 + 60.0 * (index % 3),
        busy_seconds=58.5,
        starved_seconds=0.25 * index,
        last_progress_time=now - 1.0,
        stall_deadline_time=now + 299.0,
        work_stolen_from=int(index == 1),
        work_stolen_to=int(index == 0),
        residues_stolen_from=1_000_000 * (index == 1),
        steal_attempts=2,
        steals_empty=1,
        steals_declined=int(index == 1),
        durations=durations(8.0, 42.0, name=f"reads_{index:02d}.fa", now=now),
    )


def device(index: int, now: float = NOW) -> GpuDevice:
    """A GPU at work that can give every value."""
    return GpuDevice(
        gpu=str(index),
        uuid=f"GPU-00000000-0000-0000-0000-{index:012d}",
        name=NAMES[index % len(NAMES)],
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        driver_version="550.54.15",
        up=True,
        sample=GpuSample(
            timestamp=now - 0.5,
            utilization_ratio=0.97,
            memory_used_bytes=20 * GIB + index,
            memory_size_bytes=80 * GIB,
            temperature_celsius=61.0 + index,
            power_watts=287.5,
            power_limit_watts=400.0,
            energy_joules=123_456.75 + index,
            sm_clock_hertz=1.41e9,
            throttle_reasons=frozenset(),
            foreign_processes=0,
            memory_copy_ratio=0.41,
            memory_clock_hertz=1.215e9,
            sm_clock_max_hertz=1.41e9,
            memory_clock_max_hertz=1.215e9,
            memory_temperature_celsius=72.0,
            fan_ratio=0.45,
            performance_state=0,
            throttled_seconds={"power": 12.5, "thermal": 0.0},
            ecc_errors={"corrected": 3, "uncorrected": 0},
            ecc_lifetime_errors={"corrected": 12, "uncorrected": 1},
            remapped_rows={"corrected": 0, "uncorrected": 1},
            row_remap_pending=False,
            row_remap_failed=False,
            retired_pages={"single_bit": 0, "double_bit": 0},
            retired_pages_pending=False,
            recovery_action="none",
            pcie_bytes_per_second={"receive": 1.5e9, "transmit": 2.5e8},
            pcie_replays=2,
            nvlink_bytes={"receive": 5 * GIB, "transmit": 6 * GIB},
            nvlink_errors={"crc": 0, "replay": 1, "recovery": 0},
            processes=(GpuProcess(4242, "python", "ada", 18 * GIB),),
        ),
        modes=GpuModes("12.4", persistence="on", ecc="on"),
        xids=(XidErrors(31, 2, now - 40.0),),
    )


def running(gpus: int = 2, now: float = NOW) -> RunSnapshot:
    """A run in full swing."""
    workers = tuple(worker(i, now) for i in range(gpus))
    pair = ("1" if gpus <= PAIRED_WORKERS else "", "0")
    return RunSnapshot(
        timestamp=now,
        run_id="20231114-221320-4f2a",
        processor="command",
        state=RunState.RUNNING,
        start_timestamp=now - 60.0,
        elapsed_seconds=60.0,
        files_queued=sum(w.queue_depth for w in workers),
        files_processing=gpus,
        files_completed=2 * gpus,
        residues_total=10_000_000 * gpus,
        residues_done=2_500_000 * gpus,
        progress=0.25,
        eta_seconds=180.0,
        workers=workers,
        steals=((pair, 1),) if gpus > 1 else (),
        stolen_residues=((pair, 1_000_000),) if gpus > 1 else (),
        recent_steals=(StealEvent(now - 20.0, "1", "0", "reads_01.fa"),) if gpus > 1 else (),
    )


def idle(gpus: int = 2, now: float = NOW) -> RunSnapshot:
    """A run whose workers have just been started and hold nothing."""
    workers = tuple(
        WorkerSnapshot(str(i), NAMES[i % len(NAMES)], state=WorkerState.IDLE, is_alive=True)
        for i in range(gpus)
    )
    return RunSnapshot(
        timestamp=now,
        run_id="20231114-221320-4f2a",
        processor="command",
        start_timestamp=now,
        workers=workers,
    )


def shared(gpus: int = 4, now: float = NOW) -> RunSnapshot:
    """One file that all workers share; the first is stalled, and the last has reported nothing."""
    run = running(gpus, now)
    edges = [n / gpus for n in range(gpus + 1)]
    workers = [
        replace(
            w,
            queue_depth=0,
            queue_residues=0,
            files_completed=0,
            parts_completed=n % 3,
            current_file="/data/metagenome.fasta.gz",
            current_range=(edges[n], edges[n + 1]),
            current_ratio=0.125 + 0.75 * n / gpus,
        )
        for n, w in enumerate(run.workers)
    ]
    workers[0] = replace(
        workers[0], is_stalled=True, last_progress_time=now - 400.0, throughput=0.0
    )
    workers[-1] = replace(workers[-1], current_ratio=None, throughput=None)
    return replace(
        run,
        workers=tuple(workers),
        files_queued=0,
        files_processing=1,
        files_completed=0,
        parts_queued=1,
        parts_processing=gpus,
        parts_completed=sum(w.parts_completed for w in workers),
        steals=(),
        stolen_residues=(),
        recent_steals=(),
    )


def joining(gpus: int = 4, now: float = NOW) -> RunSnapshot:
    """The same, later: the second worker joins what all have done, and the others have nothing."""
    run = shared(gpus, now)
    workers = [
        replace(
            w,
            state=WorkerState.IDLE,
            is_stalled=False,
            inflight_files=0,
            current_file=None,
            current_seconds=None,
            current_range=None,
            current_ratio=None,
        )
        for w in run.workers
    ]
    workers[1] = replace(
        run.workers[1],
        current_seconds=1.5,
        current_range=WHOLE,
        current_ratio=None,
        is_joining=True,
    )
    return replace(
        run,
        workers=tuple(workers),
        parts_queued=0,
        parts_processing=0,
        parts_completed=run.parts_total,
        progress=0.995,
        eta_seconds=1.0,
    )


def stalled(gpus: int = 2, now: float = NOW) -> RunSnapshot:
    """A run whose first worker has been silent for 400 s, with files still in its queue."""
    run = running(gpus, now)
    silent = replace(
        run.workers[0],
        is_stalled=True,
        current_seconds=400.0,
        last_progress_time=now - 400.0,
        stall_deadline_time=now - 100.0,
        seconds_left=None,
        stalls=1,
        stalled_seconds=100.0,
        throughput=0.0,
    )
    return replace(run, workers=(silent, *run.workers[1:]), work_imbalanced=True)


def lost_worker(gpus: int = 2, now: float = NOW) -> RunSnapshot:
    """A run whose last worker died with its GPU; the others took its files."""
    run = running(gpus, now)
    dead = replace(
        run.workers[-1],
        state=WorkerState.LOST,
        is_alive=False,
        queue_depth=0,
        queue_residues=0,
        inflight_files=0,
        current_file=None,
        current_seconds=None,
        current_range=None,
        stall_deadline_time=None,
        throughput=None,
        file_failures=1,
        restarts=1,
    )
    return replace(run, workers=(*run.workers[:-1], dead))


def finished(gpus: int = 2, now: float = NOW) -> RunSnapshot:
    """A run that has ended well but for one file that was given up."""
    run = running(gpus, now)
    workers = tuple(
        replace(
            w,
            state=WorkerState.IDLE,
            queue_depth=0,
            queue_residues=0,
            inflight_files=0,
            current_file=None,
            current_seconds=None,
            current_range=None,
            files_completed=7,
        )
        for w in run.workers
    )
    return replace(
        run,
        state=RunState.COMPLETED,
        workers=workers,
        files_queued=0,
        files_processing=0,
        files_completed=7 * gpus,
        files_failed=1,
        residues_done=run.residues_total or 0,
        progress=1.0,
        eta_seconds=0.0,
        failures=(("/data/broken.fa", "record 3 has no sequence"),),
    )


def gpus_up(gpus: int = 2, now: float = NOW) -> GpuSnapshot:
    """Every GPU answers."""
    return GpuSnapshot(
        timestamp=now - 0.5,
        backend="nvitop",
        devices=tuple(device(i, now) for i in range(gpus)),
        health=CollectorHealth(
            success=True, duration_seconds=0.004, last_success_timestamp=now - 0.5
        ),
    )


def gpu_lost(gpus: int = 2, now: float = NOW) -> GpuSnapshot:
    """The last GPU has fallen off the bus; the others answer."""
    up = gpus_up(gpus, now)
    gone = replace(
        up.devices[-1],
        up=False,
        sample=None,
        reasons=(("", "GPU is lost"),),
        errors=(("GPU_IS_LOST", 3),),
    )
    return replace(up, devices=(*up.devices[:-1], gone))


def no_gpus(now: float = NOW) -> GpuSnapshot:
    """A machine without a GPU or a driver."""
    return GpuSnapshot(
        timestamp=now - 0.5,
        health=CollectorHealth(success=False, failures=3, reason="NVML Shared Library Not Found"),
    )


def of_nodes(
    run: RunSnapshot, gpus: GpuSnapshot, nodes: tuple[str, ...] = ("gpu07", "gpu08")
) -> tuple[RunSnapshot, GpuSnapshot]:
    """The same, with the GPUs dealt out to many machines."""
    places = {w.gpu: (nodes[n % len(nodes)], n // len(nodes)) for n, w in enumerate(run.workers)}
    ids = {gpu: f"{node}/{index}" for gpu, (node, index) in places.items()}
    ids[""] = ""  # a victim that is not told
    run = replace(
        run,
        workers=tuple(replace(w, gpu=ids[w.gpu]) for w in run.workers),
        steals=tuple(((ids[v], ids[t]), n) for (v, t), n in run.steals),
        stolen_residues=tuple(((ids[v], ids[t]), n) for (v, t), n in run.stolen_residues),
        recent_steals=tuple(
            replace(s, source_gpu=ids[s.source_gpu], dest_gpu=ids[s.dest_gpu])
            for s in run.recent_steals
        ),
    )
    devices = tuple(
        replace(
            d,
            gpu=ids[d.gpu],
            node=places[d.gpu][0],
            sample=replace(d.sample, foreign_processes=None) if d.sample else None,
        )
        for d in gpus.devices
    )
    return run, replace(gpus, devices=devices)
