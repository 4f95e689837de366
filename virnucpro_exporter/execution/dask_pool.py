"""Workers on a Dask cluster: Dask places them, moves the messages and notices nodes that fail.

On each Dask worker an agent (`dask_agent`) owns one worker process. All of Dask is talked to in one
thread with an event loop; the run loop meets it at a queue and never waits for the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distributed import Client, Nanny, Scheduler, SpecCluster

from virnucpro_exporter import __version__
from virnucpro_exporter.errors import ClusterError
from virnucpro_exporter.execution import dask_preload
from virnucpro_exporter.execution.dask_agent import About, Agent, Command, Job
from virnucpro_exporter.scheduling.events import Event, StartAttempt, WorkerJoined, WorkerLost
from virnucpro_exporter.snapshot import GpuSnapshot

log = logging.getLogger(__name__)

# A scheduler whose connection broke is gone when it is not back after so many seconds.
_RECONNECT_SECONDS = 2.0

# How often the connection and the list of workers are looked at, in seconds.
_LOOK_SECONDS = 0.5

# A scheduler that does not answer for so long is not there.
_CONNECT_SECONDS = 10.0

# How often a node is asked about its GPUs, in seconds.
_WATCH_SECONDS = 1.0

# Agents get so long to end at the close.
_END_SECONDS = 10.0

_NO_ONE_YET = "no Dask worker is there yet; the run begins with the first one (Ctrl-C ends it)"
_ALL_LEFT = "the last Dask worker has left; the run ends unless another joins within %g s"

Connect = Callable[[], AbstractAsyncContextManager[Client]]


class Gpus(Protocol):
    """Takes what nodes say of their GPUs."""

    def take(self, node: str, now_there: float, snapshot: GpuSnapshot) -> None:
        """A node has answered; both times are on its clock."""

    def leave(self, node: str) -> None:
        """A node has no worker any more."""


@dataclass(eq=False, slots=True)
class _Member:
    """A Dask worker with an agent: one worker of ours."""

    node: str
    gpu: str
    name: str  # of the device's model
    address: str
    agent: Any  # the actor: the methods of `Agent`, each to be awaited
    outgoing: list[Command] = field(default_factory=list)
    has_outgoing: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


# An event, and of which process of the worker; None: of the worker itself.
_Told = tuple[Event, "int | None"]


class DaskPool:
    """Workers on a Dask cluster.

    Args:
        connect: Makes the client, within the event loop, and closes it.
        job: What the agents are told.
        weigh: The expected speed of a device, by its model name.
        gpus: Is told what each node says of its GPUs, about every second; or None.
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
        self._job = job
        self._weigh = weigh
        self._gpus = gpus
        self._silence = silence
        self._patience = patience
        self._inbox: queue.SimpleQueue[_Told | BaseException | None] = queue.SimpleQueue()
        self._generations: dict[str, int] = {}  # processes that each worker has had
        self._has_looked = threading.Event()
        # The rest belongs to the event loop.
        self._members: dict[str, _Member] = {}  # by the id of the worker
        self._watched: set[str] = set()  # nodes whose GPUs are asked about
        self._known: set[str] = set()  # addresses that have an agent, or are asked for one
        self._troubles: dict[str, str] = {}  # why a node cannot be used
        self._last_lost: WorkerLost | None = None  # held back while another may join
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="dask", daemon=True)
        self._thread.start()

    # -- the side of the run loop --

    def wait_for_workers(self) -> list[WorkerJoined]:
        """The workers that are there; waits for the first one as long as it takes.

        Raises:
            ClusterError: The cluster cannot be reached, or no node of it can be used.
        """
        joined: list[WorkerJoined] = []
        is_told = False
        while not (joined and self._has_looked.is_set()):
            joined += [event for event in self.poll(0.1) if isinstance(event, WorkerJoined)]
            if self._has_looked.is_set() and not joined:
                if self._troubles:
                    raise ClusterError(next(iter(self._troubles.values())))
                if not is_told:
                    is_told = True
                    log.warning(_NO_ONE_YET)
        return joined

    def spawn(self, gpu: str) -> None:
        """Start the process of a worker that has none; `WorkerReady` or `WorkerLost` follows."""
        self._generations[gpu] = self._generations.get(gpu, 0) + 1
        self._send(gpu, "spawn")

    def start(self, gpu: str, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker, to be processed in this order."""
        self._send(gpu, "start", tuple(actions))

    def cancel(self, gpu: str, attempt: int) -> None:
        """Stop an attempt; `AttemptFailed` or `WorkerLost` without blame follows."""
        self._send(gpu, "cancel", attempt)

    def kill(self, gpu: str) -> None:
        """Kill a worker's process, if there is one; nothing it said is heard any more."""
        self._generations[gpu] = self._generations.get(gpu, 0) + 1
        self._send(gpu, "kill")

    def poll(self, timeout: float | None) -> list[Event]:
        """What happened, in the order in which each worker told it.

        Raises:
            ClusterError: The scheduler is gone.
        """
        items = []
        with contextlib.suppress(queue.Empty):
            items.append(self._inbox.get(timeout=timeout))
            while True:
                items.append(self._inbox.get_nowait())
        events: list[Event] = []
        for item in items:
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                event, generation = item
                if generation in (None, self._generations.get(event.gpu)):  # type: ignore[union-attr]
                    events.append(event)
        return events

    def wake(self) -> None:
        """End a `poll` early; may be called from any thread and signal handler."""
        self._inbox.put(None)

    def close_idle(self, seconds: float) -> None:
        """Let the workers that process nothing close their processors and leave."""
        self._wait(self._close_idle(seconds), seconds)

    def close(self) -> None:
        """Kill every worker, and leave the cluster."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def _send(self, gpu: str, name: str, *arguments: Any) -> None:
        command = Command(name, (gpu, *arguments), self._generations.get(gpu, 0))
        self._loop.call_soon_threadsafe(self._enqueue, gpu, command)

    def _wait(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            future.result(seconds)

    # -- the event loop --

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - the run loop raises it
            self._inbox.put(error)
            self._has_looked.set()

    async def _serve(self) -> None:
        _silence_dask()
        async with self._connect() as client:
            with client.as_current():
                try:
                    await self._look_on(client)
                finally:
                    await self._leave()

    async def _look_on(self, client: Client) -> None:
        """See workers come and go until the end."""
        over = self._start(self._ended())
        since: float | None = None
        while not over.done():
            if client.status == "running":
                since = None
                await self._look(client)
            else:
                since = since or time.monotonic()
                if time.monotonic() - since > _RECONNECT_SECONDS:
                    raise ClusterError(_gone(client))
            await asyncio.wait([over], timeout=_LOOK_SECONDS)

    async def _ended(self) -> None:
        await self._over.wait()

    async def _look(self, client: Client) -> None:
        """Compare the workers that are there with those that are known."""
        try:
            there = set(await asyncio.wait_for(client.scheduler.ncores(), self._silence))
        except (OSError, asyncio.TimeoutError):
            return  # the client's own connection tells whether the scheduler is gone
        for member in [m for m in self._members.values() if m.address not in there]:
            self._lose(member, "its Dask worker has left")
        self._known &= there
        new = [self._start(self._adopt(client, address)) for address in there - self._known]
        self._known |= there
        if not self._has_looked.is_set():
            if new:
                await asyncio.wait(new, timeout=self._silence)
            self._has_looked.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._inbox.put(error)  # a mistake of this program: the run loop raises it

    async def _adopt(self, client: Client, address: str) -> None:
        """Put an agent on a Dask worker."""
        try:
            agent = await client.submit(
                Agent,
                self._job,
                workers=[address],
                allow_other_workers=False,
                actor=True,
                pure=False,
            )
            about: About = await agent.about()
            if trouble := _trouble(about):
                self._complain(about.node, trouble)
                return
            gpu = self._id(about)
            if gpu in self._members:
                self._complain(about.node, f"several Dask workers of node {about.node} use {gpu}")
                return
            member = _Member(about.node, gpu, about.name, address, agent)
            self._members[gpu] = member
            await agent.begin(gpu, about.pin)
        except Exception as error:  # noqa: BLE001 - whatever is wrong there must not end the run
            if address in self._known:
                self._complain(address, f"the Dask worker at {address} cannot be used: {error}")
            return
        self._welcome(member)

    def _complain(self, node: str, trouble: str) -> None:
        if node not in self._troubles:
            self._troubles[node] = trouble
            if self._has_looked.is_set():
                log.error("%s", trouble)

    def _id(self, about: About) -> str:
        """The id of the worker: node and index, of a GPU or of the first free CPU slot."""
        if about.device is not None:
            return f"{about.node}/{about.device}"
        number = 0
        while f"{about.node}/cpu{number}" in self._members:
            number += 1
        return f"{about.node}/cpu{number}"

    def _welcome(self, member: _Member) -> None:
        member.tasks = [
            asyncio.create_task(self._listen(member)),
            asyncio.create_task(self._speak(member)),
        ]
        if self._gpus is not None and member.node not in self._watched:
            self._watched.add(member.node)
            self._start(self._watch(member.node, self._gpus))
        lost, self._last_lost = self._last_lost, None
        if lost is not None and lost.gpu == member.gpu:
            self._tell(WorkerLost(lost.gpu, lost.reason, restart=True, blame=False))
            return
        self._tell(WorkerJoined(member.gpu, member.name, self._weigh(member.name)))
        if lost is not None:
            self._tell(lost)

    def _lose(self, member: _Member, reason: str) -> None:
        """A Dask worker is gone, or does not answer."""
        if self._members.get(member.gpu) is not member:
            return
        del self._members[member.gpu]
        self._known.discard(member.address)
        for task in member.tasks:
            task.cancel()
        lost = WorkerLost(member.gpu, reason, restart=False, blame=False)
        if self._members or self._over.is_set():
            self._tell(lost)
        else:
            log.warning(_ALL_LEFT, self._patience)
            self._last_lost = lost
            self._loop.call_later(self._patience, self._give_up, lost)

    def _give_up(self, lost: WorkerLost) -> None:
        if self._last_lost is lost:
            self._last_lost = None
            self._tell(lost)

    def _tell(self, event: Event) -> None:
        self._inbox.put((event, None))

    def _enqueue(self, gpu: str, command: Command) -> None:
        if member := self._members.get(gpu):  # of any other it is told that it has left
            member.outgoing.append(command)
            member.has_outgoing.set()

    async def _speak(self, member: _Member) -> None:
        """Send the commands, those that have gathered together, one message at a time."""
        try:
            while True:
                await member.has_outgoing.wait()
                member.has_outgoing.clear()
                commands, member.outgoing = member.outgoing, []
                await asyncio.wait_for(member.agent.tell(commands), self._silence)
        except Exception as error:  # noqa: BLE001 - Dask tells a lost node in many ways
            self._lose(member, _why(error, self._silence))

    async def _listen(self, member: _Member) -> None:
        """Pass on what the agent tells."""
        try:
            while True:
                told = await asyncio.wait_for(member.agent.listen(), self._silence)
                for generation, event in told:
                    self._inbox.put((event, generation))
        except Exception as error:  # noqa: BLE001 - Dask tells a lost node in many ways
            self._lose(member, _why(error, self._silence))

    async def _watch(self, node: str, gpus: Gpus) -> None:
        """Ask a node about its GPUs, through any of its Dask workers, as long as it has one."""
        while members := [m for m in self._members.values() if m.node == node]:
            with contextlib.suppress(Exception):  # a silent node is noticed by its silence
                now, snapshot = await asyncio.wait_for(members[0].agent.gpus(), self._silence)
                gpus.take(node, now, snapshot)
            await asyncio.sleep(_WATCH_SECONDS)
        self._watched.discard(node)
        gpus.leave(node)

    async def _close_idle(self, seconds: float) -> None:
        members = list(self._members.values())
        for member in members:
            self._enqueue(member.gpu, Command("close_idle", (seconds,), -1))
        await asyncio.gather(*(m.agent.idle_closed() for m in members), return_exceptions=True)

    async def _leave(self) -> None:
        """End the agents and all that is under way."""
        members = list(self._members.values())
        ends = [asyncio.ensure_future(_end(m.agent)) for m in members]
        if ends:
            await asyncio.wait(ends, timeout=_END_SECONDS)
        tasks = [*ends, *self._tasks, *(task for m in members for task in m.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _silence_dask() -> None:
    """Its logs would tell, with tracebacks, what is told here in one line."""
    for name in [
        n for n in logging.root.manager.loggerDict if n.partition(".")[0] == "distributed"
    ]:
        logging.getLogger(name).setLevel(logging.CRITICAL)


async def _end(agent: Any) -> None:
    with contextlib.suppress(OSError):  # it is gone
        await agent.end()


def _why(error: Exception, silence: float) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"its node has not answered for {silence:g} s"
    return "its Dask worker has left"


def _trouble(about: About) -> str:
    if about.version != __version__:
        return f"node {about.node} has version {about.version} of this program, not {__version__}"
    return f"node {about.node}: {about.trouble}" if about.trouble else ""


def _gone(client: Client) -> str:
    address = client.scheduler.address
    return f"the scheduler at {address} is gone; the same command resumes the run"


@contextlib.asynccontextmanager
async def existing(address: str | None, scheduler_file: str | None) -> AsyncIterator[Client]:
    """A client of a scheduler that runs.

    Args:
        address: Of the scheduler.
        scheduler_file: Or the file in which it has written its address.

    Raises:
        ClusterError: It cannot be reached.
    """
    if scheduler_file is not None:
        address = _address_in(Path(scheduler_file))
    try:
        client = await Client(
            address, asynchronous=True, direct_to_workers=True, timeout=_CONNECT_SECONDS
        )
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"no scheduler answers at {address}: {error}") from error
    async with client:
        yield client


def _address_in(scheduler_file: Path) -> str:
    try:
        address = json.loads(scheduler_file.read_text(encoding="utf-8"))["address"]
    except OSError as error:
        raise ClusterError(f"{str(scheduler_file)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{str(scheduler_file)!r} is no file of a Dask scheduler") from error
    return str(address)


@contextlib.asynccontextmanager
async def local(pins: Sequence[str]) -> AsyncIterator[Client]:
    """A client of a cluster of its own, on this machine.

    Args:
        pins: The CUDA_VISIBLE_DEVICES of each worker.
    """
    options = {
        "nthreads": 1,
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        "preload": [dask_preload.__name__],
    }
    workers = {
        index: {"cls": Nanny, "options": {**options, "env": {"CUDA_VISIBLE_DEVICES": pin}}}
        for index, pin in enumerate(pins)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    async with (
        SpecCluster(workers=workers, scheduler=scheduler, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True, direct_to_workers=True) as client,
    ):
        yield client
