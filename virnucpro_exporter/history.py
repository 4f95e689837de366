"""Immutable values: earlier runs, from the journal and the log.

All times are Unix seconds on the wall clock. What is not known is None, never 0.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from virnucpro_exporter.snapshot import StealEvent


class Outcome(enum.Enum):
    """How an attempt at a file ended."""

    COMPLETED = "completed"
    RUNNING = "running"  # it has not ended
    FAILED = "failed"
    TIMED_OUT = "timed out"  # it took longer than the limit for a file
    WORKER_LOST = "worker lost"  # with its worker's process
    SUPERSEDED = "superseded"  # another attempt was first
    CANCELLED = "cancelled"  # superseded, moved or timed out: an older version did not say which
    MOVED = "moved"  # taken back, because another worker did the file sooner
    INTERRUPTED = "interrupted"  # the run itself was killed


@dataclass(frozen=True, slots=True)
class AttemptSpan:
    """One attempt at one file, on one worker.

    Attributes:
        gpu: The worker.
        path: The file.
        started: When it began.
        ended: When it ended; the last known moment where it did not end by itself.
        outcome: How it ended.
        sequences: Sequences in the file, of a completed attempt that knows.
        residues: Residues in it, likewise.
        is_part: It did a part of the file.
        is_join: It put the results of the parts of the file together; those count its sequences.
        error: Why it brought no result.
        is_charged: It counted against the limit of failures of its file; None where an older
            version noted it.
    """

    gpu: str
    path: str
    started: float
    ended: float
    outcome: Outcome
    sequences: int | None = None
    error: str = ""
    is_charged: bool | None = None
    residues: int | None = None
    is_part: bool = False
    is_join: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started

    @property
    def is_failure(self) -> bool:
        """Whether it counts as a failure of its file."""
        if self.is_charged is None:
            return self.outcome in (Outcome.FAILED, Outcome.WORKER_LOST)
        return self.is_charged


@dataclass(frozen=True, slots=True)
class RunPeriod:
    """From the start of a run to its end, or to the last that is known of it."""

    run_id: str
    state: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class StallSpan:
    """From the moment a worker counted as stalled to its next progress."""

    gpu: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class WorkerTotals:
    """What one run knows of a worker beside its attempts.

    Attributes:
        run_id: The run.
        gpu: The worker.
        name: The device's model name.
        starved_seconds: Time idle while files waited in another queue.
        restarts: How often its process was replaced.
    """

    run_id: str
    gpu: str
    name: str
    starved_seconds: float
    restarts: int


@dataclass(frozen=True, slots=True)
class RunHistory:
    """All runs that used an output folder and whose files are remembered.

    Attributes:
        folder: The output folder.
        is_active: A run is going on now.
        runs: Oldest first.
        attempts: In no order.
        steals: In the order in which they happened.
        stalls: Likewise.
        workers: One for each worker and run; none for runs of versions that did not note it.
        counts: How many files stand in each state; a state without files is absent.
        failed: (path, error) of the files given up.
        settings: What the last run was started with.
    """

    folder: str
    is_active: bool = False
    runs: tuple[RunPeriod, ...] = ()
    attempts: tuple[AttemptSpan, ...] = ()
    steals: tuple[StealEvent, ...] = ()
    stalls: tuple[StallSpan, ...] = ()
    workers: tuple[WorkerTotals, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


def _numbers() -> array[float]:
    return array("d")


@dataclass(frozen=True, slots=True)
class GpuSeries:
    """What the metrics log tells of one GPU: columns of one length, NaN where a cell is empty.

    Attributes:
        times: Rising.
        throughput: Sequences per second.
        compute: Compute utilisation, 0 to 100.
        memory: Memory in use, 0 to 100.
        residues: Residues per second.
        power: Watts.
    """

    times: array[float] = field(default_factory=_numbers)
    throughput: array[float] = field(default_factory=_numbers)
    compute: array[float] = field(default_factory=_numbers)
    memory: array[float] = field(default_factory=_numbers)
    residues: array[float] = field(default_factory=_numbers)
    power: array[float] = field(default_factory=_numbers)

    @property
    def columns(self) -> tuple[array[float], ...]:
        """All of them, as the log has them."""
        return (
            self.times,
            self.throughput,
            self.compute,
            self.memory,
            self.residues,
            self.power,
        )


@dataclass(frozen=True, slots=True)
class LogHistory:
    """A metrics log, with the ones that were rotated away.

    Attributes:
        path: The newest file.
        gpus: By GPU, in the order of their first row.
        damaged: Lines that are no rows.
    """

    path: str
    gpus: Mapping[str, GpuSeries] = field(default_factory=dict)
    damaged: int = 0
