"""Thread-safe interface to the scheduler, for pipelines with their own threads and for `run`."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.execution.log_lines import ROUTINE, PlanLines, log_line
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.commands import StartAttempt
from virnucpro_exporter.scheduling.facts import Fact, PlanChanged
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing, StealPolicy
from virnucpro_exporter.scheduling.scheduler import Decisions, Scheduler
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, is_load_imbalanced, take_snapshot
from virnucpro_exporter.scheduling.speed import DoneBefore
from virnucpro_exporter.scheduling.stalls import is_judged
from virnucpro_exporter.snapshot import Latest, RunEnd, RunResult, RunSnapshot, StealEvent
from virnucpro_exporter.text import counted

log = logging.getLogger(__name__)

POLICIES: dict[str, Callable[[], StealPolicy]] = {
    EarliestFinish.name: EarliestFinish,
    NoStealing.name: NoStealing,
}

# A published snapshot that is older than this, in seconds, is replaced when it is read.
_FRESH_SECONDS = 0.2

# A thread that waits for a file checks again at this interval, in seconds: stalls cause no event.
_LOOK_SECONDS = 1.0

# A wall clock that moves by more than this against the monotonic clock, in seconds, has been set.
_STEP_SECONDS = 0.5


class GpuMetrics(TypedDict):
    """One GPU's row of `WorkStealingCoordinator.get_gpu_metrics`."""

    device_id: str
    device_name: str
    queue_depth: int
    files_completed: int
    work_stolen_from: int
    work_stolen_to: int
    throughput: float | None
    last_activity_time: float | None
    is_stalled: bool
    timestamp: float


