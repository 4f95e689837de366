"""The state of a run in the scheduler, and all transitions of it.

Files, attempts and workers are changed by the methods of `State`, each of which is one transition
and records what it means as commands and facts, in the order decided. Only what is special about
files that are done in parts is in `splitting`, on top of these. The other modules of the room read
the state, decide, and call both; none assigns (a test reads the sources for it). So when
`touched_at` moves, or how a file leaves a queue, is answered here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling.commands import (
    CancelAttempt,
    Command,
    DiscardOutputs,
    KeepOutputs,
    RestartWorker,
    RetireWorker,
    StartAttempt,
)
from virnucpro_exporter.scheduling.counters import WaitingClock
from virnucpro_exporter.scheduling.facts import (
    AttemptEnded,
    Fact,
    FileCompleted,
    FileFailed,
    FileQueued,
    FileStarted,
    FileStolen,
    MemoryRanShort,
    Moved,
    Outcome,
    PlanChanged,
    RunFinished,
    StallEnded,
    StallStarted,
    WorkerRestarted,
    WorkerRetired,
)
from virnucpro_exporter.scheduling.files import (
    NOBODY,
    Attempt,
    FileRecord,
    FileState,
    SequenceFile,
    Step,
)
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.parts import SplitFile, first_share
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.speed import (
    DOUBT,
    NEVER,
    SLOWEST,
    DoneBefore,
    Errors,
    FixedCost,
    RecentSpeed,
)
from virnucpro_exporter.scheduling.workers import Worker
from virnucpro_exporter.snapshot import PAIRED_WORKERS

# Members that every file needs: before Python 3.12 looking one up takes as long as a call.
_COMPLETED, _MOVED = Outcome.COMPLETED, Outcome.MOVED
_PROCESSING, _START, _COMPLETE = FileState.PROCESSING, Step.START, Step.COMPLETE

RECENT_STEALS = 50
RECENT_FAILURES = 1000

# The fixed cost of a file is learned from so many files, and from one in so many of the later ones:
# most say nothing new.
_FIRST_FILES, _EACH = 512, 16

# What is expected of workers that have shown nothing is looked at anew for each of so many others,
# and then for one in as many.
_FIRST_WORKERS = 64

# However wrong the fixed cost is, at least this share of the seconds of an attempt was work.
_LEAST_WORK = 0.1


class State:
    """The state of a run.

    Args:
        settings: Limits and choices.
        first_attempt: Number of the first attempt; a resumed run goes on counting.

    Attributes:
        settings: Limits and choices.
        commands: What is to be done about the present turn.
        facts: What happened in the present turn.
        came_back: In the present event a file was put back, for the waiting workers.
        fleet: The workers, in the order in which they joined.
        workers: The same, by id.
        files: What became of each file, by path.
        abandoned: Attempts that are over though their callers are not notified yet, by worker and
            path; there are none where workers have processes of the run.
        splits: The files that are done in parts, by path; `files` has the first part of each.
        parts_queued: Parts and joins that wait.
        parts_processing: Parts and joins that at least one worker holds.
        parts_completed: Parts that are done, of all files.
        split_files: Files that are done in parts and have neither a result nor failed.
        open_joins: Joins that wait or are in process.
        waiting: Counts the files and parts that wait, and for how long there were some.
        urgent: Attempts whose files want a speculative attempt at once.
        processing: Files, parts and joins that at least one worker holds.
        completed_files: Files with a result.
        failed_files: Files given up.
        skipped_files: Files that an earlier run had finished.
        skipped_residues: Their residues.
        awaited_files: Files of the run that are still being looked at.
        residues_total: Residues of all files but those given up, as far as known.
        residues_done: Residues of the completed ones.
        failures: (path, error) of the files given up last.
        last_number: The number of the last attempt.
        number_before: The number before the first attempt.
        steals: How often files went from one worker to another, by (victim, thief).
        stolen_residues: Their residues, likewise.
        recent_steals: The last ones: when, victim, thief, file name.
        resteals: Steals of a file that had been stolen before.
        retries: Times a file went back into a queue because an attempt failed.
        late_results: Results of attempts that were over, dropped.
        plan_changes: How often waiting and running files were laid out anew.
        longest_silence: Of attempts that got further after it, in seconds.
        is_draining: No file is started any more.
        is_held: No file is started for the moment.
        is_push: Workers wait for files; else callers come and ask.
        is_finished: The run is over, as far as known.
        finished_at: Since when, or None.
        next_look: When to look for stalls and limits.
        next_rethink: When to look again at the workers that wait.
        next_review: When to look at the files in process that will end late.
        fixed: What every file costs beside its residues.
        errors: How wrong estimates are.
    """

    def __init__(self, settings: SchedulerSettings, first_attempt: int) -> None:
        self.settings = settings
        self.commands: list[Command] = []
        self.facts: list[Fact] = []
        self.came_back = False
        self.fleet: list[Worker] = []
        self.workers: dict[str, Worker] = {}
        self.files: dict[str, FileRecord] = {}
        self.abandoned: dict[tuple[WorkerId, str], AttemptNumber] = {}
        self.splits: dict[str, SplitFile] = {}
        self.parts_queued = self.parts_processing = self.parts_completed = self.split_files = 0
        self.open_joins: set[FileRecord] = set()
        self.waiting = WaitingClock()
        self.urgent: list[Attempt] = []
        self.processing = 0
        self.completed_files = self.failed_files = 0
        self.skipped_files = self.skipped_residues = self.awaited_files = 0
        self.residues_total = self.residues_done = 0
        self.failures: deque[tuple[str, str]] = deque(maxlen=RECENT_FAILURES)
        self.last_number = self.number_before = first_attempt - 1
        self._last_sent = self.last_number  # attempts of earlier turns; later ones are not sent yet
        self.steals: dict[tuple[str, str], int] = {}
        self.stolen_residues: dict[tuple[str, str], int] = {}
        self.recent_steals: deque[tuple[float, WorkerId, WorkerId, str]]
        self.recent_steals = deque(maxlen=RECENT_STEALS)
        self.resteals = self.retries = self.late_results = 0
        self.longest_silence = 0.0
        self.plan_changes = 0
        self.is_draining = self.is_held = False
        self.is_push = False
        self.is_finished = False
        self.finished_at: float | None = None
        self.next_look = NEVER
        self.next_rethink = NEVER
        self.next_review = NEVER
        self.fixed = FixedCost()
        self.errors = Errors()
        self._startup: float | None = None  # seconds until the first worker was ready
        # Of the completed files of which both are known
        self._sequences = self._residues = 0
        self._measured = 0  # workers of which anything was learned
        self._base = 1.0  # residues per second of a worker of weight 1, once anything was learned

    # -- queries --

    @property
    def starts_nothing(self) -> bool:
        """Whether no file is started, for the moment or any more."""
        return self.is_draining or self.is_held

    @property
    def starts_files(self) -> bool:
        """Whether workers that wait for files are given some."""
        return not (self.is_draining or self.is_held or self.is_finished) and self.is_push

    @property
    def queued_files(self) -> int:
        """Files that wait and of which nothing is done in parts."""
        return self.waiting.files - self.parts_queued

    @property
    def processing_files(self) -> int:
        """Files that workers hold, or of which parts were begun."""
        return self.processing - self.parts_processing + self.split_files

    @property
    def queued_units(self) -> int:
        """Files, parts and joins that wait."""
        return self.waiting.files

    def records(self) -> Iterator[FileRecord]:
        """All units of work: files, parts and joins."""
        for record in self.files.values():
            if record.split is None:
                yield record
        for split in self.splits.values():
            yield from split.parts
            if split.join is not None:
                yield split.join

    @property
    def has_begun(self) -> bool:
        """Whether any file was ever handed out."""
        return self.last_number > self.number_before

    def worker(self, worker_id: WorkerId) -> Worker:
        """The worker of this id.

        Raises:
            SchedulingError: There is none.
        """
        try:
            return self.workers[worker_id]
        except KeyError:
            raise SchedulingError(f"there is no worker {worker_id}") from None

    def usable(self) -> list[Worker]:
        """The workers that are up or will be, and stay."""
        return [w for w in self.fleet if not (w.is_retired or w.is_leaving)]

    @property
    def wanted_workers(self) -> int:
        """How many more workers would be given a file, beside those that wait or come up."""
        if self.starts_nothing or self.is_finished:
            return 0
        free = sum(not worker.inflight for worker in self.usable())
        return max(0, self.waiting.files - free)

    def has_others(self, worker: Worker) -> bool:
        """Whether any worker but this one is up or will be, and stays."""
        return any(w is not worker for w in self.usable())

    def starved_now(self, worker: Worker, now: float) -> float:
        """Seconds since the worker became idle during which files waited elsewhere."""
        return self.waiting.read(now) - worker.idle_from if worker.awaits_work else 0.0

    # -- the turn --

    def begin_turn(self) -> None:
        """What was decided before has been handed to the shell."""
        self.commands = []
        self.facts = []
        self._last_sent = self.last_number

    def call_waiting(self) -> None:
        """Have the workers that wait looked at again after this event."""
        self.came_back = True

    def end_event(self) -> None:
        """All that the event leads to has been decided, but for the workers that wait."""
        self.came_back = False

    # -- deadlines --

    def look_by(self, when: float) -> None:
        """Look for stalls and limits at `when` at the latest."""
        self.next_look = min(self.next_look, when)

    def begin_look(self) -> None:
        """Stalls and limits are looked for now."""
        self.next_look = NEVER

    def rethink_by(self, when: float) -> None:
        """Look again at the workers that wait, at `when`."""
        self.next_rethink = when

    def begin_rethink(self) -> None:
        """The workers that wait are looked at now."""
        self.next_rethink = NEVER

    def review_by(self, when: float) -> None:
        """Look at the files in process that will end late, at `when`."""
        self.next_review = when

    def begin_review(self) -> None:
        """The files in process are looked at now."""
        self.next_review = NEVER

    # -- workers --

    def add_worker(self, worker_id: WorkerId, name: str, weight: float, now: float) -> Worker:
        """A worker that was not there before."""
        worker = Worker(worker_id, name, weight, len(self.fleet), now, self.fixed, self.errors)
        worker.startup = self._startup or 0.0
        self.workers[worker_id] = worker
        self.fleet.append(worker)
        return worker

    def load(self, worker: Worker, now: float) -> None:
        """The worker's process was started; it loads its processor."""
        if not (worker.is_ready or worker.is_retired or worker.is_leaving):
            self.is_push = True
            worker.is_loading = True
            worker.spawned_at = now
            self.look_by(now + self.settings.setup_timeout)

    def come_up(
        self, worker: Worker, now: float, *, can_split: bool = False, cuts_first: bool = False
    ) -> None:
        """The worker's process is ready, and waits for files."""
        if worker.is_leaving:
            return
        if not worker.is_ready:
            worker.startup = now - worker.spawned_at
            if self._startup is None:
                self._startup = worker.startup
                for other in self.fleet:
                    other.startup = worker.startup
        worker.is_ready = True
        worker.can_split = can_split and self.settings.split
        worker.cuts_first = cuts_first and self.settings.split
        worker.is_loading = False
        worker.slow_setups = 0
        worker.touched_at = now
        self.look_by(now + self.settings.stall_threshold)
        self.is_push = True

    def leave(self, worker: Worker, now: float) -> None:
        """The worker gets no more files; its queue is open to the others."""
        worker.is_leaving = True
        worker.is_ready = worker.is_loading = False
        self.end_stall(worker, now)
        self.came_back = True
        self.let_go(worker)

    def let_go(self, worker: Worker) -> None:
        """A worker that is leaving goes as soon as it holds nothing."""
        if worker.is_leaving and not worker.inflight:
            self.commands.append(RetireWorker(worker.id))

    def attend(self, worker: Worker) -> None:
        """A caller made a request for the worker."""
        worker.is_ready = True

    def go_down(self, worker: Worker) -> None:
        """The worker's process is gone."""
        worker.is_ready = worker.is_loading = False

    def restart(self, worker: Worker, reason: str, now: float) -> None:
        """The worker gets a new process; it holds nothing.

        While the run drains there is nothing to do for a new one: the old one is killed alone.
        """
        worker.is_ready = worker.is_loading = False
        worker.touched_at = worker.spawned_at = now
        self.end_stall(worker, now)
        if self.is_draining:
            self.commands.append(RetireWorker(worker.id))
            return
        worker.counters.restarts += 1
        self.commands.append(RestartWorker(worker.id))
        self.facts.append(WorkerRestarted(worker.id, reason))

    def note_shortage(self, worker: Worker, times: int) -> None:
        """So many batches of the worker did not fit into the memory of its device."""
        worker.counters.shortages += times
        self.facts.append(MemoryRanShort(worker.id, worker.counters.shortages))

    def retire(self, worker: Worker, reason: str, now: float) -> None:
        """The worker is given up; it holds nothing, and its queue is open to the others."""
        worker.is_retired = True
        worker.has_left = worker.is_leaving
        worker.is_leaving = False
        worker.retired_at = now
        worker.is_ready = worker.is_loading = False
        self.end_stall(worker, now)
        self.commands.append(RetireWorker(worker.id))
        self.facts.append(WorkerRetired(worker.id, reason, worker.has_left))
        # A file has failed on fewer workers than it may fail, so it cannot avoid all of many.
        if len(self.usable()) < self.settings.max_attempts:
            for record in [r for w in self.fleet for r in w.queue if r.avoid]:
                self._forgive(record)
        self.came_back = True
        self.finish_if_done(now)

    def come_back(self, worker: Worker, now: float) -> None:
        """A worker that was given up is there again: its node has returned."""
        worker.is_retired = False
        if worker.retired_at is not None and not worker.has_left:
            worker.counters.lost_seconds += now - worker.retired_at
        worker.has_left = False
        worker.retired_at = None
        worker.touched_at = worker.spawned_at = now
        worker.troubles.clear()
        worker.slow_setups = 0
        if worker.has_work:
            self.look_by(now + self.settings.stall_threshold)

    def suspect(self, worker: Worker, record: FileRecord) -> None:
        """An attempt at the file failed on the worker, or took its process."""
        worker.troubles.append(record.file.path)

    def count_slow_setup(self, worker: Worker) -> None:
        """The worker's process took too long to load."""
        worker.slow_setups += 1

    def got_further(self, worker: Worker, now: float) -> None:
        """Within a file or to its end: the silence of the worker until now was no stall."""
        if worker.stalled_since is None or not worker.has_reported:
            silence = now - worker.touched_at
            if silence > self.longest_silence:  # noqa: PLR1730 - a call less for each file
                self.longest_silence = silence
        self.touch(worker, now)

    def touch(self, worker: Worker, now: float) -> None:
        """The worker got further, so it does not stall."""
        worker.last_progress = worker.touched_at = now
        if worker.stalled_since is not None:
            self.end_stall(worker, now)

    def notice(self, worker: Worker, now: float) -> None:
        """The worker's processes work, though they report nothing."""
        worker.alive_at = now

    def stall(self, worker: Worker, now: float) -> None:
        """The worker has made no progress for the threshold."""
        running = next(iter(worker.running), None)
        worker.stalled_since = now
        worker.counters.stalls += 1
        path = running.record.file.path if running else None
        self.facts.append(StallStarted(worker.id, path, now - worker.touched_at))

    def end_stall(self, worker: Worker, now: float) -> None:
        """The worker got further, or its process is replaced."""
        if worker.stalled_since is not None:
            seconds = now - worker.stalled_since
            worker.counters.stalled_seconds += seconds
            worker.stalled_since = None
            self.facts.append(StallEnded(worker.id, seconds))
            self.look_by(now + self.settings.stall_threshold)

    def begin_idle(self, worker: Worker, now: float) -> None:
        """The worker requested a file and got none."""
        if not worker.awaits_work:
            worker.awaits_work = True
            worker.idle_from = self.waiting.read(now)

    def _end_idle(self, worker: Worker, now: float) -> None:
        """The worker got a file, or is gone."""
        if worker.awaits_work:
            worker.counters.starved_seconds += self.starved_now(worker, now)
            worker.awaits_work = False

    def _end_busy(self, worker: Worker, now: float) -> None:
        """The worker holds nothing any more."""
        if worker.busy_since is not None:
            worker.counters.busy_seconds += now - worker.busy_since
            worker.busy_since = None

    def count_search(self, worker: Worker, *, is_empty: bool, is_declined: bool) -> None:
        """The worker requested work with an empty queue."""
        counters = worker.counters
        counters.steal_attempts += 1
        counters.steals_empty += is_empty
        counters.steals_declined += is_declined

    # -- speeds --

    def expect(self, worker: Worker) -> None:
        """Believe the declared speed of a worker."""
        worker.speed = worker.weight * self._base

    def doubt(self, worker: Worker) -> None:
        """The worker stalled or fell silent: expect less of it until it shows better."""
        worker.learned.doubt()
        worker.speed = worker.learned.value or max(worker.speed / DOUBT, SLOWEST)
        worker.is_doubted = True

    def _learn(
        self, attempt: Attempt, done: int, seconds: float, whole: float | None = None
    ) -> None:
        worker, learned = attempt.worker, attempt.worker.learned
        is_first = learned.value is None
        residues = attempt.record.file.residues
        learned.observe(done, seconds, done / residues if done < residues else 1.0, whole)
        if learned.value is not None:
            worker.speed = learned.value
            if is_first:
                self._rebase()

    def _rebase(self) -> None:
        """Express the declared speeds in residues per second, now that something was measured.

        With many workers, each further one adds little: then only one in so many is counted.
        """
        self._measured += 1
        if self._measured == 1:  # before, there was nothing to go by for those that wait
            self.call_waiting()
        if self._measured > _FIRST_WORKERS and self._measured % _FIRST_WORKERS:
            return
        known = [w for w in self.fleet if w.learned.value is not None]
        self._base = sum(w.speed for w in known) / sum(w.weight for w in known)
        for worker in self.fleet:
            if worker.learned.value is None:
                self.expect(worker)

    # -- files that wait --

    def skip(self, files: Sequence[SequenceFile]) -> None:
        """An earlier run had finished these."""
        self.skipped_files += len(files)
        self.skipped_residues += sum(file.residues for file in files)

    def recall(self, files: Iterable[DoneBefore]) -> None:
        """Learn from what earlier runs did what a file costs, and how long sequences are."""
        weights = {worker.id: worker.weight for worker in self.fleet}
        for file in files:  # each worker's on a line of their own: its speed may be another now
            weight = weights.get(WorkerId(file.worker), 1.0)
            self.fixed.observe(f"{file.worker} before", weight, file.residues, file.seconds)
            if file.sequences:
                self._sequences += file.sequences
                self._residues += file.residues

    def expect_files(self, count: int) -> None:
        """So many files of the run are still being looked at, and will be submitted."""
        self.awaited_files = count

    def submit(self, worker: Worker, files: Sequence[SequenceFile], now: float) -> None:
        """Queue new files, largest first, for a worker."""
        if not files:
            return
        if not worker.has_work:
            worker.touched_at = now
            self.look_by(now + self.settings.stall_threshold)
        records = [FileRecord(file) for file in files]
        self.files.update((record.file.path, record) for record in records)
        if worker.queue:
            records = sorted([*worker.queue, *records], key=lambda r: -r.file.residues)
        worker.queue = deque(records)
        residues = sum(file.residues for file in files)
        worker.queued_residues += residues
        self.residues_total += residues
        self.waiting.count(len(files), now)
        self.reopen()

    def take(self, worker: Worker) -> FileRecord:
        """Take the first file out of a worker's own queue, to start it."""
        record = worker.queue.popleft()
        worker.queued_residues -= record.file.residues
        return record

    def steal(self, victim: Worker, thief: Worker, position: int, now: float) -> FileRecord:
        """Take a file out of another worker's queue, for the thief to start it."""
        record = _take(victim, position)
        record.step(Step.STEAL)
        is_paired = len(self.fleet) <= PAIRED_WORKERS
        pair = (victim.id if is_paired else "", thief.id)
        self.steals[pair] = self.steals.get(pair, 0) + 1
        cost = record.file.residues
        self.stolen_residues[pair] = self.stolen_residues.get(pair, 0) + cost
        self.resteals += record.steals > 0
        record.steals += 1
        victim.counters.stolen_from += 1
        victim.counters.stolen_residues += cost
        thief.counters.stolen_to += 1
        self.recent_steals.append((now, victim.id, thief.id, record.file.name))
        self.facts.append(FileStolen(record.file, victim.id, thief.id))
        return record

    def move(self, record: FileRecord, source: Worker, target: Worker, now: float) -> None:
        """Put a waiting file into another worker's queue."""
        _take(source, source.queue.index(record))
        record.step(Step.MOVE)
        self._push(record, target, now)

    def change_plan(self, moves: Iterable[tuple[FileRecord, Worker, Worker]]) -> None:
        """All of these files have moved: (file, source, target)."""
        self.came_back = True
        self.plan_changes += 1
        self.facts.append(
            PlanChanged(tuple(Moved(r.file, source.id, target.id) for r, source, target in moves))
        )

    def _push(self, record: FileRecord, worker: Worker, now: float) -> None:
        """Queue a file at its place by cost."""
        if not worker.has_work:
            worker.touched_at = max(worker.touched_at, now)
        self.look_by(now + self.settings.stall_threshold)
        cost = record.file.residues
        position = next((i for i, r in enumerate(worker.queue) if r.file.residues < cost), None)
        if position is None:
            worker.queue.append(record)
        else:
            worker.queue.insert(position, record)
        worker.queued_residues += cost

    def enqueue(self, record: FileRecord, worker: Worker, now: float) -> None:
        """Queue a file or part that waits from now on."""
        self._push(record, worker, now)
        self._count_waiting(record, 1, now)

    def withdraw(self, record: FileRecord, now: float) -> None:
        """A part that waits is not to be done any more."""
        owner = next(w for w in self.fleet if record in w.queue)
        _take(owner, owner.queue.index(record))
        self._count_waiting(record, -1, now)

    def _forgive(self, record: FileRecord) -> None:
        """A file that failed on every worker that is left may be tried on any of them again."""
        if all(w.id in record.avoid for w in self.usable()):
            record.avoid = NOBODY

    # -- attempts --

    def start(self, worker: Worker, record: FileRecord, now: float) -> None:
        """Hand a file to a worker: one that was taken from a queue, or one in process."""
        self.last_number = last = self.last_number + 1
        number = AttemptNumber(last)
        is_speculative = record.state is _PROCESSING
        attempt = Attempt(number, record, worker, now, is_speculative=is_speculative)
        split = record.split
        if not is_speculative:
            self.waiting.count(-1, now)
            self.processing += 1
            if split is not None:
                self.parts_queued -= 1
                self.parts_processing += 1
        record.step(_START)
        record.holders = (*record.holders, attempt) if is_speculative else (attempt,)
        record.attempts += 1
        if not worker.inflight:
            if worker.touched_at < now:  # noqa: PLR1730 - a call less for each file
                worker.touched_at = now
            if worker.busy_since is None:
                worker.busy_since = now
                self._end_idle(worker, now)
                worker.throughput.begin(now)
                self.look_by(now + self.settings.stall_threshold)
        worker.inflight[number] = attempt
        if split is not None and split.join is record:
            joins = tuple(result.attempt for result in split.in_order)
            self.commands.append(StartAttempt(worker.id, number, split.file, joins))
        else:
            share = 1.0
            if worker.cuts_first and not is_speculative:
                left = self.residues_total - self.residues_done
                share = first_share(worker, record, self.usable(), left)
                attempt.asked_at = now if share < 1.0 else None
            self.commands.append(StartAttempt(worker.id, number, record.file, share=share))
        self.facts.append(FileStarted(record.file, worker.id, number, is_speculative))

    def _count_waiting(self, record: FileRecord, change: int, now: float) -> None:
        self.waiting.count(change, now)
        if record.split is not None:
            self.parts_queued += change

    def count_processing(self, record: FileRecord, change: int) -> None:
        """So many files or parts more are in process."""
        self.processing += change
        if record.split is not None:
            self.parts_processing += change

    def begin(self, attempt: Attempt, now: float) -> None:
        """The worker began to process the file of the attempt."""
        attempt.started_at = attempt.reported_at = attempt.counted_at = now
        self.touch(attempt.worker, now)
        if self.settings.file_timeout is not None:
            self.look_by(now + self.settings.file_timeout)

    def report(self, attempt: Attempt, sequences: int, residues: int | None, now: float) -> None:
        """The worker reported how far it is within the file."""
        if attempt.started_at is None:
            attempt.started_at = attempt.reported_at
        worker = attempt.worker
        worker.longest_gap = max(worker.longest_gap, now - attempt.reported_at)
        attempt.reported_at = now
        is_first = not attempt.done
        done = self.advance(attempt, sequences, residues, now)
        # What comes before the first report is not work alone.
        if is_first and done:
            attempt.recent = RecentSpeed(attempt.done, now)
            attempt.start = (now - attempt.counted_at, done)
            if worker.learned.value is None:  # better than nothing
                until = now - attempt.counted_at
                self._learn(attempt, done, self._work_seconds(until), until)
        elif self._is_healed(attempt) and done:
            attempt.silent = now - attempt.counted_at
            attempt.recent = RecentSpeed(attempt.done, now)
            attempt.start = None
        elif attempt.recent is not None and done:
            attempt.recent.add(attempt.done, now)
            attempt.pace = (now - attempt.counted_at) / done
            if attempt.start is not None:
                until, residues_then = attempt.start
                attempt.start = None
                self.fixed.begun(until - residues_then * attempt.pace)
            self._learn(attempt, done, now - attempt.counted_at)
        if done:
            attempt.counted_at = now
        worker.has_reported = True
        self.got_further(worker, now)

    def _is_healed(self, attempt: Attempt) -> bool:
        """Whether a stall ends by itself: a pause, and not a slow GPU, unless it comes again."""
        worker = attempt.worker
        is_stalled = worker.stalled_since is not None and worker.has_reported
        return is_stalled and not attempt.silent

    def _work_seconds(self, seconds: float) -> float:
        """Of the first seconds of an attempt, those that went into residues."""
        return max(seconds - self.fixed.seconds, _LEAST_WORK * seconds)

    def residues_of(self, file: SequenceFile, sequences: int) -> int | None:
        """About how many residues so many sequences of a file are; None while that is not known.

        From the sequences of the file, where they were counted or can be estimated; else from
        those of the completed files.
        """
        if file.sequences:
            return file.residues * sequences // file.sequences
        if file.likely_sequences:
            return min(file.residues * sequences // file.likely_sequences, file.residues)
        if self._sequences:
            return min(self._residues * sequences // self._sequences, file.residues)
        return None

    def finish_work(
        self, attempt: Attempt, sequences: int, residues: int, seconds: float, now: float
    ) -> None:
        """The worker has done all of the file.

        Args:
            attempt: Which attempt.
            sequences: Sequences of the file, 0 when they are not known.
            residues: Residues of the file.
            seconds: How long the attempt took.
            now: The present time.
        """
        worker, before = attempt.worker, attempt.done
        done = self.advance(attempt, sequences, residues, now)
        if before and self._is_healed(attempt):
            attempt.silent = now - attempt.counted_at
        elif before:
            self._learn(attempt, done, now - attempt.counted_at)
            if attempt.pace is not None:
                self.fixed.ending.add(now - attempt.counted_at - done * attempt.pace)
        else:
            work = self._work_seconds(seconds) if self.fixed.seconds else seconds
            self._learn(attempt, done, work, seconds)
        if self.completed_files < _FIRST_FILES or not self.completed_files % _EACH:
            spent = max(seconds - attempt.silent, 0.0)
            self.fixed.observe(worker.id, worker.weight, residues, spent)
            self._compare(attempt, residues, spent)
        self._sequences += sequences
        if sequences:
            self._residues += residues
        self.got_further(worker, now)

    def _compare(self, attempt: Attempt, residues: int, seconds: float) -> None:
        """Learn from what a file took how wrong estimates are."""
        if residues <= 0 or seconds <= 0.0:
            return
        worker = attempt.worker
        pace = residues / self._work_seconds(seconds)
        self.errors.observe(attempt.record.file.residues, residues, pace, worker.pace)
        worker.pace = pace

    def advance(self, attempt: Attempt, sequences: int, residues: int | None, now: float) -> int:
        """Count what an attempt has done since its last report.

        Args:
            attempt: Which attempt.
            sequences: Sequences done since it began.
            residues: Residues done since it began, or None when that is not known.
            now: The present time.

        Returns:
            How many residues more that is.
        """
        worker = attempt.worker
        new = sequences - attempt.sequences
        if new > 0:
            attempt.sequences = sequences
        else:
            new = 0
        if residues is not None and residues > attempt.done:
            done = residues - attempt.done
            attempt.done = residues
            worker.counters.residues += done
        else:
            done = 0
        if new or done:
            worker.throughput.add(new, done, now)
            worker.is_doubted = False
        return done

    def hand_back(self, worker: Worker, number: AttemptNumber) -> Attempt | None:
        """The worker has ended an attempt; None when it does not hold it (any more)."""
        return worker.inflight.pop(number, None)

    def rest(self, worker: Worker, now: float) -> None:
        """The worker ended what it held, and got nothing new."""
        if not worker.inflight:
            self._end_busy(worker, now)
            self.let_go(worker)
        if not self.processing:
            self.finish_if_done(now)

    def empty_hands(self, worker: Worker, now: float) -> None:
        """The worker's process is gone: it holds nothing any more."""
        if any(number > self._last_sent for number in worker.inflight):
            self._withdraw(set(worker.inflight))
        if not self.is_push:
            for attempt in worker.inflight.values():
                self.abandoned[worker.id, attempt.record.file.path] = attempt.number
        worker.inflight.clear()
        self._end_busy(worker, now)
        self._end_idle(worker, now)

    def drop_late(self, number: AttemptNumber, *, has_outputs: bool) -> None:
        """A result came for an attempt that is over."""
        self.late_results += 1
        if self.abandoned:
            self.abandoned = {k: n for k, n in self.abandoned.items() if n != number}
        if has_outputs:
            self.discard(number)

    def discard(self, number: AttemptNumber) -> None:
        """What an attempt wrote is of no use."""
        self.commands.append(DiscardOutputs(number))

    def end(
        self,
        attempt: Attempt,
        outcome: Outcome,
        reason: str = "",
        *,
        is_charged: bool = False,
        has_begun: bool | None = None,
        outputs: tuple[str, ...] = (),
    ) -> None:
        """The attempt holds its file no more; the file's own transition follows.

        Args:
            attempt: Which attempt.
            outcome: How it ended.
            reason: Why, in one line.
            is_charged: It counts against the limit of failures of its file.
            has_begun: Whether the worker began it, where it did not report that; when None, it did
                if the attempt is the first that it holds, or no longer there.
            outputs: Names of the files that it left.
        """
        worker, record = attempt.worker, attempt.record
        if len(record.holders) == 1:
            record.holders = ()
        else:
            record.holders = tuple(a for a in record.holders if a is not attempt)
        if outcome is not _COMPLETED:
            worker.counters.speculative_lost += attempt.is_speculative
            worker.counters.moved += outcome is _MOVED
            if is_charged or outcome is _MOVED:
                record.avoid |= {worker.id}
            if is_charged:
                worker.counters.failures += 1
                record.failures += 1
                record.notes = (*record.notes, f"{outcome.value} on {worker.id}: {reason}")
        started_at = attempt.started_at
        if started_at is None and attempt.number <= self._last_sent:
            if has_begun is None:
                held = worker.inflight
                has_begun = attempt.number not in held or next(iter(held)) == attempt.number
            started_at = attempt.handed_at if has_begun else None
        self.facts.append(
            AttemptEnded(
                attempt.number,
                worker.id,
                record.file,
                outcome,
                reason,
                started_at,
                outputs,
                is_charged,
            )
        )

    def stop(
        self,
        attempt: Attempt,
        outcome: Outcome,
        reason: str,
        now: float,
        *,
        is_charged: bool = False,
    ) -> None:
        """End an attempt that its worker goes on with; what it still reports is dropped."""
        self.end(attempt, outcome, reason, is_charged=is_charged)
        attempt.is_cancelled = True
        if attempt.worker.is_doubted:
            self.suspect(attempt.worker, attempt.record)
        if attempt.number > self._last_sent:
            # It was started in this turn: the worker never receives it, and is free at once.
            self._withdraw({attempt.number})
            del attempt.worker.inflight[attempt.number]
            if not attempt.worker.inflight:
                self._end_busy(attempt.worker, now)
            self.came_back = True
        else:
            self.commands.append(CancelAttempt(attempt.worker.id, attempt.number))

    def _withdraw(self, numbers: set[AttemptNumber]) -> None:
        """Forget the starts of these attempts, where they were not sent yet."""
        self.commands = [
            c for c in self.commands if not (isinstance(c, StartAttempt) and c.attempt in numbers)
        ]

    def complete(
        self,
        attempt: Attempt,
        sequences: int | None,
        residues: int,
        duration: float,
        outputs: tuple[str, ...],
        now: float,
    ) -> None:
        """The attempt is the first to complete: its result is that of the file."""
        self.deliver(attempt, sequences, residues, duration, outputs, now)
        record = attempt.record
        self.finish_file(
            record.file, attempt, record.attempts, duration, sequences, residues, outputs
        )

    def finish_file(
        self,
        file: SequenceFile,
        attempt: Attempt,
        attempts: int,
        duration: float,
        sequences: int | None,
        residues: int,
        outputs: tuple[str, ...],
        parts: int = 0,
    ) -> None:
        """A whole file has its one result.

        Args:
            file: The file.
            attempt: What gave the result; the join, where the file was done in parts.
            attempts: Attempts at it, or at its parts, so far.
            duration: Seconds that the attempt took.
            sequences: In the file, None where that is not known.
            residues: In the file.
            outputs: Names of its outputs.
            parts: Of how many parts the results were joined, 0 where it was done whole.
        """
        worker_id, number = attempt.worker.id, attempt.number
        attempt.worker.counters.completed += 1
        self.completed_files += 1
        self.facts.append(
            FileCompleted(
                file, worker_id, number, attempts, duration, sequences, residues, outputs, parts
            )
        )
        if outputs:
            self.commands.append(KeepOutputs(worker_id, file, number, outputs))

    def deliver(
        self,
        attempt: Attempt,
        sequences: int | None,
        residues: int,
        duration: float,
        outputs: tuple[str, ...],
        now: float,
    ) -> None:
        """The attempt ends with the result of a file or a part, which counts for its worker."""
        worker, file = attempt.worker, attempt.record.file
        counters = worker.counters
        counters.sequences += attempt.sequences if sequences is None else sequences
        counters.durations.add(duration, file, now)
        counters.speculative_won += attempt.is_speculative
        worker.throughput.file_ended(now)
        longest = 0.8 * worker.longest_recent
        worker.longest_recent = max(longest, duration)
        if worker.troubles:
            worker.troubles.clear()
        self.residues_total += residues - file.residues
        self.residues_done += residues
        self.win(attempt, outputs, now)

    def win(self, attempt: Attempt, outputs: tuple[str, ...], now: float) -> None:
        """The attempt ends with the result of its record; another at it is stopped."""
        worker, record = attempt.worker, attempt.record
        self.end(attempt, _COMPLETED, outputs=outputs)
        for other in record.holders:
            if other.worker.stalled_since is not None or other.is_quiet(now):
                self.doubt(other.worker)
            self.stop(other, Outcome.SUPERSEDED, f"{worker.id} was first", now)
        record.step(_COMPLETE)
        self.count_processing(record, -1)

    def give_up(self, attempt: Attempt, error: str, now: float) -> None:
        """The attempt was the last that its file or part may fail."""
        record = attempt.record
        for other in record.holders:
            self.stop(other, Outcome.SUPERSEDED, f"the file is given up: {error}", now)
        record.step(Step.GIVE_UP)
        self.count_processing(record, -1)
        self.residues_total -= record.file.residues

    def fail(self, file: SequenceFile, attempt: Attempt, error: str) -> None:
        """The file is given up, after this attempt at it or at a part of it."""
        self.failed_files += 1
        self.failures.append((file.path, error))
        record = attempt.record
        self.facts.append(
            FileFailed(
                file,
                attempt.worker.id,
                record.attempts,
                record.failures,
                self.settings.max_attempts,
                error,
            )
        )

    def requeue(
        self,
        attempt: Attempt,
        cause: Outcome,
        reason: str,
        target: Worker,
        now: float,
        *,
        is_charged: bool,
    ) -> None:
        """Put a file that no worker holds any more into a queue.

        Args:
            attempt: Its last attempt, which has ended.
            cause: How that ended.
            reason: Why.
            target: Whose queue.
            now: The present time.
            is_charged: It counted against the limit.
        """
        record, worker = attempt.record, attempt.worker
        record.step(Step.REQUEUE)
        self.count_processing(record, -1)
        self.retries += is_charged
        if cause is _MOVED:
            record.moves += 1
            record.notes = (*record.notes, f"moved from {worker.id}: {reason}")
        self._forgive(record)
        self.enqueue(record, target, now)
        self.came_back = True
        self.facts.append(
            FileQueued(
                record.file, target.id, cause, reason, worker.id, record.attempts, is_charged
            )
        )

    # -- speculative attempts that are wanted at once --

    def urge(self, attempt: Attempt) -> None:
        """Request a speculative attempt at the attempt's file as soon as a worker is free."""
        if attempt not in self.urgent:
            self.urgent.append(attempt)

    def calm(self) -> None:
        """Forget what was critical, to judge it anew; a stall keeps its attempt urgent."""
        self.urgent = [a for a in self.urgent if a.worker.stalled_since is not None]

    def still_urgent(self) -> list[Attempt]:
        """The attempts whose files still want one."""
        self.urgent = [a for a in self.urgent if a.record.holders == (a,)]
        return self.urgent

    # -- the run --

    def hold(self) -> None:
        """Start no file for the moment."""
        self.is_held = True

    def release(self, now: float) -> None:
        """Start files again; what waited meanwhile did not stall."""
        self.is_held = False
        for worker in self.fleet:
            if worker.queue and not worker.inflight:
                worker.touched_at = max(worker.touched_at, now)
        self.look_by(now)
        self.came_back = True

    def drain(self, now: float) -> None:
        """Finish the files in process, start no more."""
        self.is_draining = True
        self.waiting.close(now)
        self.finish_if_done(now)

    def reopen(self) -> None:
        """There is more to do."""
        self.is_finished = False
        self.finished_at = None

    def reopen_if_stuck(self, now: float) -> None:
        """Go on with a run that had ended with files left, because no worker could do them."""
        is_more = self.waiting.files or self.awaited_files
        if self.is_finished and is_more and not self.is_draining:
            self.reopen()
            self.waiting.count(0, now)

    def finish_if_done(self, now: float) -> None:
        """End the run if no file is left to do, or none may or can be done any more."""
        if self.is_finished or self.processing:
            return
        stuck = all(w.is_retired for w in self.fleet)
        is_more = self.waiting.files or self.awaited_files
        if is_more and not self.is_draining and not stuck:
            return
        self.is_finished = True
        self.finished_at = now
        self.waiting.stop(now)
        self.facts.append(RunFinished())


def _take(worker: Worker, position: int) -> FileRecord:
    """Take the file at a position out of a queue."""
    record = worker.queue[position]
    del worker.queue[position]
    worker.queued_residues -= record.file.residues
    return record
