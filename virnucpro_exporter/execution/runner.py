"""The run loop: passes events to the coordinator, commands to workers, and facts to the journal."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from virnucpro_exporter.errors import JournalError, OutputError, assert_never
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.halting import Halting, HaltRule
from virnucpro_exporter.execution.moving import HandedOver, Move, Movers
from virnucpro_exporter.execution.storage import Storage, is_trouble
from virnucpro_exporter.journal.schema import Change, Committed
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.facts import (
    FileCompleted,
    FileFailed,
    PartCompleted,
    RunFinished,
    WorkerRetired,
)
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.workers.pool import WorkerPool

log = logging.getLogger(__name__)

# The loop looks around at least this often, in seconds, so that a reader never sees an old state.
_LONGEST_WAIT = 0.5

# How long the workers have starved is written to the journal this often, in seconds.
_NOTE_EVERY = 10.0

# The pool is notified this often, in seconds, how many more workers would have a file to do.
_WANT_EVERY = 0.5

# A turn that took so much longer than it was to, in seconds, was held up: the program was paused
# (Ctrl-Z, a suspended machine), or something that it wrote had to wait.
_LATE_SECONDS = 0.5

# After that so many looks take in what has been waiting.
_LOOKS = 100

# Very short files end by the dozen. Where so many changes have come together they wait for more,
# for so many seconds at most: one transaction for many turns costs a fraction of one for each. What
# a killed run loses of it is done again.
_MANY_CHANGES = 16
_GROUP_SECONDS = 0.05


# The facts that the loop itself handles.
_NOTED = (FileCompleted, PartCompleted, FileFailed, WorkerRetired, RunFinished)


class Results(Protocol):
    """Keeps what attempts write: the outputs of those that win."""

    def claim(self, name: str, path: str) -> str | None:
        """Reserve an output's name for an input; why it cannot have it, or None."""

    def provide(self, attempt: int) -> None:
        """Prepare for an attempt that is about to start."""

    def commit(self, attempt: int, names: Iterable[str]) -> None:
        """Keep an attempt's outputs; nothing writes there any more."""

    def move(self, attempt: int, names: Iterable[str]) -> None:
        """Keep an attempt's outputs, which its worker may be about to move."""

    def keep(self, attempt: int) -> None:
        """Leave an attempt's outputs where they are until it is discarded."""

    def discard(self, attempt: int) -> None:
        """Remove what an attempt wrote."""

    def probe(self) -> None:
        """See whether anything can be written."""


class Feed(Protocol):
    """The files of a run, where they become known while it goes on."""

    @property
    def has_work(self) -> bool:
        """Whether a file that is to be done is known, so that workers are needed."""

    @property
    def awaited(self) -> int:
        """How many files `take` has not given yet."""

    def start(self, wake: Callable[[], None]) -> None:
        """Start to discover files; `wake` is called when there may be something to take."""

    def take(self) -> ev.FilesSubmitted | None:
        """The files discovered since the last call; None while it is better to wait.

        Raises:
            JournalError: The journal cannot be written now; nothing is lost.
        """

    def close(self) -> None:
        """Stop the discovery."""

    def leave(self) -> ev.FilesSubmitted | None:
        """The state of the files that `take` has not returned, none of which is to be started.

        Call it after `close`; None when there are no such files.
        """


@dataclass(frozen=True, slots=True)
class Terms:
    """How a run handles errors that no file has caused.

    Attributes:
        clock: Seconds that go on while the program is paused; None where it never is.
        patience: Seconds for which a disk that takes nothing is waited for.
        halt: Which failures end the run.
    """

    clock: Callable[[], float] | None = None
    patience: float = 60.0
    halt: HaltRule = field(default_factory=HaltRule)