class WorkStealingCoordinator:
    """Decides which worker processes which file; thread-safe.

    A pipeline with its own threads calls `submit`, and then iterates over `worker` in the thread of
    each worker, which records starts, completions and failures. To control each step, call
    `next_file`, `record_file_start`, `record_progress` and `record_file_completion` or
    `record_file_failure` instead. All values that can be read come from an immutable snapshot.

    Args:
        gpus: The ids of the GPUs, or their ids with their declared speeds.
        stall_threshold: Seconds without progress after which a worker counts as stalled.
        names: Model names of the GPUs, where known.
        balancer: `"stealing"`, or `"static"` for the initial assignment alone.
        policy: Steal policy, in place of that of the balancer.
        settings: All limits and choices, including the stall threshold.
        processor: Name of the processor.
        name: Name of the run, for display.
        first_attempt: Number of the first attempt.
        skipped: Files that an earlier run had finished.
        done_before: Files of earlier runs with the same processor, to learn speeds from.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
    """

    def __init__(  # noqa: PLR0913 - settings of a run, each with its default
        self,
        gpus: Sequence[str] | Mapping[str, float],
        *,
        stall_threshold: float = 300,
        names: Mapping[str, str] | None = None,
        balancer: str = EarliestFinish.name,
        policy: StealPolicy | None = None,
        settings: SchedulerSettings | None = None,
        processor: str = "",
        name: str = "",
        first_attempt: int = 1,
        skipped: Sequence[SequenceFile] = (),
        done_before: Sequence[DoneBefore] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if balancer not in POLICIES:
            raise ValueError(f"balancer must be one of {', '.join(POLICIES)}, not {balancer!r}")
        weights = dict(gpus) if isinstance(gpus, Mapping) else dict.fromkeys(gpus, 1.0)
        self._read_clock = clock
        self._paused = 0.0  # seconds that do not count
        self._wall_clock = wall_clock
        self._beat_at: float | None = None  # when the run loop last turned
        self._plans = PlanLines()
        started = self._clock()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._waiting = 0  # threads in `worker` that wait for a change
        self._scheduler = Scheduler(
            weights,
            names=names,
            settings=settings
            or SchedulerSettings(stall_threshold=stall_threshold, second_attempts=False),
            policy=policy or POLICIES[balancer](),
            first_attempt=first_attempt,
            now=started,
        )
        self._scheduler.state.skip(skipped)
        self._scheduler.state.recall(done_before)
        self._context = RunContext(
            run_id=uuid.uuid4().hex[:12],
            name=name,
            processor=processor,
            wall_offset=wall_clock() - started,
            started_at=started,
        )
        self._latest = Latest(self._take(started))
        self._taken_at = started

    def __repr__(self) -> str:
        run = self.latest()
        workers = counted(len(run.workers), "worker")
        return (
            f"<WorkStealingCoordinator of {workers}, {run.state.value}: "
            f"{counted(run.files_queued, 'file')} queued, {run.files_processing} in process, "
            f"{run.files_completed} completed, {run.files_failed} failed>"
        )

    @property
    def run_id(self) -> str:
        """A practically unique id of the run."""
        return self._context.run_id

    # -- for the run loop --

    def handle(self, events: Iterable[ev.Event]) -> Decisions:
        """Process events, and deadlines that have passed.

        Returns:
            Commands and facts, each in order.
        """
        with self._lock:
            decisions = self._scheduler.turn(events, self._clock())
        if self._waiting:
            with self._changed:
                self._changed.notify_all()
        self._tell(decisions.facts)
        return decisions

    def expect(self, files: int) -> None:
        """Announce files that will be submitted, so that views count them from the beginning."""
        self.handle([ev.FilesSubmitted((), awaited=files)])
        self.snapshot()  # the one published before counts none of them

    def beat(self) -> None:
        """Record a turn of the run loop. After the first one, snapshots show if the loop hangs."""
        self._beat_at = self._clock()

    def conclude(
        self, result: RunResult, exit_status: int | None = None, reason: str = ""
    ) -> RunSnapshot:
        """Record the end of the run; later snapshots contain it.

        Args:
            result: How it ended.
            exit_status: Exit status of the program, where there is one.
            reason: Why it ended before its files did, in one line.
        """
        with self._lock:
            end = RunEnd(self._wall_clock(), result, exit_status, reason)
            self._context = replace(self._context, end=end)
            return self._publish()

    def seconds_to_deadline(self) -> float | None:
        """Seconds until the next deadline, at which `handle` must be called; None without one."""
        with self._lock:
            deadline = self._scheduler.next_deadline()
        return None if deadline is None else max(0.0, deadline - self._clock())

    def now(self) -> float:
        """The time on the clock of the facts, in seconds."""
        return self._clock()

    def count_workers(self) -> int:
        """Number of all workers so far, including those that left; takes no snapshot."""
        with self._lock:
            return len(self._scheduler.state.fleet)

    def wanted_workers(self) -> int:
        """Number of additional workers that would get a file at once."""
        with self._lock:
            return self._scheduler.state.wanted_workers

    def excuse(self, seconds: float) -> None:
        """Exclude a pause of the program from all deadlines and speeds."""
        with self._lock:
            self._paused += seconds
            self._taken_at = min(self._taken_at, self._clock())

    def _clock(self) -> float:
        return self._read_clock() - self._paused

    def file_of(self, gpu_id: str, attempt: int) -> SequenceFile | None:
        """The file of a current attempt; None if the attempt is over."""
        with self._lock:
            return self._scheduler.file_of(WorkerId(gpu_id), AttemptNumber(attempt))

    def story(self, path: str) -> str:
        """What happened to a file so far, in one line."""
        with self._lock:
            return self._scheduler.story(SequenceFile(path))

    def _tell(self, facts: Iterable[Fact]) -> None:
        tells_all = log.isEnabledFor(logging.DEBUG)
        for fact in facts:
            if not tells_all and isinstance(fact, ROUTINE):  # the line would be dropped
                continue
            told = self._plans.join(fact, self._clock()) if isinstance(fact, PlanChanged) else fact
            if told is not None:
                level, text, values = log_line(told)
                log.log(level, text, *values)

    # -- for pipelines with threads of their own --

    def submit(self, files: Iterable[SequenceFile]) -> None:
        """Add files; files that were submitted before are ignored."""
        self.handle([ev.FilesSubmitted(tuple(files))])

    def next_file(self, gpu_id: str) -> SequenceFile | None:
        """The next file for a GPU, from its own queue or stolen; None if there is none now."""
        for command in self.handle([ev.WorkRequested(WorkerId(gpu_id))]).commands:
            if isinstance(command, StartAttempt) and command.worker_id == gpu_id:
                return command.file
        return None

    def worker(self, gpu_id: str) -> Iterator[SequenceFile]:
        """Iterate over the files for a GPU until all submitted files have ended.

        Use a separate thread for each GPU. The iterator blocks while other GPUs have files in
        process, because these may fail and be retried. Requesting the next file completes the
        previous one, unless its end was recorded. Leaving the loop by an exception or `break`
        fails the current file; it is retried on another GPU, up to the limit of attempts.

        Args:
            gpu_id: The GPU's id.
        """
        worker_id = WorkerId(gpu_id)
        while (file := self._next_or_end(gpu_id)) is not None:
            self.record_file_start(gpu_id, file.path)
            started = self._clock()
            is_done = False
            try:
                yield file
                is_done = True
            finally:
                number = self._number(worker_id, file.path)
                if number is None:
                    pass  # the loop has recorded the end
                elif is_done:
                    seconds = self._clock() - started
                    done = ev.AttemptCompleted(worker_id, number, file.sequences, None, seconds)
                    self.handle([done])
                else:
                    why = f"the loop of {gpu_id} was left before the file was done"
                    self.handle([ev.AttemptFailed(worker_id, number, why)])

    def _next_or_end(self, gpu_id: str) -> SequenceFile | None:
        """The next file for a GPU, as soon as there is one; None once all have ended."""
        with self._changed:
            self._waiting += 1
            try:
                while (file := self.next_file(gpu_id)) is None:
                    run = self.snapshot()
                    if not run.files_queued + run.files_processing:
                        return None
                    self._changed.wait(_LOOK_SECONDS)
            finally:
                self._waiting -= 1
            return file

    def _number(self, worker_id: WorkerId, path: str) -> AttemptNumber | None:
        """The number of the attempt at a file that a GPU holds; None when it has ended."""
        with self._lock:
            state = self._scheduler.state
            attempts = state.worker(worker_id).inflight.values()
            held = (a.number for a in attempts if a.record.file.path == path)
            return next(held, state.abandoned.get((worker_id, path)))

    def _attempt(self, worker_id: WorkerId, path: str) -> AttemptNumber:
        """The number of the attempt at a file that was given to a GPU, wanted or not."""
        number = self._number(worker_id, path)
        if number is None:
            raise SchedulingError(f"{path} is not in process on {worker_id}")
        return number

    def record_file_start(self, gpu_id: str, path: str) -> None:
        """Record that the GPU begins to process the file from `next_file`."""
        worker_id = WorkerId(gpu_id)
        self.handle([ev.AttemptStarted(worker_id, self._attempt(worker_id, path))])

    def record_progress(self, gpu_id: str, sequences: int) -> None:
        """Record the number of processed sequences of the GPU's current file."""
        worker_id = WorkerId(gpu_id)
        with self._lock:
            number = next(iter(self._scheduler.state.worker(worker_id).inflight), None)
        if number is None:
            raise SchedulingError(f"{gpu_id} has no file in process")
        self.handle([ev.Progress(worker_id, number, sequences)])

    def record_file_completion(
        self, gpu_id: str, file_path: str, sequences: int, duration: float
    ) -> None:
        """Record the completion of a file with `sequences` records after `duration` seconds."""
        worker_id = WorkerId(gpu_id)
        number = self._attempt(worker_id, file_path)
        self.handle([ev.AttemptCompleted(worker_id, number, sequences, None, duration)])

    def record_file_failure(self, gpu_id: str, file_path: str, error: str) -> None:
        """Record a failed attempt; the file is retried, up to the limit of attempts."""
        worker_id = WorkerId(gpu_id)
        number = self._attempt(worker_id, file_path)
        self.handle([ev.AttemptFailed(worker_id, number, error)])

    # -- for views --

    def _take(self, now: float) -> RunSnapshot:
        offset = self._wall_clock() - now
        # Small differences are ignored; otherwise every time in the past would flicker.
        if abs(offset - self._context.wall_offset) > _STEP_SECONDS:
            self._context = replace(self._context, wall_offset=offset)
        return take_snapshot(self._scheduler, self._context, now, self._beat_at)

    def snapshot(self) -> RunSnapshot:
        """A new snapshot of the run."""
        with self._lock:
            return self._publish()

    def latest(self) -> RunSnapshot:
        """The latest snapshot; never waits for a decision in progress."""
        is_old = self._clock() - self._taken_at > _FRESH_SECONDS
        if is_old and self._lock.acquire(blocking=False):
            try:
                return self._publish()
            finally:
                self._lock.release()
        return self._latest.latest()

    def _publish(self) -> RunSnapshot:
        self._taken_at = self._clock()
        snapshot = self._take(self._taken_at)
        self._latest.publish(snapshot)
        return snapshot

    def get_gpu_metrics(self) -> dict[str, GpuMetrics]:
        """The state of each GPU, by id; throughput in sequences per second, times in Unix time."""
        snapshot = self.snapshot()
        return {
            worker.gpu: GpuMetrics(
                device_id=worker.gpu,
                device_name=worker.name,
                queue_depth=worker.queue_depth,
                files_completed=worker.files_completed,
                work_stolen_from=worker.work_stolen_from,
                work_stolen_to=worker.work_stolen_to,
                throughput=worker.throughput,
                last_activity_time=worker.last_progress_time,
                is_stalled=worker.is_stalled,
                timestamp=snapshot.timestamp,
            )
            for worker in snapshot.workers
        }

    def get_recent_steal_events(self) -> list[StealEvent]:
        """The last 50 steals at most, oldest first."""
        return list(self.snapshot().recent_steals)

    def detect_stalled_workers(self, stall_threshold: float = 300) -> list[str]:
        """The ids of the GPUs with work but without progress for `stall_threshold` seconds."""
        self._tell_stalls()
        with self._lock:
            now, state = self._clock(), self._scheduler.state
            return [
                w.id
                for w in state.fleet
                if is_judged(w, is_push=state.is_push, is_draining=state.is_draining)
                and now >= w.touched_at + stall_threshold
            ]

    def _tell_stalls(self) -> None:
        """Detect stalls now, where no run loop watches the deadlines."""
        if not self._scheduler.state.is_push:
            self.handle([])

    def detect_load_imbalance(self) -> bool:
        """Whether the queue depths, in files, are imbalanced now."""
        with self._lock:
            return is_load_imbalanced(self._scheduler.state)
