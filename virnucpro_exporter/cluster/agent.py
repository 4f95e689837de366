"""What runs inside a Dask worker: a thin agent that owns one worker process of ours.

A task of Dask cannot be stopped from within Python, and a file that kills its process would take
the Dask worker along. So the agent lets the same child process do the files as on one machine, and
passes commands and events on. To Dask it is one long task (`hold`), and `post.py` is where the run
is heard.

An agent that hears nothing of its run for a while kills its process and ends.
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

# What a coordinator asks for before anything else.
VERSION = __version__

# What Dask calls the agents, and the wish for more, on its pages.
TASK = "virnucpro"

# A run is told something at least this often, in seconds, and several times within the lease, so
# that silence means something.
_QUIET_SECONDS = 5.0
_SIGNS_PER_LEASE = 4

# How far a file has got is told this often, in seconds: a cluster has many workers, and one process
# hears them all.
_BEAT_SECONDS = 2.0

# An agent looks this often, in seconds, whether it is to end.
_LOOK_SECONDS = 0.5


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


class Node(Protocol):
    """What a Dask worker knows of the devices of its node."""

    def place(self) -> Place:
        """Its own device."""

    def gpus(self) -> GpuSnapshot:
        """All GPUs that it sees, by their numbers on the node; never waits."""

    def close(self) -> None:
        """Watch them no longer."""


def quiet(lease: float) -> float:
    """Seconds after which nothing at all is told, in both directions."""
    return min(_QUIET_SECONDS, lease / _SIGNS_PER_LEASE)


def beat(lease: float) -> float:
    """What can wait is told every so many seconds."""
    return min(_BEAT_SECONDS, quiet(lease))


def hold(job: Job) -> None:
    """Work for a run until it is over: the one task of the run on a Dask worker.

    It keeps the thread of the Dask worker, so that Dask, its dashboard and `adapt` see who is busy,
    and so that the task of another run waits.

    Args:
        job: What for.
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
    """Wait for the runs before, where the Dask worker has several threads."""
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
    """Drives one worker process, and passes on what it tells.

    Args:
        job: What it works for.
        worker: The Dask worker.
        post: Where the run is heard.
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
        self._paused = 0.0  # seconds in which no word of the run could come
        self._left_at: float | None = None

    def live(self) -> None:
        """Tell what is here, and do what the run says."""
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
        """The GPUs that it sees; never waits."""
        return self._node.gpus()

    def obey(self, command: Command) -> None:
        """Carry out a command after those before it."""
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
        """Whether the run has gone, or has had the time to end what was in process."""
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
        # While the node was paused, no word could come.
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
