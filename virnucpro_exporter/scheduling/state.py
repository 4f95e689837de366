"""All that the scheduler knows about its run, in one place: workers, files, counts, deadlines.

The parts of the scheduler share one ledger. Only they change it; the reports read it.
"""

from __future__ import annotations

from collections import deque

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.counters import WaitingClock
from virnucpro_exporter.scheduling.policy import StealPolicy
from virnucpro_exporter.scheduling.records import Attempt, FileRecord, Worker
from virnucpro_exporter.scheduling.settings import SchedulerSettings

RECENT_STEALS = 50
RECENT_FAILURES = 1000

NEVER = float("inf")


class Ledger:
    """The state of a run.

    Args:
        settings: Limits and choices.
        policy: Who steals what.
        first_attempt: Number of the first attempt; a resumed run goes on counting.
    """

    def __init__(
        self, settings: SchedulerSettings, policy: StealPolicy, first_attempt: int
    ) -> None:
        self.settings = settings
        self.policy = policy
        # What the present event has led to
        self.actions: list[ev.Action] = []
        self.came_back = False  # a file was put back, for whoever waits
        # The workers
        self.fleet: list[Worker] = []
        self.workers: dict[str, Worker] = {}
        # The files
        self.files: dict[str, FileRecord] = {}
        self.waiting = WaitingClock()
        self.urgent: list[Attempt] = []  # their files want a second attempt at once
        self.processing = 0  # files that at least one worker holds
        self.completed_files = self.failed_files = 0
        self.residues_total = self.residues_done = 0
        self.failures: deque[tuple[str, str]] = deque(maxlen=RECENT_FAILURES)
        # What happened
        self.last_number = self.number_before = first_attempt - 1
        self.steals: dict[tuple[str, str], int] = {}
        self.stolen_residues: dict[tuple[str, str], int] = {}
        self.recent_steals: deque[tuple[float, str, str, str]] = deque(maxlen=RECENT_STEALS)
        self.resteals = self.retries = self.late_results = 0
        self.longest_silence = 0.0  # of attempts that got further after it, in seconds
        # Where the run stands
        self.is_draining = False
        self.is_push = False  # workers wait for files; else callers come and ask
        self.is_finished = False
        self.finished_at: float | None = None
        # When to look again
        self.next_look = NEVER  # for stalls and limits
        self.next_rethink = NEVER  # for workers that wait
        self.next_review = NEVER  # for files in process that will end late

    @property
    def queued_files(self) -> int:
        """Files that wait."""
        return self.waiting.files

    @property
    def has_begun(self) -> bool:
        """Whether any file was ever handed out."""
        return self.last_number > self.number_before

    # -- workers --

    def add_worker(self, gpu: str, name: str, weight: float, now: float) -> Worker:
        """A worker that was not there before."""
        worker = Worker(gpu, name, weight, len(self.fleet), now)
        self.workers[gpu] = worker
        self.fleet.append(worker)
        return worker

    def worker(self, gpu: str) -> Worker:
        """The worker of this id.

        Raises:
            SchedulingError: There is none.
        """
        try:
            return self.workers[gpu]
        except KeyError:
            raise SchedulingError(f"there is no worker {gpu}") from None

    def usable(self) -> list[Worker]:
        """The workers that are up or will be."""
        return [w for w in self.fleet if not w.is_retired]

    def has_others(self, worker: Worker) -> bool:
        """Whether any worker but this one is up or will be."""
        return any(w is not worker and not w.is_retired for w in self.fleet)

    def begin_idle(self, worker: Worker, now: float) -> None:
        """The worker asked for a file and got none."""
        if not worker.awaits_work:
            worker.awaits_work = True
            worker.idle_from = self.waiting.read(now)

    def end_idle(self, worker: Worker, now: float) -> None:
        """The worker got a file, or is gone."""
        if worker.awaits_work:
            worker.counters.starved_seconds += self.starved_now(worker, now)
            worker.awaits_work = False

    def starved_now(self, worker: Worker, now: float) -> float:
        """Seconds since the worker became idle during which files waited elsewhere."""
        return self.waiting.read(now) - worker.idle_from if worker.awaits_work else 0.0

    # -- the run --

    def look_by(self, when: float) -> None:
        """Look for stalls and limits at `when` at the latest."""
        self.next_look = min(self.next_look, when)

    def reopen_if_stuck(self, now: float) -> None:
        """Go on with a run that had ended with files left, because nobody could do them."""
        if self.is_finished and self.waiting.files and not self.is_draining:
            self.is_finished = False
            self.finished_at = None
            self.waiting.count(0, now)

    def finish_if_done(self, now: float) -> None:
        """End the run if no file is left to do, or none may or can be done any more."""
        if self.is_finished or self.processing:
            return
        stuck = all(w.is_retired for w in self.fleet)
        if self.waiting.files and not self.is_draining and not stuck:
            return
        self.is_finished = True
        self.finished_at = now
        self.waiting.stop(now)
        self.actions.append(ev.RunFinished())
