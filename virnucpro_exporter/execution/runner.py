"""The run loop: events of the workers to the coordinator, its commands to them, facts on record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.journal.schema import Change, Committed
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.facts import Fact, RunFinished, WorkerRetired
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.workers.pool import WorkerPool

log = logging.getLogger(__name__)

# The loop looks around at least this often, in seconds, so that a reader never sees an old state.
_LONGEST_WAIT = 0.5

# How long the workers have starved is written down this often, in seconds.
_NOTE_EVERY = 10.0


class Results(Protocol):
    """Keeps what attempts write: the outputs of those that win."""

    def claim(self, name: str, path: str) -> str | None:
        """Reserve an output's name for an input; why it cannot have it, or None."""

    def commit(self, attempt: int, names: Iterable[str]) -> None:
        """Keep an attempt's outputs."""

    def discard(self, attempt: int) -> None:
        """Remove what an attempt wrote."""


class Runner:
    """Runs submitted files to the end.

    Args:
        coordinator: Decides.
        pool: Carries out.
        gpus: The workers to start.
        outputs: Where results go.
        journal: Where it is written down, or None.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        coordinator: WorkStealingCoordinator,
        pool: WorkerPool,
        gpus: Sequence[str],
        outputs: Results,
        journal: Journal | None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._coordinator = coordinator
        self._pool = pool
        self._to_spawn = gpus
        self._outputs = outputs
        self._journal = journal
        self._wall_clock = wall_clock
        self._noted_at = wall_clock()
        self._committed: list[Change] = []  # since the journal was last written
        self._is_finished = False
        self._drain = False
        self._stop = False
        self.last_loss = ""  # why the last worker was given up

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

    def run(self, files: Sequence[SequenceFile]) -> None:
        """Process the files; may be called again with more, for the same workers.

        Raises:
            JournalError: The journal cannot be written; what was finished before is safe.
            OutputError: A result cannot be moved to its place.
        """
        self._is_finished = False
        self._turn([ev.FilesSubmitted(tuple(files))])
        for gpu in self._to_spawn:
            self._pool.spawn(gpu)
        self._to_spawn = ()
        self._note_workers()
        is_draining = False
        while not (self._is_finished or self._stop):
            wait = self._coordinator.seconds_to_deadline()
            events = self._pool.poll(_LONGEST_WAIT if wait is None else min(wait, _LONGEST_WAIT))
            if self._drain and not is_draining:
                is_draining = True
                self._pool.drain()
                events.append(ev.DrainRequested())
            self._turn(events)
            self._note_workers(_NOTE_EVERY)
        self._record([])
        self._note_workers()

    def _note_workers(self, every: float = 0.0) -> None:
        now = self._wall_clock()
        if self._journal is not None and not 0 <= now - self._noted_at < every:
            self._noted_at = now
            self._journal.note_workers(self._coordinator.snapshot(), now)

    def _turn(self, events: Sequence[ev.Event]) -> None:
        self._coordinator.beat()
        decisions = self._coordinator.handle([self._checked(event) for event in events])
        # Files go out first, so that no worker waits for the disk.
        self._carry_out(decisions.commands)
        self._record(decisions.facts)
        for command in decisions.commands:
            if isinstance(command, co.KeepOutputs):
                self._outputs.commit(command.attempt, command.outputs)
                self._committed.append(Committed(command.file.path))
            elif isinstance(command, co.DiscardOutputs):
                self._outputs.discard(command.attempt)
        for fact in decisions.facts:
            if isinstance(fact, WorkerRetired):
                self.last_loss = fact.reason
            elif isinstance(fact, RunFinished):
                self._is_finished = True
        for event in events:
            if isinstance(event, ev.WorkerJoined):
                self._pool.spawn(event.worker_id)

    def _checked(self, event: ev.Event) -> ev.Event:
        """A result whose outputs would replace what is no earlier result of its input fails."""
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

    def _carry_out(self, commands: Sequence[co.Command]) -> None:
        """Tell the workers; what concerns outputs comes when it is on record."""
        batches: dict[str, list[co.StartAttempt]] = {}
        for command in commands:
            match command:
                case co.StartAttempt():
                    batches.setdefault(command.worker_id, []).append(command)
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
        for worker_id, batch in batches.items():
            self._pool.start(worker_id, batch)

    def _record(self, facts: Sequence[Fact]) -> None:
        changes = [*self._committed, *facts]
        self._committed = []
        if self._journal is not None and changes:
            now = self._wall_clock()
            self._journal.record(changes, now, offset=now - self._coordinator.now())


def stamped(file: SequenceFile, known: tuple[int | None, int] | None) -> SequenceFile:
    """The file with the exact counts that an earlier run found, where it did."""
    return file if known is None else SequenceFile(file.path, known[0], known[1])
