"""What a run requires of a worker pool; `local_pool` and `cluster.pool` implement it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import WorkerEvent
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId


class WorkerPool(Protocol):
    """Carries out attempts somewhere, and reports what happens to them."""

    def spawn(self, worker_id: WorkerId) -> None:
        """Start the process of a worker that has none."""

    def start(self, worker_id: WorkerId, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker, to be processed in this order."""

    def shrink(self, action: ShrinkAttempt) -> None:
        """Have a worker give a share of its range away; `AttemptShrunk` follows while it lives."""

    def cancel(self, worker_id: WorkerId, attempt: AttemptNumber) -> None:
        """Stop an attempt; `AttemptFailed` or `WorkerLost` follows."""

    def kill(self, worker_id: WorkerId) -> None:
        """Kill a worker's process, if there is one; its pending messages are discarded."""

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """What happened; waits at most `timeout` seconds, for ever when None."""

    def wake(self) -> None:
        """End a `poll` early; may be called from any thread and signal handler."""

    def want(self, workers: int) -> None:
        """So many more workers would have a file to do."""

    def drain(self) -> None:
        """No more files will be started: workers that left are not waited for."""

    def close_idle(self, seconds: float) -> None:
        """Have the workers that process nothing close their processors, for so long at most."""

    def close(self) -> None:
        """Kill every worker."""
