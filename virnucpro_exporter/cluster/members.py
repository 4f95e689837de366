"""The Dask workers of a run, as they come and go; all of it belongs to one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any, Protocol

from distributed import Client
from distributed.comm import get_address_host

from virnucpro_exporter import __version__
from virnucpro_exporter.cluster import agent as dask_agent
from virnucpro_exporter.cluster.agent import NODE_VARIABLE, About, Agent, Job
from virnucpro_exporter.cluster.commands import CloseIdle, Command
from virnucpro_exporter.cluster.gpu_watch import Gpus, GpuWatch
from virnucpro_exporter.cluster.link import Link, RemoteAgent
from virnucpro_exporter.scheduling.events import LossCause, WorkerJoined, WorkerLost
from virnucpro_exporter.scheduling.ids import WorkerId

log = logging.getLogger(__name__)

# The Dask workers of a node begin within so many seconds of each other.
_NODE_SECONDS = 15.0

# Agents get so long to end at the close.
_END_SECONDS = 10.0

_OTHER_VERSION = f"the Dask worker at %s has version %s of this program, not {__version__}"
_UNUSABLE = "the Dask worker at %s cannot be used: %s"
_THREADS = (
    "the Dask worker of %s has %d threads and does one file at a time all the same; start one with"
    " --nthreads 1 for each GPU or CPU slot"
)
_UNUSED = (
    "a Dask worker of node %s is shown GPU %s, too, and none has it as its own; start one worker"
    " per GPU, each with its own GPU first, as `dask cuda worker` does"
)
_ALL_LEFT = "the last Dask worker has left; the run ends unless another joins within %g s"


class Listener(Protocol):
    """Hears what happens to the members."""

    def tell(self, event: Any, generation: int | None = None) -> None:
        """An event of a worker, and of which of its processes; None: of the worker itself."""

    def complain(self, trouble: str) -> None:
        """Why a node cannot be used, in one line."""

    def fail(self, error: BaseException) -> None:
        """This program has made a mistake."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a run deals with Dask workers.

    Attributes:
        job: What the agents are told.
        weigh: The expected speed of a device, by its model name.
        gpus: Is told of each node, and about every second of its GPUs; or None.
        silence: Seconds without an answer after which a node counts as lost.
        patience: Seconds for which a run without any worker waits for one to join.
    """

    job: Job
    weigh: Callable[[str], float]
    gpus: Gpus | None
    silence: float
    patience: float


class Members:
    """The Dask workers with an agent: each is one worker of the run.

    Args:
        client: Of the cluster.
        terms: How to deal with them.
        listener: Hears what happens.
    """

    def __init__(self, client: Client, terms: Terms, listener: Listener) -> None:
        self._client = client
        self._terms = terms
        self._listener = listener
        self._links: dict[str, Link] = {}  # by the id of the worker
        self._pins: dict[str, str] = {}  # by the id, of those that have joined or are about to
        self._known: set[str] = set()  # addresses that have an agent, or are asked for one
        self._rivals: dict[str, str] = {}  # addresses refused, by the id that was taken
        self._accused: set[str] = set()  # nodes that cannot be used, as was told
        self._has_warned = False  # of threads
        self._shown: dict[str, set[str]] = {}  # the ids of the GPUs that a node was seen to have
        self._last_lost: WorkerLost | None = None  # held back while another may join
        self._is_patient = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch = None if terms.gpus is None else GpuWatch(terms.gpus, self._start)

    async def look(self) -> list[asyncio.Task[None]]:
        """Compare the workers that are there with those that are known.

        Returns:
            What ends when those that are new have joined.
        """
        try:
            ask = self._client.scheduler.ncores()
            threads = await asyncio.wait_for(ask, self._terms.silence)
        except (OSError, asyncio.TimeoutError):
            return []  # the client's own connection tells whether the scheduler is gone
        there = set(threads)
        for link in [link for link in self._links.values() if link.address not in there]:
            self._lose(link, "its Dask worker has left")
        self._known &= there
        new = [self._start(self._adopt(a, threads[a])) for a in there - self._known]
        self._known |= there
        return new

    def send(self, worker_id: WorkerId, command: Command) -> None:
        """Have a worker carry out a command; that one has left was told."""
        if link := self._links.get(worker_id):
            link.send(command)

    def drain(self) -> None:
        """Wait no longer for a worker that may join."""
        self._is_patient = False
        if self._last_lost is not None:
            self._give_up(self._last_lost)

    async def close_idle(self, seconds: float) -> None:
        """Let the workers that process nothing close their processors and leave."""
        links = list(self._links.values())
        for link in links:
            link.send(Command(link.worker_id, CloseIdle(seconds), -1))
        await asyncio.gather(*(link.idle_closed() for link in links), return_exceptions=True)

    async def leave(self) -> None:
        """End the agents and all that is under way."""
        self._is_patient = False
        links = list(self._links.values())
        ends = [asyncio.create_task(link.end()) for link in links]
        if ends:
            await asyncio.wait(ends, timeout=_END_SECONDS)
        tasks = [*ends, *self._tasks]
        for task in tasks:
            task.cancel()
        tasks += [task for link in links for task in link.cut()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._listener.fail(error)

    async def _adopt(self, address: str, threads: int) -> None:
        """Put an agent on a Dask worker."""
        submit = partial(self._client.submit, workers=[address], pure=False)
        try:
            # Asked by name: Dask closes a worker that does not know what it is sent.
            version = await submit(resolve_name, f"{dask_agent.__name__}:VERSION")
            if version != __version__:
                self._complain(_host(address), _OTHER_VERSION % (address, version))
                return
            agent = RemoteAgent(await submit(Agent, self._terms.job, actor=True))
            about = await agent.ask(Agent.about)
            if about.place.trouble:
                self._complain(about.node, f"node {about.node}: {about.place.trouble}")
                return
            worker_id = self._id(about)
            if worker_id in self._pins:
                self._rivals[address] = worker_id
                self._complain(
                    about.node, _conflict(worker_id, about.place.pin, self._pins[worker_id])
                )
                return
            await self._begin(agent, worker_id, about.place.pin)
        except Exception as error:  # noqa: BLE001 - whatever is wrong there must not end the run
            if address in self._known:
                self._complain(_host(address), _UNUSABLE % (address, " ".join(str(error).split())))
            return
        if threads > 1 and not self._has_warned:
            self._has_warned = True
            log.warning(_THREADS, worker_id, threads)
        self._note_shown(about)
        self._welcome(Link(worker_id, about, address, agent, self._terms.silence))

    async def _begin(self, agent: RemoteAgent, worker_id: WorkerId, pin: str) -> None:
        self._pins[worker_id] = pin
        try:
            await agent.ask(Agent.begin, worker_id, pin)
        except BaseException:
            del self._pins[worker_id]
            raise

    def _complain(self, node: str, trouble: str) -> None:
        if node not in self._accused:
            self._accused.add(node)
            self._listener.complain(trouble)

    def _id(self, about: About) -> WorkerId:
        """The id of the worker: node and number, of a GPU or of the first free CPU slot."""
        if about.place.device is not None:
            return WorkerId(f"{about.node}/{about.place.device}")
        number = 0
        while f"{about.node}/cpu{number}" in self._pins:
            number += 1
        return WorkerId(f"{about.node}/cpu{number}")

    def _welcome(self, link: Link) -> None:
        self._links[link.worker_id] = link
        link.begin(self._listener.tell, self._lose)
        if self._watch is not None:
            self._watch.join(link)
        lost, self._last_lost = self._last_lost, None
        if lost is not None and lost.worker_id == link.worker_id:
            self._listener.tell(WorkerLost(link.worker_id, lost.reason, LossCause.TAKEN_AWAY))
            return
        self._listener.tell(WorkerJoined(link.worker_id, link.name, self._terms.weigh(link.name)))
        if lost is not None:
            self._listener.tell(lost)

    def _note_shown(self, about: About) -> None:
        """A lone Dask worker that is shown several GPUs leaves all but the first idle: say so."""
        node = about.node
        if node not in self._shown:
            self._shown[node] = set()
            asyncio.get_running_loop().call_later(_NODE_SECONDS, self._tell_unused, node)
        self._shown[node].update(f"{node}/{gpu}" for gpu in about.place.shown)

    def _tell_unused(self, node: str) -> None:
        unused = sorted(self._shown[node] - self._pins.keys())
        if unused and any(link.node == node for link in self._links.values()):
            log.warning(_UNUSED, node, ", ".join(unused))

    def _lose(self, link: Link, reason: str) -> None:
        """A Dask worker is gone, or does not answer."""
        if self._links.get(link.worker_id) is not link:
            return
        del self._links[link.worker_id], self._pins[link.worker_id]
        self._known.discard(link.address)
        rivals = {address for address, rival in self._rivals.items() if rival == link.worker_id}
        self._known -= rivals  # one of them may take its place
        link.cut()
        if self._watch is not None:
            self._watch.leave(link)
        lost = WorkerLost(link.worker_id, reason, LossCause.LEFT_CLUSTER)
        if self._links or not self._is_patient:
            self._listener.tell(lost)
        else:
            log.warning(_ALL_LEFT, self._terms.patience)
            self._last_lost = lost
            asyncio.get_running_loop().call_later(self._terms.patience, self._give_up, lost)

    def _give_up(self, lost: WorkerLost) -> None:
        if self._last_lost is lost:
            self._last_lost = None
            self._listener.tell(lost)


def _conflict(gpu: str, pin: str, before: str) -> str:
    if pin == before:
        return f"several Dask workers use GPU {gpu}; start one worker per GPU"
    return (
        f"two GPUs are called {gpu}, {before} and {pin}; give their Dask workers different names of"
        f" the node in {NODE_VARIABLE}"
    )


def _host(address: str) -> str:
    return str(get_address_host(address))
