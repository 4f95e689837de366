"""What is known about a run and its workers at one moment."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

# Upper bounds of the histogram of file durations, in seconds, up to a week; +Inf is implied.
DURATION_BUCKETS = (
    *(1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
    *(7200.0, 14400.0, 43200.0, 86400.0, 259200.0, 604800.0),
)

# Steals are counted by pair of victim and thief for so many workers at most. Beyond that nearly
# every steal would be a pair of its own, so they are counted by thief, and the victim is "".
PAIRED_WORKERS = 16

# The range of a file that is done as a whole.
WHOLE = (0.0, 1.0)


class RunState(enum.Enum):
    """Where a run stands."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    COMPLETED = "completed"
    FAILED = "failed"


class RunResult(enum.Enum):
    """How a run ended; one that vanished was killed, or its machine failed, without a report."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run.

    Attributes:
        timestamp: Unix seconds; of a run that vanished, when it was last known to go on.
        result: How it ended.
        exit_status: What the program returned, or None where that is not known.
        reason: Why it ended before its files had, in one line; else empty.
    """

    timestamp: float
    result: RunResult
    exit_status: int | None = None
    reason: str = ""


class WorkerState(enum.Enum):
    """What a worker does at the moment; whether it is stalled is separate, in `is_stalled`.

    A worker that is starting has no process; one that is loading has one, which sets the processor
    up: it loads the model. One that has left was taken from the run in order: it is not lost.
    """

    STARTING = "starting"
    LOADING = "loading"
    BUSY = "busy"
    IDLE = "idle"
    STARVED = "starved"
    LOST = "lost"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class StealEvent:
    """One file that moved from the queue of a victim to a thief.

    Attributes:
        timestamp: Unix seconds.
        source_gpu: The victim, whose queue the file left.
        dest_gpu: The thief, which took it.
        file_name: The file's name, without its folder.
    """

    timestamp: float
    source_gpu: str
    dest_gpu: str
    file_name: str


