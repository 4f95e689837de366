"""A whole run in virtual time, as fast as it can be computed: for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.simulation.workers import VirtualGpu, VirtualWorkers


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a simulated run.

    Attributes:
        makespan: Seconds from the start until the last file had its result.
        completed: How often each file was given as completed, by path.
        failed: Paths of the files given up.
        events: How many events the scheduler handled.
        second_attempts: How many attempts were second ones.
    """

    makespan: float
    completed: Mapping[str, int]
    failed: tuple[str, ...]
    events: int
    second_attempts: int


class VirtualRun:
    """Carries out the actions of a scheduler on virtual GPUs.

    Args:
        scheduler: The real thing.
        gpus: The virtual GPUs, by id.
        work: Residues that each file really holds, by path; its declared cost may be wrong.
        progress_every: Seconds between progress reports within a file.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        gpus: Mapping[str, VirtualGpu],
        work: Mapping[str, int],
        progress_every: float = 10.0,
    ) -> None:
        self.scheduler = scheduler
        self._gpus = gpus
        self._workers = VirtualWorkers(gpus, progress_every)
        self._workers.add(work, {})
        self._completed: dict[str, int] = {}
        self._failed: list[str] = []
        self._events = self._starts = 0

    def run(self, files: Sequence[SequenceFile], limit: float = 1e9) -> Outcome:
        """Run all files to the end.

        Raises:
            RuntimeError: The run did not end within `limit` virtual seconds.
        """
        self._deliver(ev.FilesSubmitted(tuple(files)))
        for gpu in self._gpus:
            self._workers.spawn(gpu)
        while not self.scheduler.is_finished:
            self._turn()
            if self._workers.now > limit:
                raise RuntimeError(f"the run did not end within {limit:g} virtual seconds")
        return Outcome(
            self._workers.now,
            self._completed,
            tuple(self._failed),
            self._events,
            self._starts - len(files),
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
        for action in self.scheduler.handle(event, self._workers.now):
            self._carry_out(action)

    def _carry_out(self, action: ev.Action) -> None:
        workers = self._workers
        if isinstance(action, ev.StartAttempt):
            self._starts += 1
            workers.start(action)
        elif isinstance(action, ev.CancelAttempt):
            workers.cancel(action.gpu)
        elif isinstance(action, ev.RestartWorker):
            workers.kill(action.gpu)
            workers.spawn(action.gpu)
        elif isinstance(action, ev.RetireWorker):
            workers.kill(action.gpu)
        elif isinstance(action, ev.FileCompleted):
            path = action.file.path
            self._completed[path] = self._completed.get(path, 0) + 1
        elif isinstance(action, ev.FileFailed):
            self._failed.append(action.file.path)


def lower_bound(work: Mapping[str, int], speeds: Sequence[float]) -> float:
    """Seconds below which no schedule can end: all work on all GPUs, or one file on the fastest."""
    return max(sum(work.values()) / sum(speeds), max(work.values()) / max(speeds))
