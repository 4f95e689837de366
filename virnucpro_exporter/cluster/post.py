"""The side of a Dask worker on which runs are heard; all of it belongs to the worker's event loop.

For each run that wants a Dask worker there is a `Post`: what its agent has told and the run has
not heard, and the other way round. A `Hub` is the end of a line, the connection of a run to one
node: it serves the post of its own Dask worker, and those of the others of the node over lines of
its own. So a run hears a node in one batch, and a Dask worker that ends takes no other along.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from distributed import Worker, WorkerPlugin
from distributed.comm import Comm, connect
from distributed.core import Status

from virnucpro_exporter.cluster.commands import Command
from virnucpro_exporter.cluster.letters import (
    LINE,
    About,
    Down,
    Numbered,
    Told,
    Up,
    opened,
    sealed,
)
from virnucpro_exporter.cluster.looks import pack
from virnucpro_exporter.scheduling.events import Progress, WorkerEvent
from virnucpro_exporter.snapshot import GpuSnapshot

log = logging.getLogger(__name__)

# The environment variable that names the node where its host name does not (in Kubernetes).
NODE_VARIABLE = "VIRNUCPRO_NODE_NAME"

# A Dask worker that has not been heard on its node for so many beats is silent.
SILENT_BEATS = 3

# On its node a Dask worker tells more often than the node tells the run, so that what it has told
# waits little.
_PEER_SHARE = 0.5

# A Dask worker of the node that does not take a connection within so many seconds is not there.
_CONNECT_SECONDS = 5.0

# A line that is given up is left open so long for the last word, in seconds.
PARTING_SECONDS = 1.0

_PLUGIN = "virnucpro-leaving"


class Inmate(Protocol):
    """The agent, as its post knows it."""

    def gpus(self) -> GpuSnapshot:
        """The GPUs that it sees; never waits."""

    def obey(self, command: Command) -> None:
        """Carry out a command after those before it."""

    def end(self) -> None:
        """End soon; `Post.is_over` says when it has."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What a Dask worker tells of itself before it is asked for anything.

    Attributes:
        node: Name of the node.
        threads: How many files Dask thinks it can do at a time.
        is_taken: Another run works with it.
    """

    node: str
    threads: int
    is_taken: bool


class Post:
    """What one run and its agent on a Dask worker have to tell each other.

    Args:
        worker: The Dask worker.
    """

    def __init__(self, worker: Worker) -> None:
        self.agent: Inmate | None = None
        self.heard_at = time.monotonic()
        self.line_lost_at: float | None = None
        self.is_over = asyncio.Event()
        self.is_leaving = False
        self.workers = 0  # that the run has
        self.watch = 0.0
        self._worker = worker
        self._about: About | None = None
        self._events: Numbered[tuple[int, WorkerEvent]] = Numbered()
        self._is_progress = False  # the last event, which was not sent yet
        self._taken = self._told_taken = 0
        self._is_idle_closed = False
        self._hub: Hub | None = None
        self._sent = 0
        self._is_new = True  # what it is was not told on this line
        self._looked_at = 0.0
        self._told_rival: int | None = None

    def is_given_up(self, seconds: float) -> bool:
        """Whether another run waits, and this one has not been connected for so many seconds."""
        lost_at = self.line_lost_at
        if lost_at is None or time.monotonic() - lost_at < seconds:
            return False
        return any(post.is_waiting for post in posts(self._worker).values())

    @property
    def is_news(self) -> bool:
        """Whether what it is has to be told."""
        return self._is_new

    # -- the side of the agent --

    def introduce(self, about: About) -> None:
        """The agent can be used, or cannot: then it ends."""
        self._about = about
        self._is_new = True
        self._hurry()

    def put(self, told: list[tuple[int, WorkerEvent]]) -> None:
        """Add events with their generations, in the order in which they happened."""
        for item in told:
            is_progress = isinstance(item[1], Progress)
            if is_progress and self._is_progress:
                self._events.drop_last()  # of the same attempt: no other has begun since
            self._events.add(item)
            self._is_progress = is_progress
            if not is_progress:
                self._hurry()

    def close_idle_done(self) -> None:
        """`CloseIdle` has been carried out."""
        self._is_idle_closed = True
        self._is_new = True
        self._hurry()

    def leave(self) -> None:
        """The Dask worker is about to end."""
        self.is_leaving = True
        self._is_new = True
        self._hurry()

    def end(self) -> None:
        """The agent has ended."""
        self.agent = None
        self.is_over.set()
        self._is_new = True
        self._hurry()

    # -- the side of the run --

    def attach(self, hub: Hub, heard: int) -> None:
        """A new line has come: tell all over it that was not heard."""
        if self._hub is not hub:
            self._hub = hub
            self._sent = heard
            self._is_progress = False
            self._is_new = True
            self.line_lost_at = None

    def detach(self, hub: Hub) -> None:
        """The line is gone."""
        if self._hub is hub:
            self._hub = None
            self.line_lost_at = time.monotonic()

    def dismiss(self, hub: Hub) -> None:
        """The run wants the agent no longer."""
        self.detach(hub)
        if self.agent is not None:
            self.agent.end()

    def take(self, letter: Down) -> None:
        """The run has told something."""
        self.heard_at = time.monotonic()
        self._events.acknowledge(letter.heard)
        self.watch, self.workers = letter.watch, letter.workers
        for number, command in letter.commands:
            if number > self._taken:
                self._taken = number
                if self.agent is not None:
                    self.agent.obey(command)

    def letter(self, hub: Hub, *, is_due: bool) -> Up | None:
        """What is to be told now, if anything.

        Args:
            hub: The line that asks.
            is_due: A beat is over: what can wait is told as well.
        """
        if self._hub is not hub:
            return None
        now = time.monotonic()
        events = self._events.after(self._sent)
        up = Up(self._taken, [Told(number, *told) for number, told in events])
        is_news = bool(events) or self._is_new or (is_due and self._taken != self._told_taken)
        if self._is_new:
            self._is_new = False
            up.about = self._about
            up.is_idle_closed = self._is_idle_closed
            up.is_leaving = self.is_leaving
            up.has_ended = self.is_over.is_set()
        if is_due and self.agent is not None and self._is_to_look(now, hub):
            self._looked_at = now
            up.gpus = pack(time.time(), self.agent.gpus())
            is_news = True
        rival = self._rival() if is_due else self._told_rival
        is_news = is_news or rival != self._told_rival
        self._told_rival = up.rival = rival
        if not is_news:
            return None
        self._sent = self._events.last
        self._is_progress = False
        self._told_taken = self._taken
        return up

    def _is_to_look(self, now: float, hub: Hub) -> bool:
        """Whether it is time for the GPUs, to the nearest beat: a late one would be two beats."""
        return self.watch > 0 and now - self._looked_at + hub.pace() / 2 >= self.watch

    def _rival(self) -> int | None:
        """How many workers the neediest run has that waits for this Dask worker."""
        waiting = [p.workers for p in posts(self._worker).values() if p.is_waiting]
        return min(waiting, default=None) if self.agent is not None else None

    @property
    def is_waiting(self) -> bool:
        """Whether its run is connected and has no agent here yet."""
        return self.agent is None and self._hub is not None and not self.is_over.is_set()

    def _hurry(self) -> None:
        if self._hub is not None:
            self._hub.news.set()


_POSTS: WeakKeyDictionary[Worker, dict[str, Post]] = WeakKeyDictionary()


def posts(worker: Worker) -> dict[str, Post]:
    """What each run has on a Dask worker, by its token."""
    return _POSTS.setdefault(worker, {})


def post_of(worker: Worker, token: str) -> Post:
    """What a run has on a Dask worker."""
    known = posts(worker)
    if token not in known:
        known[token] = Post(worker)
    return known[token]


async def visit(token: str, dask_worker: Worker) -> Visit:
    """Make a Dask worker able to hear a run; called there, through Dask.

    What the run has left there is ended: it has given that up, and begins anew.
    """
    before = posts(dask_worker).pop(token, None)
    if before is not None and before.agent is not None:
        before.agent.end()
        await before.is_over.wait()
    if LINE not in dask_worker.handlers:
        dask_worker.handlers[LINE] = _Lines(dask_worker)
        await dask_worker.plugin_add(plugin=Leaving(), name=_PLUGIN)
        _leave_before_the_end(dask_worker)
    is_taken = any(post.agent is not None for post in posts(dask_worker).values())
    return Visit(node_name(), dask_worker.state.nthreads, is_taken)


def node_name() -> str:
    """What the node of this process is called."""
    return os.environ.get(NODE_VARIABLE) or os.uname().nodename.partition(".")[0]


class Leaving(WorkerPlugin):  # type: ignore[misc]  # Dask's has no types
    """Lets the agents of a Dask worker that Dask or its nanny ends do so in order."""

    def setup(self, worker: Worker) -> None:
        """Keep the worker in mind."""
        self._worker = worker

    async def teardown(self, worker: Worker) -> None:
        """Leave first."""
        await _leave(worker)


async def _leave(worker: Worker) -> None:
    """Give the runs the time to end what is in process, or to take it back."""
    there = [post for post in posts(worker).values() if post.agent is not None]
    for post in there:
        post.leave()
    await asyncio.gather(*(post.is_over.wait() for post in there))
    await asyncio.sleep(0)  # the lines tell that they have ended


def _leave_before_the_end(worker: Worker) -> None:
    """Leave at SIGTERM also where no nanny ends the Dask worker.

    Then `dask worker` cancels all that goes on in its event loop, before any plugin hears of it.
    """
    before = signal.getsignal(signal.SIGTERM)
    is_dask_s = getattr(before, "__module__", "") == "distributed._signals"
    is_here = threading.current_thread() is threading.main_thread()
    if worker.nanny is not None or not (is_here and is_dask_s and callable(before)):
        return
    end = before
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def leave(signum: int) -> None:
        await _leave(worker)
        end(signum, None)

    def leave_first(signum: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, end)  # the next one ends it at once
        loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(leave(signum))))

    signal.signal(signal.SIGTERM, leave_first)


class _Lines:
    """Serves the lines that come to a Dask worker."""

    __name__ = LINE

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, comm: Comm, token: str, beat: float, quiet: float) -> Status:
        hub = Hub(self._worker, token, beat, quiet)
        await hub.serve(comm)
        return Status.dont_reply


def end_together(telling: asyncio.Future[None], comm: Comm) -> None:
    """Break a connection when what sends over it ends, so that the other end looks for another one.

    Args:
        telling: Ends when it is cancelled, when the connection breaks, or by a logged defect.
        comm: The connection.
    """

    def end(done: asyncio.Future[None]) -> None:
        if not done.cancelled() and (defect := done.exception()) is not None:
            log.error("a connection to %s failed", comm.peer_address, exc_info=defect)
        comm.abort()

    telling.add_done_callback(end)


class Hub:
    """The end of a line at a Dask worker, for it and for others of its node.

    Args:
        worker: The Dask worker.
        token: Of the run.
        beat: What can wait is told every so many seconds.
        quiet: Nothing at all is told after so many.
    """

    def __init__(self, worker: Worker, token: str, beat: float, quiet: float) -> None:
        self.news = asyncio.Event()
        self._worker = worker
        self._token = token
        self._beat = beat
        self._quiet = quiet
        self._post: Post | None = None
        self._peers: dict[str, Peer] = {}

    async def serve(self, comm: Comm) -> None:
        """Carry letters to and fro until the connection breaks."""
        telling = asyncio.ensure_future(self._tell(comm))
        end_together(telling, comm)
        try:
            with contextlib.suppress(OSError):  # the line is broken; the run makes another
                while True:
                    message = await comm.read()
                    self._take(opened(message), is_beat="beat" in message)
        finally:
            telling.cancel()
            for peer in self._peers.values():
                peer.close()
            if self._post is not None:
                self._post.detach(self)
            comm.abort()

    def _take(self, batch: dict[str, Down | None], *, is_beat: bool) -> None:
        if self._post is not None:
            self._post.heard_at = time.monotonic()
        for address, letter in batch.items():
            if address == self._worker.address:
                self._take_own(letter)
            elif letter is not None:
                if address not in self._peers:
                    self._peers[address] = Peer(
                        address, self._worker, self._token, self._beat, self._quiet, self.news.set
                    )
                self._peers[address].send(letter)
            elif address in self._peers:
                self._peers.pop(address).dismiss()
        if is_beat:
            for peer in self._peers.values():
                peer.pass_on()

    def _take_own(self, letter: Down | None) -> None:
        if letter is None:
            if self._post is not None:
                self._post.dismiss(self)
                self._post = None
            return
        self._post = post_of(self._worker, self._token)
        self._post.attach(self, letter.heard)
        self._post.take(letter)
        if self._post.is_news:
            self.news.set()

    async def _tell(self, comm: Comm) -> None:
        told_at = beat_at = time.monotonic()
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(
                        self.news.wait(), max(0.0, beat_at + self.pace() - time.monotonic())
                    )
                self.news.clear()
                now = time.monotonic()
                is_due = now - beat_at >= self.pace()
                if is_due:
                    beat_at = now
                batch = self._letters(is_due=is_due)
                if batch or (is_due and now - told_at + self._beat / 2 >= self._quiet):
                    told_at = now
                    await comm.write(sealed(batch))

    def pace(self) -> float:
        """Seconds of a beat: what is known of the GPUs and how far files have got go together."""
        watch = 0.0 if self._post is None else self._post.watch
        return min(watch or self._beat, self._quiet)

    def _letters(self, *, is_due: bool) -> dict[str, Down | Up | None]:
        letters: dict[str, Down | Up | None] = {}
        if self._post is not None and (own := self._post.letter(self, is_due=is_due)) is not None:
            letters[self._worker.address] = own
        for address, peer in self._peers.items():
            if (up := peer.letter(is_due=is_due)) is not None:
                letters[address] = up
        return letters


class Peer:
    """Another Dask worker of the node, as a hub reaches it.

    Args:
        address: Of that Dask worker.
        worker: The one whose hub this is.
        token: Of the run.
        beat: As the hub's.
        quiet: As the hub's.
        hurry: Is called when there is something to tell.
    """

    def __init__(
        self,
        address: str,
        worker: Worker,
        token: str,
        beat: float,
        quiet: float,
        hurry: Callable[[], None],
    ) -> None:
        self._address = address
        self._arguments: dict[str, Any] = worker.connection_args
        self._hello = {
            "op": LINE,
            "reply": False,
            "token": token,
            "beat": beat * _PEER_SHARE,
            "quiet": quiet * _PEER_SHARE,
        }
        self._quiet = quiet
        self._hurry = hurry
        self._outgoing: list[dict[str, Any]] = []
        self._has_outgoing = asyncio.Event()
        self._heard: Up | None = None
        self._heard_at = time.monotonic()
        self._is_broken = False
        self._task = asyncio.ensure_future(self._talk())

    def send(self, letter: Down) -> None:
        """Pass a letter on."""
        self._outgoing.append(sealed({self._address: letter}))
        self._has_outgoing.set()

    def pass_on(self) -> None:
        """Pass a sign of life of the run on."""
        self._outgoing.append(sealed({}, is_beat=True))
        self._has_outgoing.set()

    def letter(self, *, is_due: bool) -> Up | None:
        """What it has told since the last time."""
        up, self._heard = self._heard, None
        if self._is_broken:
            return Up(is_broken=True)
        silence = time.monotonic() - self._heard_at
        if up is None and is_due and silence > SILENT_BEATS * self._quiet:
            up = Up(silence=silence)
        return up

    def dismiss(self) -> None:
        """Tell it that the run wants it no longer."""
        self._outgoing.append(sealed({self._address: None}))
        self._has_outgoing.set()
        asyncio.get_running_loop().call_later(PARTING_SECONDS, self.close)

    def close(self) -> None:
        """Talk no more."""
        self._task.cancel()

    async def _talk(self) -> None:
        comm: Comm | None = None
        telling: asyncio.Future[None] | None = None
        try:
            comm = await connect(self._address, timeout=_CONNECT_SECONDS, **self._arguments)
            await comm.write(self._hello)
            telling = asyncio.ensure_future(self._tell(comm))
            end_together(telling, comm)
            while True:
                batch = opened(await comm.read())
                self._heard_at = time.monotonic()
                if self._address in batch:
                    self._heard = joined(self._heard, batch[self._address])
                    if _is_urgent(self._heard):
                        self._hurry()
        except OSError:  # its node tells the run, which looks for another way
            self._is_broken = True
            self._hurry()
        finally:
            if telling is not None:
                telling.cancel()
            if comm is not None:
                comm.abort()

    async def _tell(self, comm: Comm) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._has_outgoing.wait()
                self._has_outgoing.clear()
                outgoing, self._outgoing = self._outgoing, []
                for message in outgoing:
                    await comm.write(message)


def _is_urgent(up: Up) -> bool:
    is_urgent = up.about is not None or up.is_leaving or up.has_ended or up.is_idle_closed
    return is_urgent or any(not isinstance(told.event, Progress) for told in up.events)


def joined(before: Up | None, up: Up) -> Up:
    """Two letters of one Dask worker as one, in their order; of its progress only the last word."""
    if before is None:
        return up
    events = list(before.events)
    around = [told.event for told in (*events[-1:], *up.events[:1])]
    if len(around) == 2 and all(isinstance(event, Progress) for event in around):
        events.pop()  # of the same attempt: no other has begun since
    return Up(
        up.taken,
        [*events, *up.events],
        up.about or before.about,
        up.gpus or before.gpus,
        is_idle_closed=up.is_idle_closed or before.is_idle_closed,
        is_leaving=up.is_leaving or before.is_leaving,
        has_ended=up.has_ended or before.has_ended,
        rival=up.rival,
    )
