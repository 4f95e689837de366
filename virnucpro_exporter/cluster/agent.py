"""The agent: runs as one long task (`hold`) on a Dask worker and owns one worker process.

A running Dask task cannot be stopped, and a file that crashes its process would crash the Dask
worker too. The agent therefore starts the same child process as a run on one machine, and forwards
commands to it and its events to the run. `post.py` exchanges the messages with the run.

An agent that receives no message from its run for the length of the lease kills its process and
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from distributed import Worker, get_worker

from virnucpro_exporter import __version__
from virnucpro_exporter.cluster.commands import (
    Begin,
    Cancel,
    CloseIdle,
    Command,
    End,
    Kill,
    Order,
    Shrink,
    Spawn,
    Start,
)
from virnucpro_exporter.cluster.letters import About, Place
from virnucpro_exporter.cluster.post import Post, node_name, post_of
from virnucpro_exporter.errors import VirnucproError, assert_never
from virnucpro_exporter.scheduling.events import LossCause, WorkerEvent, WorkerLost
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.workers.local_pool import LocalPool

# The run compares it with its own version before it sends anything else to a Dask worker.
VERSION = __version__

# The name of the agents' tasks, and of the tasks that request more workers, on Dask's dashboard.
TASK = "virnucpro"

# A message is sent at least this often, in seconds, and several times within the lease, so that a
# long silence means a failure.
_QUIET_SECONDS = 5.0
_SIGNS_PER_LEASE = 4

# Progress is sent this often, in seconds: a cluster has many workers, and one process receives the
# messages of all.
_BEAT_SECONDS = 2.0

# An agent checks this often, in seconds, whether it has to end.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """The settings of an agent, as plain values.

    Attributes:
        spec: The processor's settings: the argument of the factory.
        factory: `package.module:function` that makes a processor of the spec.
        node: `package.module:class` of a `Node`, made with no argument.
        attempts: Folder in which each attempt gets its own.
        logs: Folder of the workers' logs.
        folder: The coordinator's working directory; also that of the workers on nodes that have it.
        probe: A file of the shared folder, which every node must be able to read.
        token: The content of that file; it identifies the run.
        lease: Seconds without a message of the run after which an agent ends.
        look_seconds: Seconds between two checks of a silent worker for signs of life.
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


class Node(Protocol):
    """The devices of the node of a Dask worker."""

    def place(self) -> Place:
        """The device of this Dask worker."""

    def gpus(self) -> GpuSnapshot:
        """All GPUs visible to this process, by their numbers on the node; never blocks."""

    def close(self) -> None:
        """Stop sampling the GPUs."""


def quiet(lease: float) -> float:
    """The longest pause between two messages, in either direction, in seconds."""
    return min(_QUIET_SECONDS, lease / _SIGNS_PER_LEASE)


def beat(lease: float) -> float:
    """The interval at which messages that can wait (progress, GPUs) are sent, in seconds."""
    return min(_BEAT_SECONDS, quiet(lease))


def hold(job: Job) -> None:
    """Work for a run until it is over: the one task of the run on a Dask worker.

    It occupies the thread of the Dask worker, so that Dask, its dashboard and `adapt` see a busy
    worker, and so that the task of another run waits.

    Args:
        job: The settings of the agent.
    """
    worker = get_worker()
    post = post_of(worker, job.token)
    with _turn(worker, post, job.lease) as is_ours:
        if is_ours:
            Agent(job, worker, post).live()


