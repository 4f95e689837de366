"""Workers on a Dask cluster: Dask starts the agents and carries the messages.

On each Dask worker an agent (`cluster.agent`) owns one worker process. One thread with an event
loop calls Dask; it passes events to the run loop through a queue, so that the run loop never waits
for the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from distributed import Client

from virnucpro_exporter.cluster.agent import Job
from virnucpro_exporter.cluster.commands import Cancel, Kill, Order, Shrink, Spawn, Start
from virnucpro_exporter.cluster.connect import Connect
from virnucpro_exporter.cluster.demand import Demand
from virnucpro_exporter.cluster.gpu_watch import Gpus
from virnucpro_exporter.cluster.link import News
from virnucpro_exporter.cluster.members import Members, Terms
from virnucpro_exporter.errors import ClusterError
from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import WorkerEvent, WorkerJoined, WorkerLost
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId

log = logging.getLogger(__name__)

# The scheduler counts as gone when its connection is down for longer than this, in seconds.
_RECONNECT_SECONDS = 2.0

# The interval at which the connection is checked, in seconds.
_LOOK_SECONDS = 0.5

# A run begins when all Dask workers of the cluster have joined, but no later than after so many
# seconds: a node that hangs must not delay the others for longer.
_GATHER_SECONDS = 15.0
_GATHER_LOOK_SECONDS = 0.02

_NO_ONE_YET = "waiting for a Dask worker; the run begins with the first one (Ctrl-C ends it)"


class DaskPool:
    """Workers on a Dask cluster.

    Args:
        connect: Opens the client, within the event loop, and closes it.
        job: The settings of the agents.
        weigh: The expected relative speed of a device, by its model name.
        gpus: Receives the nodes and, every few seconds, a sample of their GPUs; or None.
        silence: Seconds without an answer after which a node counts as lost.
        patience: Seconds for which a run without any worker waits for one to join.
    """

    def __init__(
        self,
        connect: Connect,
        job: Job,
        weigh: Callable[[str], float] = lambda _: 1.0,
        gpus: Gpus | None = None,
        silence: float = 60.0,
        patience: float = 60.0,
    ) -> None:
        self._connect = connect
        self._terms = Terms(job, weigh, gpus, silence, patience)
        self._inbox = _Inbox()
        self._demand = Demand()
        self._generations: dict[str, int] = {}  # processes that each worker has had
        # The rest is used in the event loop.
        self._members: Members | None = None
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="dask", daemon=True)
        self._thread.start()

    # -- called by the run loop --

    def wait_for_workers(self) -> list[WorkerJoined]:
        """The workers that have joined; waits for the first one without a time limit.

        Raises:
            ClusterError: The cluster cannot be reached, or no node of it can be used.
        """
        joined: dict[str, WorkerJoined] = {}
        is_told = False
        while not (joined and self._inbox.has_looked.is_set()):
            for event, _ in self._inbox.take(0.1):
                if isinstance(event, WorkerJoined):
                    joined[event.worker_id] = event
                elif isinstance(event, WorkerLost) and not event.cause.is_worth_a_restart:
                    del joined[event.worker_id]
            if self._inbox.has_looked.is_set() and not joined:
                if self._inbox.troubles:
                    raise ClusterError(self._inbox.troubles[0])
                if not is_told:
                    is_told = True
                    log.warning(_NO_ONE_YET)
        return list(joined.values())  # the first `poll` logs why other nodes cannot be used

    def spawn(self, worker_id: WorkerId) -> None:
        """Start the process of a worker that has none; `WorkerReady` or `WorkerLost` follows."""
        self._generations[worker_id] = self._generations.get(worker_id, 0) + 1
        self._send(worker_id, Spawn())

    def start(self, worker_id: WorkerId, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker, to be processed in this order."""
        self._send(worker_id, Start(tuple(actions)))

    def shrink(self, action: ShrinkAttempt) -> None:
        """Order a worker to give a share of its range away; `AttemptShrunk` follows if it lives."""
        self._send(action.worker_id, Shrink(action))

    def cancel(self, worker_id: WorkerId, attempt: AttemptNumber) -> None:
        """Stop an attempt; `AttemptFailed` or `WorkerLost` follows."""
        self._send(worker_id, Cancel(attempt))

    def kill(self, worker_id: WorkerId) -> None:
        """Kill a worker's process, if there is one; later events of that process are dropped."""
        self._generations[worker_id] = self._generations.get(worker_id, 0) + 1
        self._send(worker_id, Kill())

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """The new events; those of one worker in the order in which they happened.

        Args:
            timeout: How long to wait for the first one, in seconds; None: without a limit.

        Raises:
            ClusterError: The scheduler is gone.
        """
        told = self._inbox.take(timeout)
        while self._inbox.troubles:
            log.error("%s", self._inbox.troubles.popleft())
        return [
            event
            for event, generation in told
            if generation in (None, self._generations.get(event.worker_id))
        ]

    def wake(self) -> None:
        """End a `poll` early; may be called from any thread and signal handler."""
        self._inbox.wake()

    def want(self, workers: int) -> None:
        """Set how many more workers would have a file to process; Dask's `adapt` may add them."""
        self._demand.workers = workers

    def drain(self) -> None:
        """Stop waiting for workers to join: no more files will be started."""
        if self._members is not None:
            self._loop.call_soon_threadsafe(self._members.drain)

    def close_idle(self, seconds: float) -> None:
        """Order idle workers to close their processors, and wait for so many seconds at most."""
        if self._members is not None:
            self._wait(self._members.close_idle(seconds), seconds)

    def close(self) -> None:
        """Kill every worker, and leave the cluster."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def _send(self, worker_id: WorkerId, order: Order) -> None:
        generation = self._generations.get(worker_id, 0)
        if self._members is not None:
            self._loop.call_soon_threadsafe(self._members.send, worker_id, order, generation)

    def _wait(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result(seconds)
        except (TimeoutError, asyncio.TimeoutError):
            future.cancel()

    # -- the event loop --

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - the run loop raises it
            self._inbox.fail(error)
            self._inbox.has_looked.set()

    async def _serve(self) -> None:
        with _silent_dask():
            async with self._connect() as client:
                self._members = members = Members(client, self._terms, self._inbox, self._demand)
                try:
                    await self._look_on(client, members)
                finally:
                    await members.leave()

    async def _look_on(self, client: Client, members: Members) -> None:
        """Adopt the Dask workers, then watch the connection to the scheduler until the end."""
        await members.open()
        end = time.monotonic() + min(_GATHER_SECONDS, self._terms.silence)
        while members.is_gathering and time.monotonic() < end:  # noqa: ASYNC110 - several causes
            await asyncio.sleep(_GATHER_LOOK_SECONDS)
        self._inbox.has_looked.set()
        since: float | None = None
        while not self._over.is_set():
            if client.status == "running":
                since = None
            else:
                since = since or time.monotonic()
                if time.monotonic() - since > _RECONNECT_SECONDS:
                    raise ClusterError(_gone(client))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), _LOOK_SECONDS)


class _Inbox:
    """The queue of events from the event loop to the run loop."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[News] | BaseException] = queue.SimpleQueue()
        self.has_looked = threading.Event()  # the workers of the start have joined
        self.troubles: deque[str] = deque()  # why nodes cannot be used

    def tell(self, event: WorkerEvent, generation: int | None = None) -> None:
        """Add an event and the generation of its process; None: it concerns the worker itself."""
        self._queue.put([(event, generation)])

    def tell_all(self, news: list[News]) -> None:
        """Add several events at once: the run loop wakes up once."""
        self._queue.put(news)

    def complain(self, trouble: str) -> None:
        """Add the reason, in one line, why a node cannot be used."""
        self.troubles.append(trouble)
        self.wake()

    def fail(self, error: BaseException) -> None:
        """Add an error, which the run loop raises."""
        self._queue.put(error)

    def wake(self) -> None:
        """End a `take` early."""
        self._queue.put([])

    def take(self, timeout: float | None) -> list[News]:
        """All events in the queue; waits up to `timeout` seconds (None: no limit) for the first.

        Raises:
            ClusterError: The scheduler is gone.
        """
        items = []
        with contextlib.suppress(queue.Empty):
            items.append(self._queue.get(timeout=timeout))
            while True:
                items.append(self._queue.get_nowait())
        told: list[News] = []
        for item in items:
            if isinstance(item, BaseException):
                raise item
            told += item
        return told


@contextlib.contextmanager
def _silent_dask() -> Iterator[None]:
    """Suppress Dask's logs: they report with tracebacks what this program logs in one line."""
    known = list(logging.root.manager.loggerDict)
    names = [name for name in known if name.partition(".")[0] in {"distributed", "tornado"}]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _gone(client: Client) -> str:
    address = client.scheduler.address
    return f"the scheduler at {address} is gone; the same command resumes the run"
