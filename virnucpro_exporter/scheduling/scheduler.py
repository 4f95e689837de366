"""The scheduler: which worker does which file next.

Theory of operation
-------------------
The scheduler is a state machine. `handle(event, now)` takes one thing that happened, `turn`
several at once; both return commands (what is to be done about it) and facts (what happened, with
its reasons). `next_deadline()` returns when it must receive `TimePassed` at the latest. It reads no
clock, starts no thread and touches no file, so every decision can be replayed.

Each worker has a queue, filled at the start by weighted longest-processing-time-first. A worker
that is ready is handed the first file of its queue. When its queue is empty, the policy looks for a
file to steal, and when no file waits anywhere, for a running file that is worth a speculative
attempt. A worker that gets nothing waits; it is looked at again when a file comes back or a
deadline passes.

A worker holds one file at a time, except where files are so short that the way to the worker and
back would cost more than they do: then it is handed as many as it does in about 50 ms.

A file has one result. Every attempt has a number; the first attempt to complete wins and the others
are cancelled. Whatever arrives for an attempt that is no longer current is dropped and counted.

The parts, each on top of those before it:

- `files`, `workers`, `counters`, `speed`: what is remembered of each;
- `state`: the run, and every way in which it changes;
- `splitting`: the same for files that are done in parts;
- `attempts`: how they end; `supervision`: stalls, limits, and processes that are lost or of no use;
- `rebalancing`: files in process that would end late, and a better plan where there is one;
- `dispatch`: handing out files. Both do what the `policy` chooses;
- this module: which event concerns which part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from virnucpro_exporter.errors import SchedulingError, assert_never
from virnucpro_exporter.scheduling import attempts, splitting
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.assignment import assign_files_weighted
from virnucpro_exporter.scheduling.commands import Command
from virnucpro_exporter.scheduling.dispatch import Dispatcher
from virnucpro_exporter.scheduling.facts import Fact, Outcome
from virnucpro_exporter.scheduling.files import Attempt, SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.message import message
from virnucpro_exporter.scheduling.policy import EarliestFinish, StealPolicy
from virnucpro_exporter.scheduling.rebalancing import Rebalancing
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.speed import NEVER
from virnucpro_exporter.scheduling.state import State
from virnucpro_exporter.scheduling.supervision import Supervision


@message
class Decisions:
    """What came of one turn.

    Attributes:
        commands: What is to be done, in this order.
        facts: What happened, in the order in which it was decided.
    """

    commands: list[Command]
    facts: list[Fact]


# After a drain a worker ends a range at the next record, unless it is done within this time, in
# seconds.
DRAIN_SECONDS = 5.0


class Scheduler:
    """Decides; see the module's theory of operation.

    Args:
        weights: Declared speed of each worker, by its id, in the order in which they are shown.
        names: Model names of the devices, where known.
        settings: Limits and choices.
        policy: Who steals what.
        first_attempt: Number of the first attempt; a resumed run goes on counting.
        now: The time at which the workers are started.

    Attributes:
        state: The state of the run, to be read.
        policy: Who steals what.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        names: Mapping[str, str] | None = None,
        settings: SchedulerSettings | None = None,
        policy: StealPolicy | None = None,
        first_attempt: int = 1,
        now: float = 0.0,
    ) -> None:
        self.state = state = State(settings or SchedulerSettings(), first_attempt)
        self.policy = policy = policy or EarliestFinish()
        self._supervision = Supervision(state)
        self._rebalancing = Rebalancing(state, policy)
        self._dispatcher = Dispatcher(state, policy)
        for worker_id, weight in weights.items():
            state.add_worker(WorkerId(worker_id), (names or {}).get(worker_id, ""), weight, now)

    def handle(self, event: ev.Event, now: float) -> Decisions:
        """Take in one event.

        Args:
            event: What happened.
            now: When, in seconds on any clock that never goes back.

        Raises:
            SchedulingError: The event cannot have happened.
        """
        self.state.begin_turn()
        self._take_in(event, now)
        return Decisions(self.state.commands, self.state.facts)

    def turn(self, events: Iterable[ev.Event], now: float) -> Decisions:
        """Take in all that happened since the last turn, and a deadline if one has passed.

        The commands of a turn are sent together, so a file that starts because of one event and is
        not wanted any more because of a later one is never sent at all.

        Raises:
            SchedulingError: An event cannot have happened.
        """
        self.state.begin_turn()
        for event in events:
            self._take_in(event, now)
        deadline = self.next_deadline()
        if deadline is not None and deadline <= now:
            self._take_in(ev.TimePassed(), now)
        return Decisions(self.state.commands, self.state.facts)

    def next_deadline(self) -> float | None:
        """When to call with `TimePassed` at the latest, or None while nothing is awaited."""
        state = self.state
        soonest = min(state.next_look, state.next_rethink, state.next_review)
        return None if state.is_finished or soonest == NEVER else soonest

    @property
    def is_finished(self) -> bool:
        """Whether no file is left to do, or (after a drain) in process."""
        return self.state.is_finished

    def story(self, file: SequenceFile) -> str:
        """What happened to a file so far, in one line."""
        record = self.state.files.get(file.path)
        return f"{file.path} was never submitted" if record is None else record.story()

    def file_of(self, worker_id: WorkerId, attempt: AttemptNumber) -> SequenceFile | None:
        """The file of an attempt whose result is wanted, or None when it is over.

        Raises:
            SchedulingError: There is no such worker.
        """
        held = self.state.worker(worker_id).inflight.get(attempt)
        return None if held is None or held.is_cancelled else held.record.file

    def _take_in(self, event: ev.Event, now: float) -> None:  # noqa: C901, PLR0912 - one line for each kind of event
        match event:
            case ev.AttemptCompleted():
                self._on_completed(event, now)
            case ev.Progress():
                self._on_progress(event, now)
            case ev.AttemptShrunk():
                self._on_shrunk(event, now)
            case ev.SignOfLife():
                self._on_sign_of_life(event, now)
            case ev.MemoryShort(worker_id, times):
                self.state.note_shortage(self.state.worker(worker_id), times)
            case ev.AttemptStarted():
                self._on_started(event, now)
            case ev.AttemptFailed():
                self._on_failed(event, now)
            case ev.TimePassed():
                self._on_time(now)
            case ev.WorkRequested():
                self._on_requested(event, now)
            case ev.FilesSubmitted():
                self._on_submitted(event, now)
            case ev.WorkerLoading():
                self.state.load(self.state.worker(event.worker_id), now)
            case ev.WorkerReady():
                self._on_ready(event, now)
            case ev.WorkerLost():
                self._supervision.lost(self.state.worker(event.worker_id), event, now)
            case ev.WorkerJoined():
                self._on_joined(event, now)
            case ev.WorkerLeaving():
                self._on_leaving(event, now)
            case ev.WorkHeld():
                self.state.hold()
            case ev.WorkReleased():
                self.state.release(now)
            case ev.DrainRequested():
                self._on_drain(now)
            case _:
                assert_never(event)
        if self.state.came_back:
            self.state.end_event()
            self._dispatcher.feed_waiting(now)

    # -- files and workers that come --

    def _on_submitted(self, event: ev.FilesSubmitted, now: float) -> None:
        state = self.state
        state.skip(event.skipped)
        state.expect_files(event.awaited)
        new = {file.path: file for file in event.files if file.path not in state.files}
        usable = state.usable() or state.fleet
        for begun in event.begun:
            if begun.file.path not in state.files:
                target = min(usable, key=lambda w: w.finish_at(now))
                splitting.resume(state, begun, target, now)
        weights = {str(w.id): w.speed for w in usable}
        loads = {str(w.id): float(w.queued_residues) for w in usable}
        for worker_id, files in assign_files_weighted(new.values(), weights, loads).items():
            state.submit(state.worker(WorkerId(worker_id)), files, now)
        self._dispatcher.feed_waiting(now)
        state.finish_if_done(now)

    def _on_joined(self, event: ev.WorkerJoined, now: float) -> None:
        state = self.state
        known = state.workers.get(event.worker_id)
        if known is None:
            known = state.add_worker(event.worker_id, event.name, event.weight, now)
        elif known.is_retired:
            state.come_back(known, now)
        else:
            raise SchedulingError(f"worker {event.worker_id} is there already")
        state.reopen_if_stuck(now)
        state.expect(known)

    def _on_leaving(self, event: ev.WorkerLeaving, now: float) -> None:
        worker = self.state.worker(event.worker_id)
        if worker.is_retired or worker.is_leaving:
            return
        for attempt in worker.running if self.state.settings.split else ():
            self._ask_to_end(attempt, now)
        self.state.leave(worker, now)

    def _on_ready(self, event: ev.WorkerReady, now: float) -> None:
        worker = self.state.worker(event.worker_id)
        self.state.come_up(worker, now, can_split=event.can_split, cuts_first=event.cuts_first)
        self._dispatcher.feed(worker, now)

    def _on_requested(self, event: ev.WorkRequested, now: float) -> None:
        worker = self.state.worker(event.worker_id)
        self.state.attend(worker)
        self._dispatcher.ask(worker, now)

    # -- attempts --

    def _on_started(self, event: ev.AttemptStarted, now: float) -> None:
        attempt = self.state.worker(event.worker_id).inflight.get(event.attempt)
        if attempt is not None and not attempt.is_cancelled:
            self.state.begin(attempt, now)

    def _on_progress(self, event: ev.Progress, now: float) -> None:
        attempt = self.state.worker(event.worker_id).inflight.get(event.attempt)
        if attempt is None or attempt.is_cancelled:
            return
        residues = event.residues
        if residues is None:
            residues = self.state.residues_of(attempt.record.file, event.sequences)
        self.state.report(attempt, event.sequences, residues, now)
        splitting.end_part_in_time(self.state, attempt, now)
        self._rebalancing.news(now)
        is_to_end = self.state.is_draining or attempt.worker.is_leaving
        if is_to_end and attempt.asked_at is None:  # the request may have come too early
            self._ask_to_end(attempt, now)

    def _on_shrunk(self, event: ev.AttemptShrunk, now: float) -> None:
        attempt = self.state.worker(event.worker_id).inflight.get(event.attempt)
        if attempt is None or attempt.is_cancelled:
            return
        if event.cut is None:
            splitting.keep_all(attempt, for_good=event.is_final)
        else:
            attempts.shrink(self.state, attempt, event.cut, now)

    def _on_drain(self, now: float) -> None:
        """Finish what is in process; of a range that lasts, what is done by now."""
        for worker in self.state.fleet if self.state.settings.split else ():
            for attempt in worker.running:
                self._ask_to_end(attempt, now)
        self.state.drain(now)

    def _ask_to_end(self, attempt: Attempt, now: float) -> None:
        """Ask for all that is not read yet of a range, if it would last."""
        if attempt.can_shrink and attempt.remaining(now) > DRAIN_SECONDS:
            splitting.ask_for_share(self.state, attempt, 1.0, None, now)

    def _on_sign_of_life(self, event: ev.SignOfLife, now: float) -> None:
        worker = self.state.worker(event.worker_id)
        if event.attempt in worker.inflight:
            self._supervision.lives(worker, now)

    def _on_completed(self, event: ev.AttemptCompleted, now: float) -> None:
        state = self.state
        worker = state.worker(event.worker_id)
        attempt = state.hand_back(worker, event.attempt)
        if attempt is None or attempt.is_cancelled:
            state.drop_late(event.attempt, has_outputs=bool(event.outputs))
        else:
            longest_silence = state.longest_silence
            attempts.succeed(state, attempt, event, now)
            if state.longest_silence > longest_silence:
                self._supervision.reconsider(now)
            self._rebalancing.news(now)
        self._dispatcher.released(worker, now)

    def _on_failed(self, event: ev.AttemptFailed, now: float) -> None:
        state = self.state
        worker = state.worker(event.worker_id)
        attempt = state.hand_back(worker, event.attempt)
        if attempt is None:
            state.drop_late(event.attempt, has_outputs=True)
            return
        state.discard(event.attempt)
        if not attempt.is_cancelled and event.storage:
            state.touch(worker, now)
            attempts.excuse(state, attempt, event.error, now)
        elif not attempt.is_cancelled:
            state.touch(worker, now)
            outcome, is_permanent = Outcome.FAILED, event.permanent
            attempts.fail(state, attempt, outcome, event.error, now, permanent=is_permanent)
            if not event.permanent:
                self._supervision.doubt(worker, attempt, event.error, now)
        self._dispatcher.released(worker, now)

    # -- time --

    def _on_time(self, now: float) -> None:
        state = self.state
        if now >= state.next_look:
            self._supervision.look(now)
        if now >= state.next_review:
            self._rebalancing.look(now)
        if now >= state.next_rethink:
            self._dispatcher.feed_waiting(now)
