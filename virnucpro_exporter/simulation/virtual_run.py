"""A whole run in virtual time, as fast as it can be computed: for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.facts import Fact, FileCompleted, FileFailed, PartCompleted
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.scheduler import Decisions
from virnucpro_exporter.simulation.workers import VirtualGpu, VirtualWorkers


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a simulated run.

    Attributes:
        makespan: Seconds from the start until the last file had its result.
        completed: How often each file was given as completed, by path.
        failed: Paths of the files given up.
        events: How many events the scheduler handled.
        kills: How often a running attempt was stopped.
        wasted_share: Share of the time in which workers had files that went into attempts without a
            result.
    """

    makespan: float
    completed: Mapping[str, int]
    failed: tuple[str, ...]
    events: int
    kills: int
    wasted_share: float


class Decides(Protocol):
    """What decides about a run: the scheduler, or a peer of it."""

    @property
    def is_finished(self) -> bool:
        """Whether no file is left to do."""

    def handle(self, event: ev.Event, now: float) -> Decisions:
        """Process one event; returns what is to be done and what happened."""

    def next_deadline(self) -> float | None:
        """When to call with `TimePassed` at the latest."""


class VirtualRun:
    """Carries out the commands of a scheduler on virtual GPUs.

    Args:
        scheduler: The real thing, or a peer of it.
        gpus: The virtual GPUs, by id.
        work: Residues that each file really holds, by path; its declared cost may be wrong.
        progress_every: Seconds between progress reports within a file.
        workers: What the GPUs do, where more is to be specified.
    """

    def __init__(
        self,
        scheduler: Decides,
        gpus: Mapping[str, VirtualGpu],
        work: Mapping[str, int],
        progress_every: float = 10.0,
        workers: VirtualWorkers | None = None,
    ) -> None:
        self.scheduler = scheduler
        self._gpus = gpus
        self._workers = workers or VirtualWorkers(gpus, progress_every)
        self._workers.add(work, {})
        self._completed: dict[str, int] = {}
        self._failed: list[str] = []
        self._events = self._kills = 0
        # The attempts in process: where, and since when.
        self._begun: dict[AttemptNumber, tuple[str, float]] = {}
        self._wasted = self._used = 0.0

    def run(
        self,
        files: Sequence[SequenceFile],
        limit: float = 1e9,
        at_start: Sequence[str] | None = None,
    ) -> Outcome:
        """Run all files to the end.

        Args:
            files: What is to be done.
            limit: Virtual seconds.
            at_start: The GPUs that are there from the start, where that is not all of them; the
                others join as set by `VirtualWorkers.announce`.

        Raises:
            RuntimeError: The run did not end within `limit` virtual seconds.
        """
        self._deliver(ev.FilesSubmitted(tuple(files)))
        for gpu in self._gpus if at_start is None else at_start:
            self._workers.spawn(WorkerId(gpu))
        while not self.scheduler.is_finished:
            self._turn()
            if self._workers.now > limit:
                raise RuntimeError(f"the run did not end within {limit:g} virtual seconds")
        return Outcome(
            self._workers.now,
            self._completed,
            tuple(self._failed),
            self._events,
            self._kills,
            self._wasted / max(self._used + self._wasted, 1e-9),
        )

    def _turn(self) -> None:
        workers = self._workers
        deadline = self.scheduler.next_deadline()
        if deadline is not None and deadline < workers.next_at():
            workers.now = max(workers.now, deadline)
            self._deliver(ev.TimePassed())
            return
        event = workers.pop()
        if event is not None:
            self._deliver(event)

    def _deliver(self, event: ev.Event) -> None:
        self._events += 1
        if isinstance(event, ev.WorkerLost):
            self._lose_all(event.worker_id)
        elif isinstance(event, ev.AttemptFailed):
            self._lose(event.attempt)
        decisions = self.scheduler.handle(event, self._workers.now)
        for command in decisions.commands:
            self._carry_out(command)
        for fact in decisions.facts:
            self._note(fact)
        if isinstance(event, ev.WorkerJoined):
            self._workers.spawn(event.worker_id)

    def _lose_all(self, worker_id: WorkerId) -> int:
        """The worker's process is gone, and what it had done of its files."""
        lost = [number for number, (where, _) in self._begun.items() if where == worker_id]
        for number in lost:
            self._lose(number)
        return len(lost)

    def _lose(self, attempt: AttemptNumber) -> None:
        _, since = self._begun.pop(attempt, ("", self._workers.now))
        self._wasted += self._workers.now - since

    def _carry_out(self, command: co.Command) -> None:
        workers = self._workers
        match command:
            case co.StartAttempt():
                self._begun[command.attempt] = (command.worker_id, workers.now)
                workers.start(command)
            case co.ShrinkAttempt():
                workers.shrink(command)
            case co.CancelAttempt():
                self._kills += self._lose_all(command.worker_id)
                workers.cancel(command.worker_id)
            case co.RestartWorker():
                self._kills += self._lose_all(command.worker_id)
                workers.kill(command.worker_id)
                workers.spawn(command.worker_id)
            case co.RetireWorker():
                workers.kill(command.worker_id)
            case co.KeepOutputs() | co.DiscardOutputs():
                pass  # virtual workers write nothing
            case _:
                assert_never(command)

    def _note(self, fact: Fact) -> None:
        if isinstance(fact, PartCompleted):
            self._used += self._workers.now - self._begun.pop(fact.attempt)[1]
        elif isinstance(fact, FileCompleted):
            path = fact.file.path
            self._used += self._workers.now - self._begun.pop(fact.attempt)[1]
            self._completed[path] = self._completed.get(path, 0) + 1
        elif isinstance(fact, FileFailed):
            self._failed.append(fact.file.path)


def lower_bound(work: Mapping[str, int], speeds: Sequence[float]) -> float:
    """Seconds below which no schedule can end: all work on all GPUs, or one file on the fastest."""
    return max(sum(work.values()) / sum(speeds), max(work.values()) / max(speeds))