@dataclass(frozen=True, slots=True)
class DurationHistogram:
    """File durations of one worker.

    Attributes:
        counts: Files per bucket, not cumulative; one more than `DURATION_BUCKETS`, for +Inf.
        total_seconds: The sum of all durations.
        exemplars: Per bucket the latest (file name, seconds, Unix timestamp), or None.
    """

    counts: tuple[int, ...] = (0,) * (len(DURATION_BUCKETS) + 1)
    total_seconds: float = 0.0
    exemplars: tuple[tuple[str, float, float] | None, ...] = (None,) * (len(DURATION_BUCKETS) + 1)


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker and its queue.

    Attributes:
        gpu: The id of the GPU or CPU slot (`"0"`, `"0:1"`, `"cpu0"`).
        name: The device's model name, empty when it is not known.
        weight: Declared speed relative to an RTX 3090.
        state: What it does now.
        is_alive: Whether its process runs, if only to load; None for a worker that has left.
        is_stalled: Holds or awaits files, and has made no progress up to its deadline.
        stall_deadline_time: Unix seconds at which more silence is a stall: the stall threshold
            after the last progress, and later where the worker never reports progress and its
            present file is expected to take longer, or where it shows signs of life. While it
            loads, when that has taken too long. None where nothing is expected of it.
        queue_depth: Files, parts of files and joins waiting, without the ones in process.
        queue_residues: Residues of those.
        inflight_files: Files, parts and joins handed to the worker and not yet ended.
        current_file: Path of the file in process, or None.
        current_seconds: How long the current file has been in process, or None.
        current_range: Where in its file that begins and ends which is in process, as shares of the
            file's residues: (0, 1) for a whole file or a join, else a part. None without one.
        current_ratio: Share of that range that is done, 0 to 1, by its estimated residues; None
            before the worker reports progress in it.
        is_joining: It puts the results of the parts of the current file together.
        is_ending: It was instructed to end its range at the next sequence, because the run drains.
        files_completed: Files whose result this worker delivered; of those that were done in parts,
            the ones that it joined.
        parts_completed: Parts of files that this worker did.
        file_failures: Attempts on this worker that ended in an error.
        sequences_completed: Sequences of the files whose result this worker delivered.
        sequences_processed: Sequences, growing within a file as progress is reported.
        residues_processed: Residues, likewise.
        throughput: Sequences per second over the last 60 s where there was progress in them, else
            over the last 10 files; 0 while it is stalled, None until anything was processed.
        residue_throughput: Residues per second, likewise.
        residues_per_second: The learned speed, or None before the first observation.
        seconds_left: Expected seconds until it has done what it holds and what is queued for it, if
            no file moves; None before anything was learned of it, while it stalls or is not up.
        attempts_moved: Attempts of this worker that were taken back, because another worker does
            the file sooner.
        busy_seconds: Time with a file in process.
        starved_seconds: Time idle while files waited in another queue.
        last_progress_time: Unix seconds of the last file start, progress report or file end; None
            before the first.
        stalls: How often a stall began.
        stalled_seconds: Time spent stalled.
        lost_seconds: Time given up: its node or GPU was gone, or its process of no use.
        restarts: How often its process was replaced.
        memory_shortages: Batches that did not fit into the memory of its device.
        work_stolen_from: Files that others stole from its queue.
        work_stolen_to: Files it stole from others.
        residues_stolen_from: Residues of the files that others stole from its queue.
        steal_attempts: Times it requested work with an empty queue.
        steals_empty: Those that found no file waiting anywhere.
        steals_declined: Those that left the waiting files to workers that would finish them sooner.
        second_attempts_won: Second attempts of this worker that delivered the result.
        second_attempts_lost: Second attempts of this worker that came too late or failed.
        durations: Histogram of the durations of completed files.
    """

    gpu: str
    name: str = ""
    weight: float = 1.0
    state: WorkerState = WorkerState.STARTING
    is_alive: bool | None = False
    is_stalled: bool = False
    stall_deadline_time: float | None = None
    queue_depth: int = 0
    queue_residues: int = 0
    inflight_files: int = 0
    current_file: str | None = None
    current_seconds: float | None = None
    current_range: tuple[float, float] | None = None
    current_ratio: float | None = None
    is_joining: bool = False
    is_ending: bool = False
    files_completed: int = 0
    parts_completed: int = 0
    file_failures: int = 0
    sequences_completed: int = 0
    sequences_processed: int = 0
    residues_processed: int = 0
    throughput: float | None = None
    residue_throughput: float | None = None
    residues_per_second: float | None = None
    seconds_left: float | None = None
    attempts_moved: int = 0
    busy_seconds: float = 0.0
    starved_seconds: float = 0.0
    last_progress_time: float | None = None
    stalls: int = 0
    stalled_seconds: float = 0.0
    lost_seconds: float = 0.0
    restarts: int = 0
    memory_shortages: int = 0
    work_stolen_from: int = 0
    work_stolen_to: int = 0
    residues_stolen_from: int = 0
    steal_attempts: int = 0
    steals_empty: int = 0
    steals_declined: int = 0
    second_attempts_won: int = 0
    second_attempts_lost: int = 0
    durations: DurationHistogram = field(default_factory=DurationHistogram)

    @property
    def current_part(self) -> tuple[float, float] | None:
        """The range in process where that is not all of its file, else None."""
        return None if self.current_range == WHOLE else self.current_range


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """The whole run at one moment.

    Attributes:
        timestamp: Unix seconds at which this snapshot was taken.
        heartbeat_age: Seconds since the run loop last turned; None where there is no such loop.
        run_id: A name for the run that is unique in practice.
        name: What users call it; empty where it has no name.
        user: Who runs it, where that is known; else empty.
        processor: What is done to a file, by name.
        balancer: `"stealing"` or `"static"`.
        state: Where the run stands.
        start_timestamp: Unix seconds at which the run started.
        elapsed_seconds: Since the start, to now or to the end of the run.
        stall_threshold: Seconds without progress after which a worker counts as stalled.
        files_queued: Input files that wait, those that are still being looked at included.
        files_processing: Input files that a worker holds, or of which parts were begun.
        files_completed: Input files with a result, those of earlier runs (resume) included.
        files_failed: Input files given up.
        files_skipped: Those of `files_completed` that an earlier run had finished.
        parts_queued: Parts of files that wait; joins of parts are none.
        parts_processing: Those that a worker holds.
        parts_completed: Parts that are done, of all files.
        residues_total: Residues of all input files, counted or estimated; None while files are
            still being looked at.
        residues_done: Residues of the files that have ended, and of the progress in the others.
        progress: Share of the work that is done, 0 to 1, in the seconds that it is expected to
            take; while files are still being looked at, of the files; None while there is none.
        eta_seconds: Estimated time left; None before the first progress, while what files cost is
            hardly known, while files are still being looked at, and while no worker gets any
            further.
        load_imbalanced: Queue depths are imbalanced (see `is_imbalanced`).
        work_imbalanced: The workers would end at very different times if no file moved any more.
        workers: One for each GPU, in the order they were given.
        steals: Files stolen per (victim, thief), see `PAIRED_WORKERS`.
        stolen_residues: Residues stolen per (victim, thief), likewise.
        recent_steals: The last 50 at most, newest last.
        resteals: Steals of a file that had been stolen before.
        retries: Attempts that were made because an earlier one failed.
        late_results: Results of attempts that were no longer current, dropped.
        plan_changes: How often files were laid out anew, because speeds were other than believed.
        is_held: No file is started, because the storage takes nothing.
        end: How it ended; None before that.
        failures: (path, error) of each file given up, at most the last 1,000.
    """

    timestamp: float
    heartbeat_age: float | None = None
    run_id: str = ""
    name: str = ""
    user: str = ""
    processor: str = ""
    balancer: str = "stealing"
    state: RunState = RunState.STARTING
    start_timestamp: float = 0.0
    elapsed_seconds: float = 0.0
    stall_threshold: float = 300.0
    files_queued: int = 0
    files_processing: int = 0
    files_completed: int = 0
    files_failed: int = 0
    files_skipped: int = 0
    parts_queued: int = 0
    parts_processing: int = 0
    parts_completed: int = 0
    residues_total: int | None = None
    residues_done: int = 0
    progress: float | None = None
    eta_seconds: float | None = None
    load_imbalanced: bool = False
    work_imbalanced: bool = False
    workers: tuple[WorkerSnapshot, ...] = ()
    steals: tuple[tuple[tuple[str, str], int], ...] = ()
    stolen_residues: tuple[tuple[tuple[str, str], int], ...] = ()
    recent_steals: tuple[StealEvent, ...] = ()
    resteals: int = 0
    retries: int = 0
    late_results: int = 0
    plan_changes: int = 0
    is_held: bool = False
    end: RunEnd | None = None
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def files_total(self) -> int:
        """All input files."""
        return self.files_queued + self.files_processing + self.files_completed + self.files_failed

    @property
    def parts_total(self) -> int:
        """All parts of files that are or were done in parts; 0 where every file is done whole."""
        return self.parts_queued + self.parts_processing + self.parts_completed

    @property
    def share_done(self) -> float:
        """Share of the work that is done, 0 to 1: `progress`, or of the files without it."""
        if self.progress is not None:
            return self.progress
        ended = self.files_completed + self.files_failed
        return ended / self.files_total if self.files_total else 0.0

    @property
    def percent_done(self) -> int:
        """`share_done` in whole percent; 100 only once no file is left."""
        left = self.files_queued + self.files_processing
        return min(int(100 * self.share_done), 99 if left or not self.files_total else 100)

    @property
    def throughput(self) -> float | None:
        """Sequences per second of all workers together, or None before the first progress."""
        known = [w.throughput for w in self.workers if w.throughput is not None]
        return sum(known) if known else None

    @property
    def residue_throughput(self) -> float | None:
        """Residues per second of all workers together, or None before the first progress."""
        known = [w.residue_throughput for w in self.workers if w.residue_throughput is not None]
        return sum(known) if known else None

    @property
    def estimated_completion_timestamp(self) -> float | None:
        """Unix seconds at which the run is expected to end, or None where `eta_seconds` is."""
        return None if self.eta_seconds is None else self.timestamp + self.eta_seconds

    @property
    def state_label(self) -> str:
        """The state in words for people: only failed files are called failed."""
        state: str = self.state.value
        if self.state is not RunState.FAILED:
            return state
        left = self.files_queued + self.files_processing
        if self.end is not None and self.end.result is RunResult.VANISHED:
            return f"killed with {left} left" if left else "killed"
        return f"ended with {left} left" if left else "ended with failures"

    @property
    def stalled(self) -> tuple[str, ...]:
        """The ids of the workers that are stalled."""
        return tuple(w.gpu for w in self.workers if w.is_stalled)


def is_imbalanced(depths: list[int]) -> bool:
    """Whether the queue depths (in files) of live workers are imbalanced."""
    if not depths:
        return False
    longest, shortest = max(depths), min(depths)
    return longest >= 3 and (longest > 2 * shortest or longest - shortest >= 3)
