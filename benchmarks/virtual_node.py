"""Nodes of a Dask cluster in one process, with a Dask worker for each of their virtual GPUs.

Started by `benchmarks.cluster`: python -m benchmarks.virtual_node SCHEDULER GPUS NAME... [feigned]

With `feigned` the agents have no worker processes: a file ends after its time and is reported on
every second until then, and Dask's clocks in the nodes are slow. So a machine carries many more of
them, and all messages to the run are real.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import dask
from distributed import Worker, get_worker

from virnucpro_exporter.cluster import agent, post
from virnucpro_exporter.cluster.post import Visit
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.commands import StartAttempt
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId

RESIDUES_PER_SECOND = 10_000  # as the sleeping processor has it
REPORT_SECONDS = 1.0


class FeignedPool:
    """A `LocalPool` without processes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._news = threading.Condition()
        self._is_woken = False
        self._events: list[ev.WorkerEvent] = []
        self._due: list[tuple[float, int, StartAttempt, float]] = []  # when, which, its end

    def spawn(self, worker_id: WorkerId) -> None:
        """It is ready at once."""
        self._events.append(ev.WorkerReady(worker_id))

    def start(self, worker_id: WorkerId, actions: Sequence[StartAttempt]) -> None:
        """Begin files, one after the other."""
        begin = time.monotonic()
        for action in actions:
            self._events.append(ev.AttemptStarted(worker_id, action.attempt))
            end = begin + action.file.residues / RESIDUES_PER_SECOND
            heapq.heappush(
                self._due, (min(end, begin + REPORT_SECONDS), action.attempt, action, end)
            )
            begin = end

    def cancel(self, worker_id: WorkerId, attempt: AttemptNumber) -> None:
        """End it."""
        self._due = [due for due in self._due if due[1] != attempt]
        self._events.append(ev.AttemptFailed(worker_id, attempt, "cancelled"))

    def shrink(self, _: Any) -> None:
        """Nothing is done in parts."""

    def kill(self, _: WorkerId) -> None:
        """Remove all."""
        self._due = []

    def close_idle(self, _: float) -> None:
        """There is nothing to close."""

    def wake(self) -> None:
        """End a `poll` early."""
        with self._news:
            self._is_woken = True
            self._news.notify()

    def poll(self, timeout: float) -> list[ev.WorkerEvent]:
        """What happened."""
        with self._news:
            if not self._events and not self._is_woken:
                until = self._due[0][0] - time.monotonic() if self._due else timeout
                self._news.wait(max(0.0, min(timeout, until)))
            self._is_woken = False
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._happen(*heapq.heappop(self._due), now)
        events, self._events = self._events, []
        return events

    def _happen(
        self, when: float, number: int, action: StartAttempt, end: float, now: float
    ) -> None:
        file, worker = action.file, action.worker_id
        if end <= now:
            seconds = file.residues / RESIDUES_PER_SECOND
            self._events.append(
                ev.AttemptCompleted(worker, action.attempt, 1, file.residues, seconds)
            )
        else:
            left = round((end - now) * RESIDUES_PER_SECOND)
            self._events.append(ev.Progress(worker, action.attempt, 0, file.residues - left))
            heapq.heappush(self._due, (min(end, when + REPORT_SECONDS), number, action, end))

    def close(self) -> None:
        """There is nothing to kill."""


# What Dask does in each of its workers between two messages, in a process that has hundreds.
SLOW_CLOCKS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.tick.limit": "60s",
    "distributed.admin.system-monitor.interval": "60s",
}


def node_of(worker: Worker) -> str:
    """The node of a Dask worker, from its name."""
    return str(worker.name).rpartition("-")[0]


def name_nodes() -> None:
    """Have each Dask worker of this process report the node that is in its name."""
    really = post.visit

    async def visit(token: str, dask_worker: Worker) -> Visit:
        return replace(await really(token, dask_worker), node=node_of(dask_worker))

    post.visit = visit
    agent.node_name = lambda: node_of(get_worker())  # type: ignore[attr-defined]


async def serve(scheduler: str, gpus: int, names: Sequence[str]) -> None:
    """Be the nodes until killed.

    Args:
        scheduler: The address of the Dask scheduler.
        gpus: How many each node has.
        names: Of the nodes.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        dask.config.set(temporary_directory=folder)
        async with AsyncExitStack() as stack:
            for name in names:
                for number in range(gpus):
                    worker = Worker(
                        scheduler,
                        nthreads=1,
                        memory_limit=0,
                        name=f"{name}-{number}",
                        dashboard=False,
                    )
                    await stack.enter_async_context(worker)
            await asyncio.Event().wait()


def main() -> None:
    """Read the words of the command."""
    scheduler, gpus, *names = [word for word in sys.argv[1:] if word != "feigned"]
    name_nodes()
    if "feigned" in sys.argv:
        agent.LocalPool = FeignedPool  # type: ignore[attr-defined,assignment]
        dask.config.set(SLOW_CLOCKS)
    asyncio.run(serve(scheduler, int(gpus), names))


if __name__ == "__main__":
    main()
