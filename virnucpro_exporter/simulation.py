"""Virtual GPUs in virtual time, driving the real scheduler: for experiments, tests and benchmarks.

Nothing here waits: the next thing to happen is the next thing handled. One seed, one history.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class VirtualGpu:
    """A worker that takes exactly as long as its speed says.

    Attributes:
        speed: Residues per second.
        freezes_at: Second from which it does nothing more, even after a restart.
        startup: Seconds from start or restart until it takes files.
    """

    speed: float
    freezes_at: float = float("inf")
    startup: float = 0.0


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
        self.now = 0.0
        self._gpus = gpus
        self._work = work
        self._progress_every = progress_every
        self._heap: list[tuple[float, int, int, ev.Event]] = []
        self._sequence = 0
        self._generation = dict.fromkeys(gpus, 0)  # of the worker's process
        self._queues: dict[str, list[ev.StartAttempt]] = {gpu: [] for gpu in gpus}
        self._completed: dict[str, int] = {}
        self._failed: list[str] = []
        self._events = self._starts = 0

    def run(self, files: Sequence[SequenceFile], limit: float = 1e9) -> Outcome:
        """Run all files to the end.

        Raises:
            RuntimeError: The run did not end within `limit` virtual seconds.
        """
        self._deliver(ev.FilesSubmitted(tuple(files)))
        for gpu, spec in self._gpus.items():
            self._post(spec.startup, gpu, ev.WorkerReady(gpu))
        while not self.scheduler.is_finished:
            self._turn()
            if self.now > limit:
                raise RuntimeError(f"the run did not end within {limit:g} virtual seconds")
        return Outcome(
            self.now,
            self._completed,
            tuple(self._failed),
            self._events,
            self._starts - len(files),
        )

    def _turn(self) -> None:
        deadline = self.scheduler.next_deadline()
        soonest = self._heap[0][0] if self._heap else float("inf")
        if deadline is not None and deadline < soonest:
            self.now = max(self.now, deadline)
            self._deliver(ev.TimePassed())
            return
        if not self._heap:
            raise RuntimeError("nothing will ever happen again, and files are left")
        self.now, _, generation, event = heapq.heappop(self._heap)
        gpu: str = getattr(event, "gpu", "")
        if generation != self._generation[gpu]:
            return  # its process is gone
        if isinstance(event, ev.AttemptCompleted):
            held = self._queues[gpu]
            held.pop(0)
            if held:
                self._begin(held[0])
        self._deliver(event)

    def _post(self, delay: float, gpu: str, event: ev.Event) -> None:
        if self.now + delay >= self._gpus[gpu].freezes_at and not isinstance(event, ev.WorkerReady):
            return
        self._sequence += 1
        entry = (self.now + delay, self._sequence, self._generation[gpu], event)
        heapq.heappush(self._heap, entry)

    def _deliver(self, event: ev.Event) -> None:
        self._events += 1
        for action in self.scheduler.handle(event, self.now):
            self._carry_out(action)

    def _carry_out(self, action: ev.Action) -> None:
        if isinstance(action, ev.StartAttempt):
            self._starts += 1
            self._queues[action.gpu].append(action)
            if len(self._queues[action.gpu]) == 1:
                self._begin(action)
        elif isinstance(action, ev.CancelAttempt):
            self._replace(action.gpu)
            self._post(0.0, action.gpu, ev.WorkerLost(action.gpu, "cancelled", blame=False))
        elif isinstance(action, ev.RestartWorker):
            self._replace(action.gpu)
            self._post(self._gpus[action.gpu].startup, action.gpu, ev.WorkerReady(action.gpu))
        elif isinstance(action, ev.RetireWorker):
            self._replace(action.gpu)
        elif isinstance(action, ev.FileCompleted):
            path = action.file.path
            self._completed[path] = self._completed.get(path, 0) + 1
        elif isinstance(action, ev.FileFailed):
            self._failed.append(action.file.path)

    def _replace(self, gpu: str) -> None:
        self._generation[gpu] += 1
        self._queues[gpu].clear()

    def _begin(self, start: ev.StartAttempt) -> None:
        gpu, number = start.gpu, start.attempt
        speed = self._gpus[gpu].speed
        work = self._work[start.file.path]
        seconds = work / speed
        self._post(0.0, gpu, ev.AttemptStarted(gpu, number))
        elapsed = self._progress_every
        while elapsed < seconds:
            done = int(elapsed * speed)
            self._post(elapsed, gpu, ev.Progress(gpu, number, done // 100, done))
            elapsed += max(self._progress_every, min(seconds / 16, 60.0))
        finished = ev.AttemptCompleted(gpu, number, max(1, work // 100), work, seconds)
        self._post(seconds, gpu, finished)


def skewed_files(
    count: int,
    rng: random.Random,
    *,
    distribution: str = "lognormal",
    error: float = 0.3,
    mean: int = 1_000_000,
) -> tuple[list[SequenceFile], dict[str, int]]:
    """Make up files of very different sizes, and what they really hold.

    Args:
        count: How many.
        rng: Where chance comes from.
        distribution: `"lognormal"` (sigma 1.5) or `"pareto"` (alpha 1.2).
        error: Spread of the declared cost around the real one, as a share.
        mean: About so many residues per file.

    Returns:
        The files with their declared costs, and the real residues by path.
    """
    draw = {
        "lognormal": partial(rng.lognormvariate, 0.0, 1.5),
        "pareto": partial(rng.paretovariate, 1.2),
    }[distribution]
    sizes = [draw() for _ in range(count)]
    scale = mean * count / sum(sizes)
    files, work = [], {}
    for index, size in enumerate(sizes):
        path = f"/virtual/{index:06}.fa"
        work[path] = max(1, round(size * scale))
        declared = max(1, round(work[path] * rng.uniform(1.0 - error, 1.0 + error)))
        files.append(SequenceFile(path, max(1, work[path] // 100), declared))
    return files, work


def lower_bound(work: Mapping[str, int], speeds: Sequence[float]) -> float:
    """Seconds below which no schedule can end: all work on all GPUs, or one file on the fastest."""
    return max(sum(work.values()) / sum(speeds), max(work.values()) / max(speeds))