class Runner:
    """Runs submitted files to the end.

    Args:
        coordinator: Makes the decisions.
        pool: Carries them out.
        gpus: The workers to start.
        outputs: Where results go.
        journal: The journal, or None.
        wall_clock: Unix seconds.
        terms: How errors are handled.
        movers: Workers that move the outputs of very short files themselves, or None.

    Attributes:
        last_loss: Why the last worker was given up.
        given_up: The workers that are given up, and why; nodes that left are none of them.
        halted: Which failures have ended the run; empty where none did.
        storage_failure: What trouble of the storage has ended the run; empty where none did.
    """

    def __init__(
        self,
        coordinator: WorkStealingCoordinator,
        pool: WorkerPool,
        gpus: Sequence[str],
        outputs: Results,
        journal: Journal | None,
        wall_clock: Callable[[], float] = time.time,
        terms: Terms | None = None,
        movers: Movers | None = None,
    ) -> None:
        terms = terms or Terms()
        self._coordinator = coordinator
        self._pool = pool
        self._to_spawn = gpus
        self._outputs = outputs
        self._journal = journal
        self._wall_clock = wall_clock
        self._noted_at = wall_clock()
        self._clock = terms.clock
        self._turned_at = 0.0  # when the last turn began, on that clock
        self._storage = Storage(terms.patience)
        self._halting = Halting(terms.halt)
        self._is_held = False  # as last sent to the scheduler
        self._changes: list[Change] = []  # not yet in the journal
        self._changed_at: float | None = None  # since when there are some, by the coordinator
        self._moves: deque[Move] = deque()  # not yet carried out
        self._handed = HandedOver(movers)
        self._late: deque[co.KeepOutputs] = deque()  # which workers have not moved in time
        self._files = 0
        self._awaited = 0  # files of which nothing is known yet
        self._feed: Feed | None = None
        self._results = 0
        self._left: set[str] = set()  # workers whose node has left
        self._is_finished = False
        self._drain = False
        self._stop = False
        self.last_loss = ""
        self.given_up: dict[str, str] = {}
        self.halted = ""
        self.storage_failure = ""

    def drain(self) -> None:
        """Finish the files in process and start no more; for signal handlers."""
        self._drain = True
        self._pool.wake()

    def stop(self) -> None:
        """End at once; for signal handlers."""
        self._stop = True
        self._pool.wake()

    @property
    def was_stopped(self) -> bool:
        """Whether it was ended at once."""
        return self._stop

    def run(self, files: Sequence[SequenceFile] = (), feed: Feed | None = None) -> None:
        """Process the files; may be called again with more, for the same workers.

        Args:
            files: The files known beforehand.
            feed: Returns more files while the run goes on.

        Raises:
            JournalError: The journal cannot be written; what was finished before is safe.
            OutputError: A result cannot be moved to its place.
        """
        self._is_finished = False
        self._feed = feed
        self._take_in(ev.FilesSubmitted(tuple(files), awaited=feed.awaited if feed else 0))
        if feed is None:
            self._spawn()
        with contextlib.ExitStack() as stack:
            if feed is not None:
                stack.callback(feed.close)
                feed.start(self._pool.wake)
            self._note_workers()
            self._loop()
        self._pool.want(0)
        left = None if self._feed is None else self._feed.leave()
        if left is not None:
            self._take_in(left)
        while not self._is_settled():
            time.sleep(_LONGEST_WAIT)
        self._note_workers()

    def _take_in(self, submitted: ev.FilesSubmitted) -> None:
        self._files += len(submitted.files)
        self._awaited = submitted.awaited
        self._turn([submitted])

    def _spawn(self) -> None:
        for worker_id in self._to_spawn:
            self._pool.spawn(WorkerId(worker_id))
        self._to_spawn = ()

    def _loop(self) -> None:
        if self._clock is not None:
            self._turned_at = self._clock()
        is_draining = False
        wanted_at = self._coordinator.now()
        while not (self._is_finished or self._stop):
            events: list[ev.Event] = [*self._poll()]
            if self._drain and not is_draining:
                is_draining = True
                self._pool.drain()
                events.append(ev.DrainRequested())
            self._turn(events)
            self._take_from_feed()
            self._note_workers(_NOTE_EVERY)
            if (now := self._coordinator.now()) >= wanted_at:
                wanted_at = now + _WANT_EVERY
                self._pool.want(self._coordinator.wanted_workers())

    def _take_from_feed(self) -> None:
        """Submit what became known; workers are started as soon as there is something to do.

        A run that drains starts none, but shows how many files wait.
        """
        feed = self._feed
        if feed is None or self._storage.is_held:
            return
        if feed.has_work and not self._drain:
            self._spawn()
        try:
            submitted = feed.take()
        except JournalError as error:
            self._hold_or_raise(error)
            return
        if submitted is not None:
            self._take_in(submitted)
            if not submitted.awaited:
                self._feed = None

    def _poll(self) -> list[ev.WorkerEvent]:
        """What happened. After a pause all that was waiting is read before a deadline counts."""
        deadline = self._coordinator.seconds_to_deadline()
        wait = _LONGEST_WAIT if deadline is None else min(deadline, _LONGEST_WAIT)
        if self._changed_at is not None and not self._storage.is_held:
            until_due = self._changed_at + _GROUP_SECONDS - self._coordinator.now()
            wait = max(0.0, min(wait, until_due))
        due_at = self._handed.due_at()
        if due_at is not None and not self._storage.is_held:
            wait = max(0.0, min(wait, due_at - self._coordinator.now()))
        events = self._pool.poll(wait)
        if self._clock is None:
            return events
        late = self._clock() - self._turned_at - wait
        if late > _LATE_SECONDS:
            for _ in range(_LOOKS):
                if not (more := self._pool.poll(0)):
                    break
                events += more
            self._coordinator.excuse(late)
            log.info("the run was paused for %.1f s; every deadline is later by that", late)
        self._turned_at = self._clock()
        return events

    def _note_workers(self, every: float = 0.0) -> None:
        now = self._wall_clock()
        if self._journal is None or 0 <= now - self._noted_at < every or self._storage.is_held:
            return
        self._noted_at = now
        try:
            self._journal.note_workers(self._coordinator.snapshot(), now)
        except JournalError as error:
            self._hold_or_raise(error)

    def _turn(self, events: Sequence[ev.Event]) -> None:
        self._coordinator.beat()
        checked = [self._checked(event) for event in events]
        decisions = self._coordinator.handle([*self._storage_events(), *checked])
        # Files go out first, so that no worker waits for the disk.
        self._carry_out(decisions.commands)
        self._changes += decisions.facts
        self._note_moved()
        self._moves += [
            command
            for command in decisions.commands
            if isinstance(command, co.KeepOutputs | co.DiscardOutputs)
        ]
        if not self._storage.is_held and self._is_time_to_settle():
            self._settle()
        for fact in decisions.facts:
            if isinstance(fact, _NOTED):
                self._take_note(fact)
        for event in events:
            if isinstance(event, ev.WorkerJoined):
                self._left.discard(event.worker_id)
                self.given_up.pop(event.worker_id, None)
                self._pool.spawn(event.worker_id)
        if decisions.facts:
            self._judge_failures()

    def _take_note(
        self, fact: FileCompleted | PartCompleted | FileFailed | WorkerRetired | RunFinished
    ) -> None:
        if isinstance(fact, FileCompleted):
            self._results += 1
            self._halting.succeed()
            lasted = self._storage.succeed(self._coordinator.now())
            if lasted is not None:
                log.info("the disk is writable again after %.0f s", lasted)
        elif isinstance(fact, PartCompleted):
            self._outputs.keep(fact.attempt)
            self._results += 1
            self._halting.succeed()
        elif isinstance(fact, FileFailed):
            self._halting.give_up()
        elif isinstance(fact, WorkerRetired):
            self.last_loss = fact.reason
            if fact.worker_id not in self._left:
                self.given_up[fact.worker_id] = fact.reason
        else:
            self._is_finished = True

    def _judge_failures(self) -> None:
        """End the run where failures are enough."""
        if self.halted or not self._halting.has_failures:
            return
        workers = self._coordinator.count_workers() - len(self.given_up)
        reason = self._halting.verdict(self._files + self._awaited, workers)
        if reason:
            self.halted = reason
            log.error("%s; the run ends", reason)
            (self.stop if self._halting.rule.is_now else self.drain)()

    # -- the disk --

    def _storage_events(self) -> list[ev.Event]:
        """Events for the scheduler about the storage; a disk that is full is tried again."""
        storage, now = self._storage, self._coordinator.now()
        if storage.is_due(now):
            self._try_again(now)
        if storage.is_hopeless(now) and not self.storage_failure:
            self.storage_failure = storage.reason
            self.drain()
        if storage.is_held == self._is_held:
            return []
        self._is_held = storage.is_held
        return [ev.WorkHeld() if self._is_held else ev.WorkReleased()]

    def _try_again(self, now: float) -> None:
        try:
            self._settle_or_raise()
            self._outputs.probe()
        except (JournalError, OutputError) as error:
            self._hold_or_raise(error)
            self._storage.postpone(now)
        else:
            self._storage.release()

    def _hold(self, reason: str) -> None:
        if self._storage.hold(reason, self._coordinator.now()):
            log.warning(
                "%s: no file is started until that is over (for %g s at most: --storage-patience)",
                *(reason, self._storage.patience),
            )

    def _hold_or_raise(self, error: JournalError | OutputError) -> None:
        if not is_trouble(error):
            raise error
        self._hold(str(error))

    def _is_time_to_settle(self) -> bool:
        """Whether what was decided is to be written now, or together with more."""
        if len(self._changes) < _MANY_CHANGES:
            return True
        now = self._coordinator.now()
        if self._changed_at is None:
            self._changed_at = now
        return now >= self._changed_at + _GROUP_SECONDS

    def _settle(self) -> None:
        """Write decisions to the journal, then move outputs; what cannot be done now is kept."""
        now = self._coordinator.now()
        self._late += self._handed.take_back(now)
        try:
            self._record()
            self._handed.hand_over(self._moves, now)
            self._move_or_raise()
        except (JournalError, OutputError) as error:
            self._hold_or_raise(error)

    def _settle_or_raise(self) -> None:
        """The same, and wait for no worker."""
        self._note_moved()
        self._late += self._handed.take_back(float("inf"))
        self._record()
        self._move_or_raise()

    def _note_moved(self) -> None:
        self._changes += [Committed(move.file.path) for move in self._handed.done()]

    def _move_or_raise(self) -> None:
        while self._late:
            self._outputs.move(self._late[0].attempt, self._late[0].outputs)
            self._changes.append(Committed(self._late.popleft().file.path))
        while self._moves:
            move = self._moves[0]
            if isinstance(move, co.KeepOutputs):
                self._outputs.commit(move.attempt, move.outputs)
                self._changes.append(Committed(move.file.path))
            else:
                self._outputs.discard(move.attempt)
            self._moves.popleft()

    def _is_settled(self) -> bool:
        """Whether at the end all is written."""
        try:
            self._settle_or_raise()
            self._record()
        except (JournalError, OutputError) as error:
            self._hold_or_raise(error)
            if self._stop or self._storage.is_hopeless(self._coordinator.now()):
                raise
            return False
        return True

    def _checked(self, event: ev.Event) -> ev.Event:
        """A result whose outputs would replace what is no earlier result of its input fails."""
        if isinstance(event, ev.AttemptFailed):
            return self._blamed(event)
        if isinstance(event, ev.WorkerLost) and event.cause is ev.LossCause.LEFT_CLUSTER:
            self._left.add(event.worker_id)
        if not isinstance(event, ev.AttemptCompleted) or not event.outputs:
            return event
        file = self._coordinator.file_of(event.worker_id, event.attempt)
        if file is None:
            return event
        for name in event.outputs:
            why = self._outputs.claim(name, file.path)
            if why is None and self._journal is not None:
                why = self._journal.refusal(name, file.path)
            if why is not None:
                return ev.AttemptFailed(event.worker_id, event.attempt, why, permanent=True)
        return event

    def _blamed(self, event: ev.AttemptFailed) -> ev.AttemptFailed:
        """Whether the storage is at fault, or the file after all."""
        file = self._coordinator.file_of(event.worker_id, event.attempt)
        if file is None:
            return event
        if event.storage and not self._storage.is_fault_of(file.path, self._results):
            self._hold(event.error)
            return event
        if not event.permanent:
            self._halting.fail(file.path, event.worker_id, event.error)
        return replace(event, storage=False)

    def _carry_out(self, commands: Sequence[co.Command]) -> None:
        """Send commands to the workers; those about outputs follow once they are in the journal."""
        batches: dict[WorkerId, list[co.StartAttempt]] = {}
        shrinks: list[co.ShrinkAttempt] = []  # after the starts that they may concern
        for command in commands:
            match command:
                case co.StartAttempt():
                    self._outputs.provide(command.attempt)
                    batches.setdefault(command.worker_id, []).append(command)
                case co.ShrinkAttempt():
                    shrinks.append(command)
                case co.CancelAttempt():
                    self._pool.cancel(command.worker_id, command.attempt)
                case co.RestartWorker():
                    self._pool.kill(command.worker_id)
                    self._pool.spawn(command.worker_id)
                case co.RetireWorker():
                    self._pool.kill(command.worker_id)
                case co.KeepOutputs() | co.DiscardOutputs():
                    pass
                case _:
                    assert_never(command)
        self._reserve_attempts(batches)
        for worker_id, batch in batches.items():
            self._pool.start(worker_id, batch)
        for shrink in shrinks:
            self._pool.shrink(shrink)

    def _reserve_attempts(self, batches: Mapping[WorkerId, Sequence[co.StartAttempt]]) -> None:
        """Many starts may be on record only after they are made: keep their numbers before that.

        A worker that outlives the program for a moment must not share a folder with a later run.
        """
        numbers = [start.attempt for batch in batches.values() for start in batch]
        if self._journal is None or len(numbers) < _MANY_CHANGES:
            return
        try:
            self._journal.reserve_attempts(max(numbers))
        except JournalError as error:  # what is under way ends; no more is started
            self._hold_or_raise(error)

    def _record(self) -> None:
        if self._journal is not None and self._changes:
            now = self._wall_clock()
            self._journal.record(self._changes, now, offset=now - self._coordinator.now())
        self._changes = []
        self._changed_at = None
