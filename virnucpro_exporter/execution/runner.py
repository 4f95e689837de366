"""The run loop: events of the workers to the coordinator, its actions to workers and journal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.journal.attempts import OpenAttempts
from virnucpro_exporter.journal.schema import Change, Committed, Committing
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.workers.pool import WorkerPool

log = logging.getLogger(__name__)

# The loop looks around at least this often, in seconds, so that a reader never sees an old state.
_LONGEST_WAIT = 0.5

# How long the workers have starved is written down this often, in seconds.
_NOTE_EVERY = 10.0

_JOURNALED = (
    ev.StartAttempt,
    ev.FileRetried,
    ev.FileFailed,
    ev.FileStolen,
    ev.StallStarted,
    ev.StallEnded,
)


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
        self._paths: dict[int, str] = {}  # of the attempts in process
        self._open = OpenAttempts()
        self._noted_at = wall_clock()
        self._names: dict[int, tuple[str, ...]] = {}  # left by attempts that completed
        self._committed: list[Change] = []
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
        actions = self._coordinator.handle([self._checked(event) for event in events])
        results = [a for a in actions if isinstance(a, ev.FileCompleted)]
        # Files go out first, so that no worker waits for the disk.
        self._carry_out(actions)
        wasted = self._open.see(events, actions, self._wall_clock())
        changes = [a for a in actions if isinstance(a, _JOURNALED)]
        self._record([*self._committing(results), *wasted, *changes])
        for result in results:
            self._commit(result)
        for event in events:
            self._clear(event)
            if isinstance(event, ev.WorkerJoined):
                self._pool.spawn(event.gpu)

    def _checked(self, event: ev.Event) -> ev.Event:
        """A result whose outputs would replace what is no earlier result of its input fails."""
        if not isinstance(event, ev.AttemptCompleted):
            return event
        path = self._paths.get(event.attempt)
        if path is None:
            return event
        for name in event.outputs:
            why = self._outputs.claim(name, path)
            if why is None and self._journal is not None:
                why = self._journal.refusal(name, path)
            if why is not None:
                return ev.AttemptFailed(event.gpu, event.attempt, why, permanent=True)
        self._names[event.attempt] = event.outputs
        return event

    def _carry_out(self, actions: Sequence[ev.Action]) -> None:
        batches: dict[str, list[ev.StartAttempt]] = {}
        for action in actions:
            if isinstance(action, ev.StartAttempt):
                self._paths[action.attempt] = action.file.path
                batches.setdefault(action.gpu, []).append(action)
            elif isinstance(action, ev.CancelAttempt):
                self._pool.cancel(action.gpu, action.attempt)
            elif isinstance(action, ev.RestartWorker):
                batches.pop(action.gpu, None)
                self._pool.kill(action.gpu)
                self._pool.spawn(action.gpu)
            elif isinstance(action, ev.RetireWorker):
                batches.pop(action.gpu, None)
                self.last_loss = action.reason
                self._pool.kill(action.gpu)
            elif isinstance(action, ev.RunFinished):
                self._is_finished = True
        for gpu, batch in batches.items():
            self._pool.start(gpu, batch)

    def _committing(self, results: Sequence[ev.FileCompleted]) -> list[Change]:
        return [Committing(result, self._names[result.attempt]) for result in results]

    def _record(self, changes: Sequence[Change]) -> None:
        changes = [*self._committed, *changes]
        self._committed = []
        if self._journal is not None and changes:
            self._journal.record(changes, self._wall_clock())

    def _commit(self, result: ev.FileCompleted) -> None:
        names = self._names.pop(result.attempt)
        if names:
            self._outputs.commit(result.attempt, names)
        if self._journal is not None:
            self._committed.append(Committed(result.file.path))

    def _clear(self, event: ev.Event) -> None:
        """Forget an attempt that ended, and remove what it left if it was not the winner."""
        if isinstance(event, ev.AttemptCompleted | ev.AttemptFailed):
            self._paths.pop(event.attempt, None)
            lost = self._names.pop(event.attempt, None)
            if isinstance(event, ev.AttemptFailed) or lost:
                self._outputs.discard(event.attempt)


def stamped(file: SequenceFile, known: tuple[int | None, int] | None) -> SequenceFile:
    """The file with the exact counts that an earlier run found, where it did."""
    return file if known is None else replace(file, sequences=known[0], residues=known[1])
