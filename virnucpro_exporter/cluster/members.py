"""The Dask workers of a run: how they join and leave; used in one event loop alone."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any, Protocol

from distributed import Client, Future
from distributed.comm import get_address_host

from virnucpro_exporter import __version__
from virnucpro_exporter.cluster import agent as dask_agent
from virnucpro_exporter.cluster.agent import TASK, Job, beat, hold, quiet
from virnucpro_exporter.cluster.commands import Begin, Kill, Order
from virnucpro_exporter.cluster.demand import Demand
from virnucpro_exporter.cluster.endings import ended
from virnucpro_exporter.cluster.gpu_watch import Gpus, GpuWatch
from virnucpro_exporter.cluster.letters import About
from virnucpro_exporter.cluster.line import Line
from virnucpro_exporter.cluster.link import IDLE_SECONDS, Link, News
from virnucpro_exporter.cluster.post import NODE_VARIABLE, SILENT_BEATS, Visit, visit
from virnucpro_exporter.scheduling.events import (
    LossCause,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from virnucpro_exporter.scheduling.ids import WorkerId

log = logging.getLogger(__name__)

# After so many seconds all Dask workers of a node are expected to have joined.
_NODE_SECONDS = 15.0

# The time limit for the end of all agents at the end of a run, in seconds.
_END_SECONDS = 10.0

# The interval of the checks for silence, in seconds, and the least number of checks within the time
# limit for an answer.
_STEP_SECONDS, _STEPS = 1.0, 8

# A Dask worker that was lost or could not be reached, and is still in the cluster, is tried again
# after so many seconds; the pause doubles up to the maximum.
_AGAIN_SECONDS = 0.5
_MOST_AGAIN_SECONDS = 15.0

# The list of Dask workers is read again after so many seconds; the pause doubles up to the maximum.
# Events are lost until the subscription has reached the scheduler, and while a client reconnects.
_LIST_SECONDS = 1.0
_MOST_LIST_SECONDS = 30.0

# A Dask worker that could not be reached so many times is logged.
_TRIES_TOLD = 2

# After giving workers to another run, a run compares the numbers of workers again only after so
# many seconds. A run with one worker gives none.
_SHARE_SECONDS = 15.0
_LEAST_TO_SHARE = 2

# The scheduler's topic for workers that are added or removed.
_TOPIC = "all"

_FORGOTTEN = "it was without contact to this run for too long"
_TAKEN = (
    "another run uses Dask workers of node %s; this run gets its share of them as they become free"
)
_OTHER_VERSION = f"the Dask worker at %s has version %s of this program, not {__version__}"
_UNUSABLE = "the Dask worker at %s cannot be used: %s"
_UNREACHED = (
    "the Dask worker at %s cannot be reached (%s); the run keeps trying while the worker exists"
)
_THREADS = (
    "the Dask worker of %s has %d threads but processes one file at a time; start one worker with"
    " --nthreads 1 for each GPU or CPU slot"
)
_UNUSED = (
    "no Dask worker of node %s uses GPU %s, although one can see it; start one worker per GPU and"
    " list its own GPU first, as `dask cuda worker` does"
)
_ALL_LEFT = "the last Dask worker has left; the run ends unless another joins within %g s"


class Listener(Protocol):
    """Receives the events of the members."""

    def tell(self, event: Any, generation: int | None = None) -> None:
        """Take an event and the generation of its process; None: it concerns the worker itself."""

    def tell_all(self, news: list[News]) -> None:
        """Take several events at once."""

    def complain(self, trouble: str) -> None:
        """Take the reason, in one line, why a node cannot be used."""

    def fail(self, error: BaseException) -> None:
        """Take an unexpected error, a defect of this program."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings of a run on Dask workers.

    Attributes:
        job: The settings of the agents.
        weigh: The expected relative speed of a device, by its model name.
        gpus: Receives the nodes and, every few seconds, a sample of their GPUs; or None.
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
        client: A client of the cluster.
        terms: The settings of the run.
        listener: Receives the events.
        demand: The number of further workers that the run could use.
    """

    def __init__(self, client: Client, terms: Terms, listener: Listener, demand: Demand) -> None:
        self._client = client
        self._demand = demand
        self._terms = terms
        self._listener = listener
        self._lines: dict[str, list[Line]] = {}  # by node
        self._parted: list[Line] = []  # given up, and open for the last message
        self._links: dict[str, Link] = {}  # by the id of the worker
        self._pins: dict[str, str] = {}  # by the id, of those that have joined or are about to
        self._adopting: dict[str, asyncio.Task[None]] = {}  # by the address of the Dask worker
        self._known: set[str] = set()  # addresses that Dask has announced
        self._tasks_of_dask: dict[Link, Future] = {}
        self._taken: set[str] = set()  # addresses that another run had when they were visited
        self._rivals: dict[str, str] = {}  # addresses refused, by the id that was taken
        self._accused: set[str] = set()  # nodes that were reported as unusable
        self._has_warned = False  # of threads
        self._shown: dict[str, set[str]] = {}  # the ids of the GPUs that a node was seen to have
        self._last_lost: WorkerLost | None = None  # held back while another may join
        self._is_patient = True
        self._is_over = False
        self._given_at = -math.inf  # when a worker was last given to another run
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch = None if terms.gpus is None else GpuWatch(terms.gpus, self._post)

    # -- the Dask workers of the cluster --

    @property
    def is_gathering(self) -> bool:
        """Whether Dask workers are about to join, except those that another run occupies."""
        return bool(self._adopting.keys() - self._taken)

    async def open(self) -> None:
        """Subscribe to the events of Dask workers, and adopt those that exist."""
        await self._look()
        self._show_demand()
        self._start(self._keep_looking())
        self._start(self._keep_time())

    async def _keep_looking(self) -> None:
        for seconds in _doubled(_LIST_SECONDS, _MOST_LIST_SECONDS):
            await asyncio.sleep(seconds)
            await self._look()

    async def _look(self) -> None:
        """Compare the known Dask workers with the scheduler's list, and renew the subscription."""
        before = frozenset(self._known)
        self._client.subscribe_topic(_TOPIC, self._hear_of)  # idempotent
        ask = self._client.scheduler.ncores()
        try:
            there = await asyncio.wait_for(ask, self._terms.silence)
        except (OSError, asyncio.TimeoutError):
            return  # `DaskPool` watches the client's connection for the loss of the scheduler
        for address in there:
            self._appear(address)
        for address in before - there.keys():
            self._disappear(address)

    def _hear_of(self, event: tuple[float, Any]) -> None:
        """Take an event of the scheduler's topic."""
        _, message = event
        if not isinstance(message, dict):
            return
        if message.get("action") == "add-worker":
            self._appear(message["worker"])
        elif message.get("action") == "remove-worker":
            self._disappear(message["worker"])

    def _appear(self, address: str) -> None:
        if address not in self._known:
            self._known.add(address)
            self._adopt_later(address)

    def _disappear(self, address: str) -> None:
        self._known.discard(address)
        self._rivals.pop(address, None)
        adopting = self._adopting.get(address)
        if adopting is not None:
            adopting.cancel()
        for link in [link for link in self._links.values() if link.address == address]:
            link.is_doomed = True  # it may be ending its files, or have gone abruptly
            line = self._line_of(link)
            if line is not None and line.head == address and not line.is_connected:
                self._lose(link, "its Dask worker has left")

    def _adopt_later(self, address: str, delay: float = 0.0) -> None:
        if self._is_over:
            return
        task = self._start(self._adopt(address, delay))
        self._adopting[address] = task

        def forget(_: object) -> None:
            if self._adopting.get(address) is task:
                del self._adopting[address]

        task.add_done_callback(forget)

    def _show_demand(self) -> None:
        # A Dask worker counts once it has a task of the run. Until then its waiting task remains,
        # because `adapt` would close an idle worker while it imports the program.
        joining = sum(not link.worker_id for link in self._tasks_of_dask)
        least = 0 if self._last_lost is None else 1  # the run loop has not received the loss yet
        self._demand.show(self._client, joining, least)

    # -- requests of the run loop --

    def send(self, worker_id: WorkerId, order: Order, generation: int) -> None:
        """Send an order to a worker; ignored where it has left, which an event has reported."""
        if link := self._links.get(worker_id):
            link.send(order, generation)
            if isinstance(order, Kill) and link.was_told_to_leave:
                link.end()
            self._post(link)

    def drain(self) -> None:
        """Stop waiting for a worker that may join: the loss of the last one is reported at once."""
        self._is_patient = False
        if self._last_lost is not None:
            self._give_up(self._last_lost)

    async def close_idle(self, seconds: float) -> None:
        """Order idle workers to close their processors, and wait until each agent has answered."""
        links = list(self._links.values())
        for link in links:
            link.close_idle(seconds)
            self._post(link)
        await asyncio.gather(*(link.idle_closed.wait() for link in links))

    async def leave(self) -> None:
        """End the agents, the connections and all tasks."""
        self._is_patient, self._is_over = False, True
        if self._client.status == "running":
            self._client.unsubscribe_topic(_TOPIC)
        self._demand.workers = 0
        self._demand.show(self._client, 0)
        for task in self._tasks:
            task.cancel()
        links = [
            link for lines in self._lines.values() for line in lines for link in line.links.values()
        ]
        for link in links:
            link.end()
            self._post(link)
        ends = [asyncio.create_task(_when(link.ended)) for link in links if link.about is not None]
        if ends:
            await asyncio.wait(ends, timeout=_END_SECONDS)
        lines = [*self._parted, *(line for lines in self._lines.values() for line in lines)]
        for line in lines:
            line.links = {}  # messages that arrive now are ignored
        for future in self._tasks_of_dask.values():
            future.release()
        await ended([*ends, *self._tasks, *(line.close() for line in lines)])

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._listener.fail(error)

    # -- a Dask worker becomes a worker of the run --

    async def _adopt(self, address: str, delay: float) -> None:
        """Start an agent on a Dask worker, as soon as it can be reached."""
        await asyncio.sleep(delay)
        for tries, seconds in enumerate(_doubled(_AGAIN_SECONDS, _MOST_AGAIN_SECONDS), 1):
            trouble = await self._try(address)
            if trouble is None:
                return
            if tries == _TRIES_TOLD:
                log.warning(_UNREACHED, address, trouble)
            await asyncio.sleep(seconds)

    async def _try(self, address: str) -> str | None:
        """Start an agent on a Dask worker; returns why it cannot be reached, else None.

        None does not mean that it has joined: one that can be reached, but not used, is reported.
        """
        link: Link | None = None
        try:
            visited = await self._visit(address)
            if visited is None:
                return None
            link = Link(address, visited.node)
            link.workers = len(self._links)
            if visited.is_taken:
                if not self._taken:
                    log.warning(_TAKEN, visited.node)
                self._taken.add(address)
            self._connect(link)
            about = await self._settle(link)
            if about is None or self._line_of(link) is None:
                return "no connection"
            if about.place.trouble:
                self._complain(about.node, f"node {about.node}: {about.place.trouble}")
            else:
                self._note_shown(about)
                self._join(link, about, visited.threads)
        except (OSError, asyncio.TimeoutError, CancelledError) as error:
            return _text(error)  # the connection to it or to the scheduler has broken
        except Exception as error:  # noqa: BLE001 - a fault of one node must not end the run
            if address in self._known:
                self._complain(_host(address), _UNUSABLE % (address, _text(error)))
        finally:
            if link is not None and not link.worker_id:
                self._let_go(link)
        return None

    async def _visit(self, address: str) -> Visit | None:
        call = partial(self._client.run, workers=[address])
        # By name: Dask closes a worker that cannot unpickle what it receives.
        version = (await call(resolve_name, f"{dask_agent.__name__}:VERSION"))[address]
        if version != __version__:
            self._complain(_host(address), _OTHER_VERSION % (address, version))
            return None
        visited: Visit = (await call(visit, self._terms.job.token))[address]
        return visited

    async def _settle(self, link: Link) -> About | None:
        """Start the agent, and wait for its introduction."""
        future = self._client.submit(
            hold,
            self._terms.job,
            key=f"{TASK}-{secrets.token_hex(16)}",
            workers=[link.address],
            allow_other_workers=False,
            pure=False,
        )
        self._tasks_of_dask[link] = future
        self._show_demand()
        over = asyncio.ensure_future(future.result())
        told = asyncio.ensure_future(link.introduced.wait())
        try:
            await asyncio.wait({over, told}, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()  # raises the reason why there is no agent
                await asyncio.wait({told}, timeout=self._terms.silence)
        finally:
            told.cancel()
            over.cancel()
        return link.about

    def _join(self, link: Link, about: About, threads: int) -> None:
        worker_id, pin = self._id(about), about.place.pin
        if worker_id in self._pins:
            self._rivals[link.address] = worker_id
            self._complain(about.node, _conflict(worker_id, pin, self._pins[worker_id]))
            return
        self._pins[worker_id] = pin
        link.begin(worker_id)
        link.send(Begin(pin))
        self._post(link)
        if threads > 1 and not self._has_warned:
            self._has_warned = True
            log.warning(_THREADS, worker_id, threads)
        self._welcome(link, about.place.name)

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

    def _welcome(self, link: Link, name: str) -> None:
        self._links[link.worker_id] = link
        self._demand.workers -= 1  # until the run loop sets it again
        if self._watch is not None:
            self._watch.join(link)
        lost, self._last_lost = self._last_lost, None
        if lost is not None and lost.worker_id == link.worker_id:
            self._listener.tell(WorkerLost(link.worker_id, lost.reason, LossCause.TAKEN_AWAY))
            return
        self._listener.tell(WorkerJoined(link.worker_id, name, self._terms.weigh(name)))
        if lost is not None:
            self._listener.tell(lost)

    def _note_shown(self, about: About) -> None:
        """Note the visible GPUs of a node; those that no Dask worker uses are logged later.

        A single Dask worker to which several GPUs are visible uses the first one only.
        """
        node = about.node
        if node not in self._shown:
            self._shown[node] = set()
            asyncio.get_running_loop().call_later(_NODE_SECONDS, self._tell_unused, node)
        self._shown[node].update(f"{node}/{gpu}" for gpu in about.place.shown)

    def _tell_unused(self, node: str) -> None:
        unused = sorted(self._shown[node] - self._pins.keys())
        if unused and any(link.node == node for link in self._links.values()):
            log.warning(_UNUSED, node, ", ".join(unused))

    # -- connections --

    def _connect(self, link: Link, *, alone: bool = False) -> None:
        """Connect to a Dask worker through another of its node, or directly (`alone`)."""
        lines = self._lines.setdefault(link.node, [])
        if lines and not alone and not lines[0].is_private:
            lines[0].add(link)
        else:
            self._draw([link], is_private=alone)

    def _draw(self, links: list[Link], *, is_private: bool = False) -> None:
        lease = self._terms.job.lease
        line = Line(
            links,
            self._terms.job.token,
            beat(lease),
            quiet(lease),
            self._client.connection_args,
            self._heard,
            self._broken,
            is_private=is_private,
        )
        lines = self._lines.setdefault(links[0].node, [])
        (lines.append if is_private else partial(lines.insert, 0))(line)

    def _line_of(self, link: Link) -> Line | None:
        lines = self._lines.get(link.node, ())
        return next((line for line in lines if link.address in line.links), None)

    def _post(self, link: Link) -> None:
        """Wake the sender of a link's connection."""
        if line := self._line_of(link):
            line.send(link)

    def _let_go(self, link: Link) -> None:
        """End the exchange with a Dask worker, and its agent."""
        if future := self._tasks_of_dask.pop(link, None):
            future.release()
        line = self._line_of(link)
        if line is None:
            return
        line.remove(link)
        if not line.links:
            self._drop(line)
        elif line.head == link.address:  # the others need another connection
            self._regroup(line)

    def _drop(self, line: Line) -> list[Link]:
        """Give a connection up; returns its links."""
        links = list(line.links.values())
        line.links = {}
        line.part()
        self._parted = [*(old for old in self._parted if not old.is_closed), line]
        for lines in self._lines.values():
            if line in lines:
                lines.remove(line)
        return links

    def _heard(self, links: list[Link]) -> None:
        """Forward the messages that have arrived over a connection."""
        news: list[News] = []
        for link in links:
            news += link.news
            link.news = []
        if news:
            self._listener.tell_all(news)
        for link in links:
            if self._watch is not None and link.gpus is not None:
                self._watch.hear(link)
            if link.is_broken:
                self._reconnect(link)
            elif link.has_ended and link.worker_id:
                why = "its Dask worker has left" if link.is_leaving else _FORGOTTEN
                self._lose(link, why)
            elif link.is_leaving and not link.was_told_to_leave and link.worker_id:
                self._see_off(link, "its Dask worker is about to leave")

    def _reconnect(self, link: Link) -> None:
        """Connect directly to a Dask worker that cannot be reached through its node."""
        link.is_broken = False
        if link.is_doomed:
            self._lose(link, "its Dask worker has left")
            return
        if line := self._line_of(link):
            line.remove(link)
        self._connect(link, alone=True)

    def _broken(self, line: Line) -> None:
        """Reach the Dask workers of a broken connection in another way, or report their loss."""
        if line.is_private or (len(line.links) == 1 and not line.was_heard):
            for link in self._drop(line):
                self._lose(link, "its Dask worker has left")
        else:
            self._regroup(line)

    def _regroup(self, line: Line) -> None:
        """Connect to a node through another of its Dask workers, and to the first one directly."""
        links = self._drop(line)
        others = [link for link in links if link.address != line.head]
        for link in links:
            if link.address == line.head and link.is_doomed:
                self._lose(link, "its Dask worker has left")
            elif link.address == line.head:
                self._draw([link], is_private=True)
        if others:
            self._draw(others)

    # -- time --

    async def _keep_time(self) -> None:
        """Detect silent nodes, and give workers to other runs.

        After a pause of this program, messages that arrived meanwhile are still unread. So no step
        counts for more than twice its length.
        """
        loop = asyncio.get_running_loop()
        step = min(_STEP_SECONDS, self._terms.silence / _STEPS)
        while True:
            begin = loop.time()
            await asyncio.sleep(step)
            passed = min(loop.time() - begin, 2 * step)
            for lines in list(self._lines.values()):
                for line in list(lines):
                    self._pass_time(line, passed)
            if self._watch is not None:
                self._watch.pass_time(passed)
            self._share()
            self._show_demand()

    def _pass_time(self, line: Line, passed: float) -> None:
        line.quiet += passed
        patience = quiet(self._terms.job.lease) * SILENT_BEATS
        for link in list(line.links.values()):
            link.quiet += passed
            link.idle = 0.0 if link.has_work else link.idle + passed
            if link.quiet > self._terms.silence:
                self._lose(link, f"its node has not answered for {self._terms.silence:g} s")
            elif link.is_doomed and link.quiet > patience:
                self._lose(link, "its Dask worker has left")
        if line.quiet > patience and len(line.links) > 1 and not line.is_private:
            self._regroup(line)

    # -- leaving --

    def _see_off(self, link: Link, reason: str) -> None:
        """Report that a worker is leaving: the scheduler gives it no more files."""
        link.was_told_to_leave = True
        log.info("%s leaves: %s", link.worker_id, reason)
        self._listener.tell(WorkerLeaving(link.worker_id, reason))

    def _share(self) -> None:
        """Give some Dask workers to a run that waits for them and has fewer, or that are idle."""
        staying = [link for link in self._links.values() if not link.was_told_to_leave]
        for lines in self._lines.values():
            for line in lines:
                for link in line.links.values():
                    link.workers = len(staying)
        wanted = [link for link in staying if link.rival is not None]
        now = asyncio.get_running_loop().time()
        if not wanted or len(staying) < _LEAST_TO_SHARE:
            return
        idle = [link for link in wanted if link.idle > IDLE_SECONDS]
        theirs = min(link.rival for link in wanted if link.rival is not None)
        spare = (len(staying) - theirs) // 2 if now - self._given_at > _SHARE_SECONDS else 0
        most = len(staying) - 1
        for link in [*idle, *(link for link in wanted if link not in idle)][
            : min(most, max(spare, len(idle)))
        ]:
            self._given_at = now
            self._see_off(link, "another run gets its Dask worker")

    def _lose(self, link: Link, reason: str) -> None:
        """Remove a Dask worker that is gone or does not answer, and report the loss."""
        is_last_word = link.is_leaving and not link.was_told_to_leave  # both were announced at once
        if is_last_word and self._links.get(link.worker_id) is link and not self._is_over:
            self._see_off(link, "its Dask worker is about to leave")
        self._let_go(link)
        if self._links.get(link.worker_id) is not link:
            link.introduced.set()  # it had not joined the run yet
            return
        del self._links[link.worker_id], self._pins[link.worker_id]
        if self._is_over:
            return
        if self._watch is not None:
            self._watch.leave(link)
        if link.address in self._known:
            self._adopt_later(link.address, _AGAIN_SECONDS)
        for address in [a for a, rival in self._rivals.items() if rival == link.worker_id]:
            del self._rivals[address]
            self._adopt_later(address)  # it may take its place
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


async def _when(event: asyncio.Event) -> None:
    await event.wait()


def _conflict(gpu: str, pin: str, before: str) -> str:
    if pin == before:
        return f"several Dask workers use GPU {gpu}; start one worker per GPU"
    return (
        f"two GPUs have the name {gpu}: {before} and {pin}; give their Dask workers different node"
        f" names in {NODE_VARIABLE}"
    )


def _doubled(seconds: float, most: float) -> Iterator[float]:
    while True:
        yield seconds
        seconds = min(2 * seconds, most)


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _host(address: str) -> str:
    return str(get_address_host(address))
