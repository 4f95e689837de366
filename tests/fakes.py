"""Stand-ins for parts at the edge, small enough to be seen to be right."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import events as said
from virnucpro_exporter.scheduling.commands import StartAttempt
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
    """

    def __init__(self, spec: Mapping[str, Any], attempts: Path) -> None:
        self._spec = spec
        self._attempts = attempts
        self._files: dict[str, deque[StartAttempt]] = {}  # of each worker; the first may hang
        self._hanging: set[int] = set()
        self._events: list[WorkerEvent] = []

    def spawn(self, gpu: str) -> None:
        """Tell that the worker is ready, or that its setup failed."""
        if self._spec.get("setup") == "raise":
            reason = "processor setup failed: ValueError: no model here"
            self._events.append(said.lost(gpu, reason, LossCause.SETUP_FAILED))
        else:
            self._files[gpu] = deque()
            self._events.append(said.ready(gpu))

    def start(self, gpu: str, actions: Sequence[StartAttempt]) -> None:
        """Queue files for a worker that lives."""
        if gpu in self._files:
            self._files[gpu].extend(actions)

    def cancel(self, gpu: str, attempt: int) -> None:
        """Replace the worker that holds the attempt."""
        if any(action.attempt == attempt for action in self._files.get(gpu, ())):
            del self._files[gpu]
            self._events.append(said.lost(gpu, "cancelled", LossCause.CANCELLED))

    def kill(self, gpu: str) -> None:
        """Forget the worker."""
        self._files.pop(gpu, None)
        self._events = [event for event in self._events if event.worker_id != gpu]

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """What happened; never waits."""
        del timeout
        for gpu in list(self._files):
            self._work(gpu)
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Nothing waits."""

    def drain(self) -> None:
        """Nobody is waited for."""

    def close_idle(self, seconds: float) -> None:
        """Let the workers without a file go."""
        del seconds
        self._files = {gpu: files for gpu, files in self._files.items() if files}

    def close(self) -> None:
        """Let all workers go."""
        self._files.clear()

    def _work(self, gpu: str) -> None:
        files = self._files[gpu]
        while gpu in self._files and files and files[0].attempt not in self._hanging:
            self._act(gpu, files[0])
            if files and files[0].attempt not in self._hanging:
                files.popleft()

    def _act(self, gpu: str, action: StartAttempt) -> None:
        number, name = action.attempt, Path(action.file.path).name
        self._events.append(said.started(gpu, number))
        what = name.partition(".")[0]
        if what == "raise":
            self._events.append(said.failed(gpu, number, "RuntimeError: bad luck"))
        elif what == "permanent":
            error = "This file cannot be processed: it is empty"
            self._events.append(said.failed(gpu, number, error, permanent=True))
        elif what == "exit":
            del self._files[gpu]
            self._events.append(said.lost(gpu, "exited with status 3", running=number))
        elif what == "hang":
            self._hanging.add(number)
            self._events.append(said.progress(gpu, number, 1, 10))
        else:
            outputs = self._leave_output(gpu, number, name)
            self._events.append(said.completed(gpu, number, 1, len(name), 0.001, outputs))

    def _leave_output(self, gpu: str, number: int, name: str) -> tuple[str, ...]:
        if not self._spec.get("outputs"):
            return ()
        folder = self._attempts / str(number)
        folder.mkdir()
        (folder / f"{name}.out").write_text(gpu)
        return (f"{name}.out",)