_LOCKS: WeakKeyDictionary[Worker, threading.Lock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextlib.contextmanager
def _turn(worker: Worker, post: Post, lease: float) -> Iterator[bool]:
    """Wait until the agents of earlier runs have ended, where the Dask worker has several threads.

    Yields:
        Whether the agent may begin; False where its run has ended or is silent for a whole lease.
    """
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(worker, threading.Lock())
    while not lock.acquire(timeout=_LOOK_SECONDS):
        if post.is_over.is_set() or time.monotonic() - post.heard_at > lease:
            yield False
            return
    try:
        yield time.monotonic() - post.heard_at <= lease
    finally:
        lock.release()


class Agent:
    """Controls one worker process and forwards its events to the run.

    Args:
        job: The settings of the agent.
        worker: The Dask worker.
        post: The mailbox of the run on this Dask worker.
    """

    def __init__(self, job: Job, worker: Worker, post: Post) -> None:
        self._job = job
        self._post = post
        self._loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._quiet_seconds = quiet(job.lease)
        module, _, name = job.node.partition(":")
        self._node: Node = getattr(import_module(module), name)()
        self._device: str | None = None
        self._folder = job.folder if Path(job.folder).is_dir() else None
        self._worker_id = WorkerId("")
        self._generation = 0
        self._pool: LocalPool | None = None
        self._is_over = False
        self._paused = 0.0  # seconds in which no message of the run could arrive
        self._left_at: float | None = None

    def live(self) -> None:
        """Announce the device, then execute the commands of the run until the agent has to end."""
        self._post.agent = self
        try:
            place = self._node.place()
            self._device = place.device
            place = replace(place, trouble=place.trouble or self._blindness())
            self._call(self._post.introduce, About(node_name(), place))
            self._is_over = bool(place.trouble)
            while not self._is_over and not self._is_forgotten():
                if self._pool is None:
                    with contextlib.suppress(queue.Empty):
                        self._obey(self._commands.get(timeout=_LOOK_SECONDS))
                else:
                    self._turn(self._pool)
        finally:
            self._is_over = True
            if self._pool is not None:
                self._pool.close()
            self._node.close()
            self._call(self._post.end)

    # -- called in the event loop --

    def gpus(self) -> GpuSnapshot:
        """The GPUs visible to this process; never blocks."""
        return self._node.gpus()

    def obey(self, command: Command) -> None:
        """Add a command to the queue; commands are executed in their order."""
        self._commands.put(command)
        self._wake()

    def end(self) -> None:
        """End soon."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._pool is not None:
            with contextlib.suppress(OSError):  # the thread has closed it
                self._pool.wake()

    # -- the thread --

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the Dask worker has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _blindness(self) -> str:
        try:
            is_seen = Path(self._job.probe).read_text(encoding="ascii") == self._job.token
        except OSError:
            is_seen = False
        return "" if is_seen else f"it has no access to {str(Path(self._job.probe).parents[1])!r}"

    def _is_forgotten(self) -> bool:
        """Whether the run has gone, or had enough time to end the files in process."""
        now = time.monotonic()
        if self._post.is_leaving:
            self._left_at = self._left_at or now
            if self._post.line_lost_at is not None or now - self._left_at > self._job.lease:
                return True
        if now - self._post.heard_at - self._paused > self._job.lease:
            return True
        return self._post.is_given_up(self._quiet_seconds)

    def _turn(self, pool: LocalPool) -> None:
        while not self._commands.empty():
            self._obey(self._commands.get())
        if told := [(self._generation, event) for event in self._poll(pool)]:
            self._publish(told)

    def _begin(self, worker_id: WorkerId, pin: str) -> None:
        self._worker_id = worker_id
        self._pool = LocalPool(
            self._job.spec,
            self._job.factory,
            Path(self._job.attempts),
            Path(self._job.logs),
            {worker_id: {"CUDA_VISIBLE_DEVICES": pin}},
            self._folder,
            look_seconds=self._job.look_seconds,
            uses_gpu=self._uses_gpu,
        )

    def _uses_gpu(self, _worker_id: str) -> bool:
        if self._device is None or self._is_over:
            return False
        return self._node.gpus().is_busy_for_run(self._device)

    def _poll(self, pool: LocalPool) -> list[WorkerEvent]:
        begin, heard_at = time.monotonic(), self._post.heard_at
        try:
            events = pool.poll(_LOOK_SECONDS)
        except VirnucproError as error:  # no process can be started here again
            events = [WorkerLost(self._worker_id, str(error), LossCause.CANNOT_START)]
        # While the node was paused, no message of the run could arrive.
        late = time.monotonic() - begin - self._quiet_seconds
        if self._post.heard_at != heard_at:
            self._paused = 0.0
        elif late > 0:
            self._paused += late
        return events

    def _obey(self, command: Command) -> None:
        if not isinstance(command.order, CloseIdle | Begin | End):
            self._generation = command.generation
        try:
            self._carry_out(command.worker_id, command.order)
        except (VirnucproError, OSError) as error:  # no process can be started here
            lost = WorkerLost(command.worker_id, str(error), LossCause.CANNOT_START)
            self._publish([(self._generation, lost)])

    def _carry_out(self, worker_id: WorkerId, order: Order) -> None:
        if isinstance(order, Begin):
            self._begin(worker_id, order.pin)
        elif isinstance(order, End):
            self._is_over = True
        elif self._pool is not None:
            self._drive(self._pool, worker_id, order)

    def _drive(
        self,
        pool: LocalPool,
        worker_id: WorkerId,
        order: Spawn | Start | Cancel | Shrink | Kill | CloseIdle,
    ) -> None:
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
                self._call(self._post.close_idle_done)
            case _:
                assert_never(order)

    def _publish(self, told: list[tuple[int, WorkerEvent]]) -> None:
        self._call(self._post.put, told)
