"""A pool whose workers are all up before the first of them gets a file."""

from __future__ import annotations

import time
from collections.abc import Sequence

from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import WorkerEvent, WorkerReady
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.workers.pool import WorkerPool


class WarmPool:
    """Holds the workers' readiness back until all are ready, and notes the time.

    Args:
        pool: Does everything else.
        workers: How many there are.

    Attributes:
        first_spawn: When the first worker was started, in seconds of `time.perf_counter`; planning
            was over then.
        all_ready: When all of them were ready.
        processor_seconds: What this process had used by then, of `time.process_time`.
    """

    def __init__(self, pool: WorkerPool, workers: int) -> None:
        self._pool = pool
        self._workers = workers
        self._waiting: list[WorkerEvent] = []
        self.first_spawn = 0.0
        self.all_ready = 0.0
        self.processor_seconds = 0.0

    def spawn(self, worker_id: WorkerId) -> None:
        """Start the process of a worker."""
        self.first_spawn = self.first_spawn or time.perf_counter()
        self._pool.spawn(worker_id)

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """What happened; nothing until all workers are ready."""
        events = self._pool.poll(timeout)
        if self.all_ready:
            return events
        self._waiting += events
        if sum(isinstance(event, WorkerReady) for event in self._waiting) < self._workers:
            return []
        self.all_ready, self.processor_seconds = time.perf_counter(), time.process_time()
        return self._waiting

    def start(self, worker_id: WorkerId, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker."""
        self._pool.start(worker_id, actions)

    def shrink(self, action: ShrinkAttempt) -> None:
        """Have a worker give a share away."""
        self._pool.shrink(action)

    def cancel(self, worker_id: WorkerId, attempt: AttemptNumber) -> None:
        """Stop an attempt."""
        self._pool.cancel(worker_id, attempt)

    def kill(self, worker_id: WorkerId) -> None:
        """Kill a worker's process."""
        self._pool.kill(worker_id)

    def wake(self) -> None:
        """End a `poll` early."""
        self._pool.wake()

    def want(self, workers: int) -> None:
        """No more come."""

    def drain(self) -> None:
        """No more files will be started."""
        self._pool.drain()

    def close_idle(self, seconds: float) -> None:
        """Let idle workers leave."""
        self._pool.close_idle(seconds)

    def close(self) -> None:
        """Kill every worker."""
        self._pool.close()
