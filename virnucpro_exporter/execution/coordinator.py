"""The thread-safe face of the scheduler: for pipelines with threads of their own, and for `run`."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing, StealPolicy
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunFacts, take_snapshot
from virnucpro_exporter.scheduling.stalls import is_judged
from virnucpro_exporter.snapshot import Latest, RunSnapshot, StealEvent, is_imbalanced

log = logging.getLogger(__name__)

POLICIES: dict[str, Callable[[], StealPolicy]] = {
    EarliestFinish.name: EarliestFinish,
    NoStealing.name: NoStealing,
}

# A published snapshot is replaced when somebody reads one that is older than this, in seconds.
_FRESH_SECONDS = 0.2

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

    A pipeline with threads of its own calls `submit`, then in each worker's thread `next_file`,
    `record_file_start`, `record_progress` and `record_file_completion` or `record_file_failure`.
    Everything a caller reads comes from an immutable snapshot.

    Args:
        gpus: The ids of the GPUs, or their ids with their declared speeds.
        stall_threshold: Seconds without progress after which a worker counts as stalled.
        names: Model names of the GPUs, where known.
        balancer: `"stealing"`, or `"static"` for the initial assignment alone.
        policy: Who steals what, instead of the way of that balancer.
        settings: All limits and choices; `stall_threshold` is then taken from here.
        processor: What is done to a file, by name.
        first_attempt: Number of the first attempt.
        skipped: Files that an earlier run had finished.
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
        first_attempt: int = 1,
        skipped: Sequence[SequenceFile] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if balancer not in POLICIES:
            raise ValueError(f"balancer must be one of {', '.join(POLICIES)}, not {balancer!r}")
        weights = dict(gpus) if isinstance(gpus, Mapping) else dict.fromkeys(gpus, 1.0)
        self._clock = clock
        self._wall_clock = wall_clock
        self._beat_at: float | None = None  # when the run loop last turned
        started = clock()
        self._lock = threading.Lock()
        self._scheduler = Scheduler(
            weights,
            names=names,
            settings=settings
            or SchedulerSettings(stall_threshold=stall_threshold, second_attempts=False),
            policy=policy or POLICIES[balancer](),
            first_attempt=first_attempt,
            now=started,
        )
        self._facts = RunFacts(
            run_id=uuid.uuid4().hex[:12],
            processor=processor,
            wall_offset=wall_clock() - started,
            started_at=started,
            skipped=len(skipped),
            skipped_residues=sum(file.residues for file in skipped),
        )
        self._attempts: dict[tuple[str, str], int] = {}  # of callers that know files, not numbers
        self._latest = Latest(self._take(started))
        self._taken_at = started

    @property
    def run_id(self) -> str:
        """A name for the run that is unique in practice."""
        return self._facts.run_id

    # -- for whoever carries out the actions --

    def handle(self, events: Iterable[ev.Event]) -> list[ev.Action]:
        """Take in what happened, and a deadline if one has passed.

        Returns:
            What is to be done, in this order.
        """
        with self._lock:
            now = self._clock()
            actions: list[ev.Action] = []
            for event in events:
                actions += self._scheduler.handle(event, now)
            actions += self._pass_time(now)
        self._tell(actions)
        return actions

    def beat(self) -> None:
        """The run loop turns. From the first time on, its silence shows in the snapshots."""
        self._beat_at = self._clock()

    def seconds_to_deadline(self) -> float | None:
        """After how many seconds `handle` wants to be called at the latest; None for never."""
        with self._lock:
            deadline = self._scheduler.next_deadline()
        return None if deadline is None else max(0.0, deadline - self._clock())

    def _pass_time(self, now: float) -> list[ev.Action]:
        deadline = self._scheduler.next_deadline()
        if deadline is None or deadline > now:
            return []
        return self._scheduler.handle(ev.TimePassed(), now)

    def _tell(self, actions: Iterable[ev.Action]) -> None:
        for action in actions:
            line = _LINES.get(type(action))
            if line is not None:
                level, text = line
                log.log(level, "%s", text(action))

    # -- for pipelines with threads of their own --

    def submit(self, files: Iterable[SequenceFile]) -> None:
        """Add files; those that were submitted before are ignored."""
        self.handle([ev.FilesSubmitted(tuple(files))])

    def next_file(self, gpu_id: str) -> SequenceFile | None:
        """The next file for a GPU: from its own queue, else a stolen one, else None for now."""
        for action in self.handle([ev.WorkRequested(gpu_id)]):
            if isinstance(action, ev.StartAttempt) and action.gpu == gpu_id:
                with self._lock:
                    self._attempts[gpu_id, action.file.path] = action.attempt
                return action.file
        return None

    def _attempt(self, gpu_id: str, path: str, *, is_over: bool = False) -> int:
        with self._lock:
            self._scheduler.ledger.worker(gpu_id)
            get = self._attempts.pop if is_over else self._attempts.get
            number = get((gpu_id, path), None)
        if number is None:
            raise SchedulingError(f"{path} was not given to {gpu_id}, or has ended there")
        return number

    def record_file_start(self, gpu_id: str, path: str) -> None:
        """The GPU begins to process the file that `next_file` gave it."""
        self.handle([ev.AttemptStarted(gpu_id, self._attempt(gpu_id, path))])

    def record_progress(self, gpu_id: str, sequences: int) -> None:
        """The GPU has done so many sequences of its present file."""
        with self._lock:
            self._scheduler.ledger.worker(gpu_id)
            numbers = [n for (gpu, _), n in self._attempts.items() if gpu == gpu_id]
        if not numbers:
            raise SchedulingError(f"{gpu_id} has no file in process")
        self.handle([ev.Progress(gpu_id, numbers[0], sequences)])

    def record_file_completion(
        self, gpu_id: str, file_path: str, sequences: int, duration: float
    ) -> None:
        """The GPU has finished the file, which held `sequences`, in `duration` seconds."""
        number = self._attempt(gpu_id, file_path, is_over=True)
        self.handle([ev.AttemptCompleted(gpu_id, number, sequences, None, duration)])

    def record_file_failure(self, gpu_id: str, file_path: str, error: str) -> None:
        """The GPU could not process the file; it is tried again or given up."""
        number = self._attempt(gpu_id, file_path, is_over=True)
        self.handle([ev.AttemptFailed(gpu_id, number, error)])

    # -- for whoever looks on --

    def _take(self, now: float) -> RunSnapshot:
        offset = self._wall_clock() - now
        # Small differences are left, or every moment of the past would flicker.
        if abs(offset - self._facts.wall_offset) > _STEP_SECONDS:
            self._facts = replace(self._facts, wall_offset=offset)
        return take_snapshot(self._scheduler, self._facts, now, self._beat_at)

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
            now, ledger = self._clock(), self._scheduler.ledger
            return [
                w.gpu
                for w in ledger.fleet
                if is_judged(w, is_push=ledger.is_push, is_draining=ledger.is_draining)
                and now >= w.touched_at + stall_threshold
            ]

    def _tell_stalls(self) -> None:
        """Notice stalls now, where no run loop watches the deadlines."""
        if not self._scheduler.ledger.is_push:
            self.handle([])

    def detect_load_imbalance(self) -> bool:
        """Whether queue depths (in files) are imbalanced."""
        with self._lock:
            return is_imbalanced([len(w.queue) for w in self._scheduler.ledger.usable()])


def _stall_started(action: ev.StallStarted) -> str:
    what = f" in {action.path!r}" if action.path else ""
    return f"GPU {action.gpu} has stalled: no progress for {action.silent_seconds:.0f} s{what}"


_LINES: dict[type[ev.Action], tuple[int, Callable[..., str]]] = {
    ev.StallStarted: (logging.WARNING, _stall_started),
    ev.StallEnded: (
        logging.INFO,
        lambda a: f"GPU {a.gpu} is no longer stalled, after {a.stalled_seconds:.0f} s",
    ),
    ev.FileRetried: (
        logging.WARNING,
        lambda a: f"{a.file.path!r} is tried again: GPU {a.gpu}: {a.error}",
    ),
    ev.FileFailed: (
        logging.ERROR,
        lambda a: f"{a.file.path!r} is given up after {a.attempts} attempts: {a.error}",
    ),
    ev.RestartWorker: (logging.WARNING, lambda a: f"GPU {a.gpu} gets a new worker: {a.reason}"),
    ev.RetireWorker: (logging.ERROR, lambda a: f"GPU {a.gpu} is given up: {a.reason}"),
    ev.PlanChanged: (
        logging.INFO,
        lambda a: f"the plan was changed: {a.files} files moved to other workers",
    ),
    ev.FileStolen: (
        logging.DEBUG,
        lambda a: f"GPU {a.thief} stole {a.file.path!r} from GPU {a.victim}",
    ),
}
