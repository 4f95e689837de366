"""The thread-safe face of the scheduler: for pipelines with threads of their own, and for `run`."""

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

# A published snapshot is replaced when somebody reads one that is older than this, in seconds.
_FRESH_SECONDS = 0.2

# A thread that waits for a file looks so often by itself, in seconds: stalls need no event.
_LOOK_SECONDS = 1.0

# When the wall clock has moved by so much against the other one, in seconds, somebody has set it.
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
    """Decides which worker does which file; may be called from any thread.

    A pipeline with threads of its own calls `submit`, and then loops in each worker's thread over
    `worker`, which notes starts, completions and failures. One that needs each step by itself calls
    `next_file`, `record_file_start`, `record_progress` and `record_file_completion` or
    `record_file_failure`.
    Everything a caller reads comes from an immutable snapshot.

    Args:
        gpus: The ids of the GPUs, or their ids with their declared speeds.
        stall_threshold: Seconds without progress after which a worker counts as stalled.
        names: Model names of the GPUs, where known.
        balancer: `"stealing"`, or `"static"` for the initial assignment alone.
        policy: Who steals what, instead of the way of that balancer.
        settings: All limits and choices; `stall_threshold` is then taken from here.
        processor: What is done to a file, by name.
        name: What users call the run.
        first_attempt: Number of the first attempt.
        skipped: Files that an earlier run had finished.
        done_before: Some of those that earlier runs did with the same processor, to learn from.
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
        """A name for the run that is unique in practice."""
        return self._context.run_id

    # -- for the run loop --

    def handle(self, events: Iterable[ev.Event]) -> Decisions:
        """Take in what happened, and a deadline if one has passed.

        Returns:
            What is to be done, and what happened, each in this order.
        """
        with self._lock:
            decisions = self._scheduler.turn(events, self._clock())
        if self._waiting:
            with self._changed:
                self._changed.notify_all()
        self._tell(decisions.facts)
        return decisions

    def expect(self, files: int) -> None:
        """So many files will be submitted, so that views count them from the first moment on."""
        self.handle([ev.FilesSubmitted((), awaited=files)])
        self.snapshot()  # what was published before knows of none

    def beat(self) -> None:
        """The run loop turns. From the first time on, its silence shows in the snapshots."""
        self._beat_at = self._clock()

    def conclude(
        self, result: RunResult, exit_status: int | None = None, reason: str = ""
    ) -> RunSnapshot:
        """The run is over; snapshots tell from now on how it ended.

        Args:
            result: How.
            exit_status: What the program will return, where there is one.
            reason: Why it ended before its files had, in one line.
        """
        with self._lock:
            end = RunEnd(self._wall_clock(), result, exit_status, reason)
            self._context = replace(self._context, end=end)
            return self._publish()

    def seconds_to_deadline(self) -> float | None:
        """After how many seconds `handle` wants to be called at the latest; None for never."""
        with self._lock:
            deadline = self._scheduler.next_deadline()
        return None if deadline is None else max(0.0, deadline - self._clock())

    def now(self) -> float:
        """The time on the clock of the facts, in seconds."""
        return self._clock()

    def count_workers(self) -> int:
        """How many workers the run has had, those that have left included; no snapshot is made."""
        with self._lock:
            return len(self._scheduler.state.fleet)

    def wanted_workers(self) -> int:
        """How many more workers would be given a file, beside those that wait or come up."""
        with self._lock:
            return self._scheduler.state.wanted_workers

    def excuse(self, seconds: float) -> None:
        """So long was the program paused: that time counts for no deadline and no speed."""
        with self._lock:
            self._paused += seconds
            self._taken_at = min(self._taken_at, self._clock())

    def _clock(self) -> float:
        return self._read_clock() - self._paused

    def file_of(self, gpu_id: str, attempt: int) -> SequenceFile | None:
        """The file of an attempt whose result is wanted, or None when it is over."""
        with self._lock:
            return self._scheduler.file_of(WorkerId(gpu_id), AttemptNumber(attempt))

    def story(self, path: str) -> str:
        """What happened to a file so far, in one line."""
        with self._lock:
            return self._scheduler.story(SequenceFile(path))

    def _tell(self, facts: Iterable[Fact]) -> None:
        tells_all = log.isEnabledFor(logging.DEBUG)
        for fact in facts:
            if not tells_all and isinstance(fact, ROUTINE):  # no line is made in vain
                continue
            told = self._plans.join(fact, self._clock()) if isinstance(fact, PlanChanged) else fact
            if told is not None:
                level, text, values = log_line(told)
                log.log(level, text, *values)

    # -- for pipelines with threads of their own --

    def submit(self, files: Iterable[SequenceFile]) -> None:
        """Add files; those that were submitted before are ignored."""
        self.handle([ev.FilesSubmitted(tuple(files))])

    def next_file(self, gpu_id: str) -> SequenceFile | None:
        """The next file for a GPU: from its own queue, else a stolen one, else None for now."""
        for command in self.handle([ev.WorkRequested(WorkerId(gpu_id))]).commands:
            if isinstance(command, StartAttempt) and command.worker_id == gpu_id:
                return command.file
        return None

    def worker(self, gpu_id: str) -> Iterator[SequenceFile]:
        """The files for a GPU, one after another, until all that were submitted have ended.

        To be looped over in a thread of the GPU's own. It waits while other GPUs have files in
        process, since these may fail and come back. A file is completed when the loop asks for
        the next one, unless the loop has recorded its end. A loop that is left by an exception, or
        by `break`, has failed at its file: another GPU gets it, up to the limit of attempts.

        Args:
            gpu_id: The GPU.
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
        """The number of the attempt at a file that was given to a GPU, be it wanted or not."""
        number = self._number(worker_id, path)
        if number is None:
            raise SchedulingError(f"{path} is not in process on {worker_id}")
        return number

    def record_file_start(self, gpu_id: str, path: str) -> None:
        """The GPU begins to process the file that `next_file` gave it."""
        worker_id = WorkerId(gpu_id)
        self.handle([ev.AttemptStarted(worker_id, self._attempt(worker_id, path))])

    def record_progress(self, gpu_id: str, sequences: int) -> None:
        """The GPU has done so many sequences of its present file."""
        worker_id = WorkerId(gpu_id)
        with self._lock:
            number = next(iter(self._scheduler.state.worker(worker_id).inflight), None)
        if number is None:
            raise SchedulingError(f"{gpu_id} has no file in process")
        self.handle([ev.Progress(worker_id, number, sequences)])

    def record_file_completion(
        self, gpu_id: str, file_path: str, sequences: int, duration: float
    ) -> None:
        """The GPU has finished the file, which held `sequences`, in `duration` seconds."""
        worker_id = WorkerId(gpu_id)
        number = self._attempt(worker_id, file_path)
        self.handle([ev.AttemptCompleted(worker_id, number, sequences, None, duration)])

    def record_file_failure(self, gpu_id: str, file_path: str, error: str) -> None:
        """The GPU could not process the file; it is tried again or given up."""
        worker_id = WorkerId(gpu_id)
        number = self._attempt(worker_id, file_path)
        self.handle([ev.AttemptFailed(worker_id, number, error)])

    # -- for those who look on --

    def _take(self, now: float) -> RunSnapshot:
        offset = self._wall_clock() - now
        # Small differences are left, or every moment of the past would flicker.
        if abs(offset - self._context.wall_offset) > _STEP_SECONDS:
            self._context = replace(self._context, wall_offset=offset)
        return take_snapshot(self._scheduler, self._context, now, self._beat_at)

    def snapshot(self) -> RunSnapshot:
        """The run as it is at this moment."""
        with self._lock:
            return self._publish()

    def latest(self) -> RunSnapshot:
        """The run as it was a moment ago; never waits for a decision that is being made."""
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
        """What each GPU does, by its id. Throughput is in sequences per second, times are Unix."""
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
        """The last 50 steals at most, newest last."""
        return list(self.snapshot().recent_steals)

    def detect_stalled_workers(self, stall_threshold: float = 300) -> list[str]:
        """The ids of the GPUs that have work and made no progress for so many seconds."""
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
        """Notice stalls now, where no run loop watches the deadlines."""
        if not self._scheduler.state.is_push:
            self.handle([])

    def detect_load_imbalance(self) -> bool:
        """Whether queue depths (in files) are imbalanced: what the snapshot says of this moment."""
        with self._lock:
            return is_load_imbalanced(self._scheduler.state)
