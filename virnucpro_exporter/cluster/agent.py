"""What runs inside a Dask worker: a thin agent that owns one worker process of ours.

A task of Dask cannot be stopped from within Python, and a file that kills its process would take
the Dask worker along. So the agent lets the same child process do the files as on one machine, and
passes commands and events on. It is a Dask actor: the coordinator calls it, and it never calls.

An agent that hears nothing of its coordinator for a while kills its process and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from distributed import Worker, get_worker

from virnucpro_exporter import __version__
from virnucpro_exporter.cluster.commands import (
    Cancel,
    CloseIdle,
    Command,
    Kill,
    Order,
    Shrink,
    Spawn,
    Start,
)
from virnucpro_exporter.cluster.mailbox import Mailbox, Told
from virnucpro_exporter.errors import VirnucproError, assert_never
from virnucpro_exporter.scheduling.events import LossCause, WorkerEvent, WorkerLost
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.workers.local_pool import LocalPool

# What a coordinator asks for before anything else.
VERSION = __version__

# An agent answers at least this often, in seconds, and several times within its lease, so that its
# silence means something.
_ANSWER_SECONDS = 5.0
_ANSWERS_PER_LEASE = 4

# How far a file has got is told this often, in seconds, when there is nothing else to tell: a
# cluster has many workers, and one process hears them all.
_PROGRESS_SECONDS = 2.0

# The environment variable that names the node where its host name does not (in Kubernetes).
NODE_VARIABLE = "VIRNUCPRO_NODE_NAME"


@dataclass(frozen=True, slots=True)
class Job:
    """What an agent needs to know, as plain values.

    Attributes:
        spec: The processor, as the factory takes it.
        factory: `package.module:function` that makes a processor of the spec.
        node: `package.module:class` of a `Node`, made with no argument.
        attempts: Folder in which each attempt gets its own.
        logs: Folder of the workers' logs.
        folder: The coordinator's working directory; that of the workers where it exists there.
        probe: A file that every node has to see.
        token: What is in that file.
        lease: Seconds without a call after which an agent ends.
        look_seconds: A worker that is silent is looked at for signs of life this often.
    """

    spec: Mapping[str, Any]
    factory: str
    node: str
    attempts: str
    logs: str
    folder: str
    probe: str
    token: str
    lease: float
    look_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """The device of a Dask worker.

    Attributes:
        device: Number of its GPU on the node, or None for a CPU slot.
        name: Model name of the GPU, or `CPU`.
        pin: The CUDA_VISIBLE_DEVICES of its worker process.
        trouble: Why it cannot be used, in one line, or empty.
        sees: Numbers of the node's GPUs that it sees, its own and others.
        shown: Numbers of those that its CUDA_VISIBLE_DEVICES names, its own first.
    """

    device: str | None
    name: str
    pin: str
    trouble: str = ""
    sees: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


class Node(Protocol):
    """What a Dask worker knows of the devices of its node."""

    def place(self) -> Place:
        """Its own device."""

    def gpus(self) -> GpuSnapshot:
        """All GPUs that it sees, by their numbers on the node; never waits."""

    def close(self) -> None:
        """Watch them no longer."""


@dataclass(frozen=True, slots=True)
class About:
    """What an agent tells of itself.

    Attributes:
        node: Name of the node.
        place: Its device.
    """

    node: str
    place: Place


class AgentEndedError(Exception):
    """Told to a coordinator that comes back after its lease, or after another one."""


class Agent:
    """Drives one worker process in a thread of its own, and collects what it tells.

    Args:
        job: What it works for.
    """

    # The one that works on each Dask worker. Dask makes synchronous calls one after the other.
    _present: ClassVar[WeakKeyDictionary[Worker, Agent]] = WeakKeyDictionary()

    def __init__(self, job: Job) -> None:
        self._job = job
        module, _, name = job.node.partition(":")
        self._node: Node = getattr(import_module(module), name)()
        self._loop: asyncio.AbstractEventLoop = get_worker().loop.asyncio_loop
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._answer_seconds = min(_ANSWER_SECONDS, job.lease / _ANSWERS_PER_LEASE)
        self._mailbox = Mailbox(min(_PROGRESS_SECONDS, self._answer_seconds), self._answer_seconds)
        self._device: str | None = None
        self._is_idle_closed = asyncio.Event()
        self._heard_at = self._answered_at = time.monotonic()
        self._is_asked = False
        self._worker_id = WorkerId("")
        self._generation = 0
        self._pool: LocalPool | None = None
        self._is_over = False
        self._thread: threading.Thread | None = None

    # -- called by the coordinator --

    def about(self) -> About:
        """Who and where this is, and whether it can be used; if so, no other agent is."""
        place = self._node.place()
        self._device = place.device
        node = os.environ.get(NODE_VARIABLE) or os.uname().nodename.partition(".")[0]
        trouble = place.trouble or self._blindness() or self._take_over(get_worker())
        return About(node, replace(place, trouble=trouble))

    def begin(self, worker_id: WorkerId, pin: str) -> None:
        """Be ready for commands.

        Args:
            worker_id: The id of the worker.
            pin: The CUDA_VISIBLE_DEVICES of its process.
        """
        folder = self._job.folder if Path(self._job.folder).is_dir() else None
        pool = LocalPool(
            self._job.spec,
            self._job.factory,
            Path(self._job.attempts),
            Path(self._job.logs),
            {worker_id: {"CUDA_VISIBLE_DEVICES": pin}},
            folder,
            look_seconds=self._job.look_seconds,
            uses_gpu=self._uses_gpu,
        )
        self._worker_id = worker_id
        self._heard_at = time.monotonic()
        self._pool = pool
        self._thread = threading.Thread(
            target=self._live, args=(pool,), name="virnucpro-agent", daemon=True
        )
        self._thread.start()

    def _blindness(self) -> str:
        try:
            is_seen = Path(self._job.probe).read_text(encoding="ascii") == self._job.token
        except OSError:
            is_seen = False
        return "" if is_seen else f"it does not see {str(Path(self._job.probe).parents[1])!r}"

    def _take_over(self, worker: Worker) -> str:
        """End the agent of an earlier run, or say that its run goes on.

        A coordinator that lives calls again as soon as it has its answer. So nobody waits for the
        lease of one that was killed.
        """
        before = Agent._present.get(worker)
        if before is not None and before._job.token != self._job.token:  # noqa: SLF001 - one of us
            begin = time.monotonic()
            while before._is_in_use():  # noqa: SLF001 - one of us
                if before._heard_at > begin:  # noqa: SLF001 - one of us
                    return "another run works with its Dask worker"
                time.sleep(0.05)
        if before is not None:
            before.end()
        Agent._present[worker] = self
        return ""

    def _is_in_use(self) -> bool:
        is_called = self._is_asked or time.monotonic() - self._answered_at < self._answer_seconds
        return is_called and not self._is_over

    async def tell(self, commands: Sequence[Command]) -> None:
        """Carry out commands, in this order."""
        for command in commands:
            self._commands.put(command)
        if self._pool is not None and not self._is_over:
            self._pool.wake()

    async def listen(self) -> list[Told]:
        """What happened since the last call; waits for something, but not for long.

        Raises:
            AgentEndedError: It has ended its process, and will do nothing any more.
        """
        if self._is_over:
            raise AgentEndedError
        self._heard_at = time.monotonic()
        self._is_asked = True
        try:
            return await self._mailbox.take()
        finally:
            self._is_asked = False
            self._answered_at = time.monotonic()

    async def gpus(self) -> tuple[float, GpuSnapshot]:
        """The present time of this node's clock, in Unix seconds, and the GPUs seen here."""
        snapshot = self._node.gpus()
        return time.time(), snapshot

    async def idle_closed(self) -> None:
        """Wait until `CloseIdle` has been carried out."""
        await self._is_idle_closed.wait()

    def end(self) -> None:
        """Kill the process, and wait until it is dead."""
        self._is_over = True
        if self._pool is not None and self._thread is not None:
            with contextlib.suppress(OSError):  # the thread has closed it
                self._pool.wake()
            self._thread.join()

    # -- the thread --

    def _live(self, pool: LocalPool) -> None:
        try:
            while not self._is_over and time.monotonic() - self._heard_at < self._job.lease:
                while not self._commands.empty():
                    self._obey(pool, self._commands.get())
                if told := [(self._generation, event) for event in self._poll(pool)]:
                    self._publish(told)
        finally:
            self._is_over = True
            pool.close()
            self._node.close()

    def _uses_gpu(self, _worker_id: str) -> bool:
        if self._device is None or self._is_over:
            return False
        return self._node.gpus().is_busy_for_run(self._device)

    def _poll(self, pool: LocalPool) -> list[WorkerEvent]:
        begin = time.monotonic()
        try:
            events = pool.poll(self._answer_seconds)
        except VirnucproError as error:  # no process can be started here again
            events = [WorkerLost(self._worker_id, str(error), LossCause.CANNOT_START)]
        # While the node was paused, no call could come.
        self._heard_at += max(0.0, time.monotonic() - begin - self._answer_seconds)
        return events

    def _obey(self, pool: LocalPool, command: Command) -> None:
        if not isinstance(command.order, CloseIdle):
            self._generation = command.generation
        try:
            self._carry_out(pool, command.worker_id, command.order)
        except (VirnucproError, OSError) as error:  # no process can be started here
            lost = WorkerLost(command.worker_id, str(error), LossCause.CANNOT_START)
            self._publish([(self._generation, lost)])

    def _carry_out(self, pool: LocalPool, worker_id: WorkerId, order: Order) -> None:
        match order:
            case Spawn():
                pool.spawn(worker_id)
            case Start(actions):
                pool.start(worker_id, actions)
            case Cancel(attempt):
                pool.cancel(worker_id, attempt)
            case Shrink(action):
                pool.shrink(action)
            case Kill():
                pool.kill(worker_id)
            case CloseIdle(seconds):
                pool.close_idle(seconds)
                self._loop.call_soon_threadsafe(self._is_idle_closed.set)
            case _:
                assert_never(order)

    def _publish(self, told: list[Told]) -> None:
        self._loop.call_soon_threadsafe(self._mailbox.put, told)
