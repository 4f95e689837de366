"""Virtual workers behind the interface of the real worker processes, at the pace of a clock.

Everything that is decided depends on the times of virtual events alone, never on when this process
was woken: on a slow or busy machine the same things happen, only later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.simulation.workers import VirtualWorkers

# A signal is noticed within this time. Nothing else can wake a sleeper without a lock that the
# handler of a signal could wait for in vain.
_NAP_SECONDS = 0.05


class VirtualPool:
    """A pool of workers for the run loop.

    The clock of the run is `now`, seconds since the pool was made. It moves on in `poll` and `rest`
    only, so that it stands still while something is decided.

    Args:
        workers: What the workers do, and when.
        clock: Monotonic seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        workers: VirtualWorkers,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._sleep = sleep
        self._origin = clock()
        self._is_woken = False

    def now(self) -> float:
        """Seconds since the start of the simulation."""
        return self._workers.now

    def spawn(self, worker_id: WorkerId) -> None:
        """Start the process of a worker that has none."""
        self._workers.spawn(worker_id)

    def start(self, worker_id: WorkerId, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker, to be processed in this order."""
        del worker_id
        for action in actions:
            self._workers.start(action)

    def shrink(self, action: ShrinkAttempt) -> None:
        """Have a worker give a share of its range away; `AttemptShrunk` follows."""
        self._workers.shrink(action)

    def cancel(self, worker_id: WorkerId, attempt: AttemptNumber) -> None:
        """Stop an attempt; `WorkerLost` follows."""
        del attempt
        self._workers.cancel(worker_id)

    def kill(self, worker_id: WorkerId) -> None:
        """Kill a worker's process, if there is one; its pending messages are discarded."""
        self._workers.kill(worker_id)

    def poll(self, timeout: float | None) -> list[ev.WorkerEvent]:
        """The next event, unless `timeout` seconds pass before."""
        workers = self._workers
        at = workers.next_at()
        if timeout is not None and workers.now + timeout < at:
            self.rest(timeout)
            return []
        if not self._wait_until(at):
            return []
        event = workers.pop()
        return [] if event is None else [event]

    def rest(self, seconds: float) -> bool:
        """Wait for a time in which nothing happens; False when woken before it is over."""
        until = self._workers.now + seconds
        is_over = self._wait_until(until)
        if is_over:
            self._workers.now = until
        return is_over

    def wake(self) -> None:
        """End a `poll` early; may be called from any thread and signal handler."""
        self._is_woken = True

    def want(self, workers: int) -> None:
        """No more workers come."""

    def drain(self) -> None:
        """No worker is waited for."""

    def close_idle(self, seconds: float) -> None:
        """There is nothing to close."""

    def close(self) -> None:
        """There is nothing to kill."""

    def _wait_until(self, moment: float) -> bool:
        """Wait for a moment of the simulation; False when woken before."""
        while not self._is_woken:
            left = moment - (self._clock() - self._origin)
            if left <= 0:
                return True
            self._sleep(min(left, _NAP_SECONDS))
        self._is_woken = False
        return False
