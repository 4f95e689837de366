"""Stand-ins for parts at the edge, small enough to be seen to be right."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import events as said
from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import (
    LossCause,
    WorkerEvent,
)


class FakePool:
    """A pool without processes: workers act out the names of their files at once, within `poll`.

    The names mean what they mean to `tests.processors_for_tests.Scripted`.

    Args:
        spec: What that class takes.
        attempts: Folder in which each attempt gets its own.

    Attributes:
        wanted: How many more workers would have had a file, as was told.
    """

    def __init__(self, spec: Mapping[str, Any], attempts: Path) -> None:
        self._spec = spec
        self._attempts = attempts
        self._files: dict[str, deque[StartAttempt]] = {}  # of each worker; the first may hang
        self._hanging: set[int] = set()
        self._events: list[WorkerEvent] = []
        self.wanted: list[int] = []

    def spawn(self, worker_id: str) -> None:
        """Tell that the worker is ready, or that its setup failed."""
        if self._spec.get("setup") == "raise":
            reason = "processor setup failed: ValueError: no model here"
            self._events.append(said.lost(worker_id, reason, LossCause.SETUP_FAILED))
        else:
            self._files[worker_id] = deque()
            self._events.append(said.ready(worker_id))

    def start(self, worker_id: str, actions: Sequence[StartAttempt]) -> None:
        """Queue files for a worker that lives."""
        if worker_id in self._files:
            self._files[worker_id].extend(actions)

    def shrink(self, action: ShrinkAttempt) -> None:
        """Its workers do whole files."""
        cut = said.shrunk(action.worker_id, action.attempt, None)
        self._events.append(cut)

    def cancel(self, worker_id: str, attempt: int) -> None:
        """Replace the worker that holds the attempt."""
        if any(action.attempt == attempt for action in self._files.get(worker_id, ())):
            del self._files[worker_id]
            self._events.append(said.lost(worker_id, "cancelled", LossCause.CANCELLED))

    def kill(self, worker_id: str) -> None:
        """Forget the worker."""
        self._files.pop(worker_id, None)
        self._events = [event for event in self._events if event.worker_id != worker_id]

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """What happened; never waits."""
        del timeout
        for worker_id in list(self._files):
            self._work(worker_id)
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Nothing waits."""

    def want(self, workers: int) -> None:
        """Note how many."""
        self.wanted.append(workers)

    def drain(self) -> None:
        """Nobody is waited for."""

    def close_idle(self, seconds: float) -> None:
        """Let the workers without a file go."""
        del seconds
        self._files = {worker_id: files for worker_id, files in self._files.items() if files}

    def close(self) -> None:
        """Let all workers go."""
        self._files.clear()

    def _work(self, worker_id: str) -> None:
        files = self._files[worker_id]
        while worker_id in self._files and files and files[0].attempt not in self._hanging:
            self._act(worker_id, files[0])
            if files and files[0].attempt not in self._hanging:
                files.popleft()

    def _act(self, worker_id: str, action: StartAttempt) -> None:
        number, name = action.attempt, Path(action.file.path).name
        self._events.append(said.started(worker_id, number))
        what = name.partition(".")[0]
        if what == "raise":
            self._events.append(said.failed(worker_id, number, "RuntimeError: bad luck"))
        elif what == "permanent":
            error = "This file cannot be processed: it is empty"
            self._events.append(said.failed(worker_id, number, error, permanent=True))
        elif what == "exit":
            del self._files[worker_id]
            self._events.append(said.lost(worker_id, "exited with status 3", running=number))
        elif what == "hang":
            self._hanging.add(number)
            self._events.append(said.progress(worker_id, number, 1, 10))
        else:
            outputs = self._leave_output(worker_id, number, name)
            self._events.append(said.completed(worker_id, number, 1, len(name), 0.001, outputs))

    def _leave_output(self, worker_id: str, number: int, name: str) -> tuple[str, ...]:
        if not self._spec.get("outputs"):
            return ()
        folder = self._attempts / str(number)
        folder.mkdir()
        (folder / f"{name}.out").write_text(worker_id)
        return (f"{name}.out",)
