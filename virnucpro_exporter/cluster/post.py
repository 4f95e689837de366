"""The Dask worker's end of the exchange with runs; used in the worker's event loop alone.

A `Post` is the mailbox of one run on a Dask worker: it keeps the events of the agent until the run
has acknowledged them, and receives the commands of the run. A `Hub` is the node's end of a line, a
run's connection to one node: it serves the post of its own Dask worker, and relays the letters of
the other Dask workers of the node (`Peer`) over connections to them. So a run receives the messages
of a node in one batch; when the Dask worker that relays ends, the others keep their posts.
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

# A Dask worker counts as silent after so many of its longest pauses without a message.
SILENT_BEATS = 3

# Within a node messages are sent more often than to the run, so that a relayed message waits only a
# short time.
_PEER_SHARE = 0.5

# The time limit for a connection to another Dask worker of the node, in seconds.
_CONNECT_SECONDS = 5.0

# A line that is given up stays open for so many seconds, for the last messages.
PARTING_SECONDS = 1.0

_PLUGIN = "virnucpro-leaving"


class Inmate(Protocol):
    """The interface of the agent that the post uses."""

    def gpus(self) -> GpuSnapshot:
        """The GPUs visible to the agent; never blocks."""

    def obey(self, command: Command) -> None:
        """Add a command to the queue; commands are executed in their order."""

    def end(self) -> None:
        """End soon; `Post.is_over` is set when the agent has ended."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The answer of a Dask worker to the first call of a run.

    Attributes:
        node: Name of the node.
        threads: The number of its threads: as many tasks can run on it at once.
        is_taken: Whether the agent of another run occupies it.
    """

    node: str
    threads: int
    is_taken: bool


class Post:
    """The mailbox of one run on a Dask worker, between the agent and the run.

    Args:
        worker: The Dask worker.

    Attributes:
        agent: The agent of the run, while there is one.
        heard_at: Monotonic seconds of the last message of the run.
        line_lost_at: Monotonic seconds at which the line was lost; None while there is one, and
            before the first.
        is_over: Set when the agent has ended.
        is_leaving: The Dask worker is about to end.
        workers: How many workers the run has.
        watch: Seconds between two reports of the GPUs; 0: none.
    """

    def __init__(self, worker: Worker) -> None:
        self.agent: Inmate | None = None
        self.heard_at = time.monotonic()
        self.line_lost_at: float | None = None
        self.is_over = asyncio.Event()
        self.is_leaving = False
        self.workers = 0
        self.watch = 0.0
        self._worker = worker
        self._about: About | None = None
        self._events: Numbered[tuple[int, WorkerEvent]] = Numbered()
        self._is_progress = False  # whether the last event is progress that was not sent yet
        self._taken = self._told_taken = 0
        self._is_idle_closed = False
        self._hub: Hub | None = None
        self._sent = 0
        self._is_new = True  # the agent's state was not sent on this line, or has changed
        self._looked_at = 0.0
        self._told_rival: int | None = None

    def is_given_up(self, seconds: float) -> bool:
        """Whether another run waits, and this one has had no line for so many seconds."""
        lost_at = self.line_lost_at
        if lost_at is None or time.monotonic() - lost_at < seconds:
            return False
        return any(post.is_waiting for post in posts(self._worker).values())

    @property
    def is_news(self) -> bool:
        """Whether the agent's state has to be sent."""
        return self._is_new

    # -- called for the agent --

    def introduce(self, about: About) -> None:
        """Send the introduction of the agent; `about.place.trouble` is why it cannot be used."""
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
        """Send that `CloseIdle` has been carried out."""
        self._is_idle_closed = True
        self._is_new = True
        self._hurry()

    def leave(self) -> None:
        """Send that the Dask worker is about to end."""
        self.is_leaving = True
        self._is_new = True
        self._hurry()

    def end(self) -> None:
        """Send that the agent has ended."""
        self.agent = None
        self.is_over.set()
        self._is_new = True
        self._hurry()

    # -- called for the run --

    def attach(self, hub: Hub, heard: int) -> None:
        """Use this line; on a new one, all events after number `heard` are sent again."""
        if self._hub is not hub:
            self._hub = hub
            self._sent = heard
            self._is_progress = False
            self._is_new = True
            self.line_lost_at = None

    def detach(self, hub: Hub) -> None:
        """Note that the line is lost, if it is the present one."""
        if self._hub is hub:
            self._hub = None
            self.line_lost_at = time.monotonic()

    def dismiss(self, hub: Hub) -> None:
        """End the agent: the run has given it up."""
        self.detach(hub)
        if self.agent is not None:
            self.agent.end()

    def take(self, letter: Down) -> None:
        """Take a letter of the run."""
        self.heard_at = time.monotonic()
        self._events.acknowledge(letter.heard)
        self.watch, self.workers = letter.watch, letter.workers
        for number, command in letter.commands:
            if number > self._taken:
                self._taken = number
                if self.agent is not None:
                    self.agent.obey(command)

    def letter(self, hub: Hub, *, is_due: bool) -> Up | None:
        """The letter to send now, or None.

        Args:
            hub: The line that would send it; None is returned where it is not the present one.
            is_due: A beat is over: messages that can wait are sent, too.
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
        """Whether a report of the GPUs is due, rounded to the nearest beat."""
        return self.watch > 0 and now - self._looked_at + hub.pace() / 2 >= self.watch

    def _rival(self) -> int | None:
        """The number of workers of the run with the fewest that waits for this Dask worker."""
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
    """The posts of a Dask worker, by the tokens of their runs."""
    return _POSTS.setdefault(worker, {})


def post_of(worker: Worker, token: str) -> Post:
    """The post of a run on a Dask worker; made where there is none."""
    known = posts(worker)
    if token not in known:
        known[token] = Post(worker)
    return known[token]


async def visit(token: str, dask_worker: Worker) -> Visit:
    """Prepare a Dask worker for a run; Dask executes it on that worker.

    An earlier agent of the same run is ended: the run has given it up, and starts another.

    Args:
        token: The token of the run.
        dask_worker: The Dask worker; Dask passes it by this name.
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
    """The name of this process's node: `VIRNUCPRO_NODE_NAME`, else its short host name."""
    return os.environ.get(NODE_VARIABLE) or os.uname().nodename.partition(".")[0]


class Leaving(WorkerPlugin):  # type: ignore[misc]  # Dask's has no types
    """Ends the agents of a Dask worker in order when Dask or its nanny closes it."""

    def setup(self, worker: Worker) -> None:
        """Keep the worker for `teardown`."""
        self._worker = worker

    async def teardown(self, worker: Worker) -> None:
        """Announce the end to the runs, and wait until the agents have ended."""
        await _leave(worker)


async def _leave(worker: Worker) -> None:
    """Announce the end to the runs, and wait until they have ended or taken back their files."""
    there = [post for post in posts(worker).values() if post.agent is not None]
    for post in there:
        post.leave()
    await asyncio.gather(*(post.is_over.wait() for post in there))
    await asyncio.sleep(0)  # lets the hubs send that the agents have ended


def _leave_before_the_end(worker: Worker) -> None:
    """Announce the end at SIGTERM also where the Dask worker has no nanny.

    Without one, `dask worker` cancels all tasks of its event loop before it calls a plugin.
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
        signal.signal(signal.SIGTERM, end)  # a second signal ends it at once
        loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(leave(signum))))

    signal.signal(signal.SIGTERM, leave_first)


class _Lines:
    """Dask's handler of the lines to a Dask worker."""

    __name__ = LINE

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, comm: Comm, token: str, beat: float, quiet: float) -> Status:
        hub = Hub(self._worker, token, beat, quiet)
        await hub.serve(comm)
        return Status.dont_reply


def end_together(telling: asyncio.Future[None], comm: Comm) -> None:
    """Close a connection when its sender ends, so that the other end notices and connects anew.

    Args:
        telling: The sender; it ends when it is cancelled, when the connection breaks, or by a
            defect, which is logged.
        comm: The connection.
    """

    def end(done: asyncio.Future[None]) -> None:
        if not done.cancelled() and (defect := done.exception()) is not None:
            log.error("a connection to %s failed", comm.peer_address, exc_info=defect)
        comm.abort()

    telling.add_done_callback(end)


class Hub:
    """The Dask worker's end of a line, for its own post and for other Dask workers of the node.

    Args:
        worker: The Dask worker.
        token: The token of the run.
        beat: Interval of messages that can wait, in seconds.
        quiet: Longest pause between two messages, in seconds.
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
        """Receive and send letters until the connection breaks."""
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
        """Seconds of a beat: GPUs and progress are sent together, at the interval of the GPUs."""
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
        address: The address of that Dask worker.
        worker: The Dask worker of the hub.
        token: The token of the run.
        beat: The hub's interval of messages that can wait, in seconds.
        quiet: The hub's longest pause between two messages, in seconds.
        hurry: Called when an urgent message has arrived, or the connection has broken.
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
        """Relay a letter."""
        self._outgoing.append(sealed({self._address: letter}))
        self._has_outgoing.set()

    def pass_on(self) -> None:
        """Relay a sign of life of the run."""
        self._outgoing.append(sealed({}, is_beat=True))
        self._has_outgoing.set()

    def letter(self, *, is_due: bool) -> Up | None:
        """What has arrived since the last call, or a report of silence; None: nothing to relay."""
        up, self._heard = self._heard, None
        if self._is_broken:
            return Up(is_broken=True)
        silence = time.monotonic() - self._heard_at
        if up is None and is_due and silence > SILENT_BEATS * self._quiet:
            up = Up(silence=silence)
        return up

    def dismiss(self) -> None:
        """Send that the run has given the Dask worker up, and close the connection soon."""
        self._outgoing.append(sealed({self._address: None}))
        self._has_outgoing.set()
        asyncio.get_running_loop().call_later(PARTING_SECONDS, self.close)

    def close(self) -> None:
        """Close the connection."""
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
        except OSError:  # the hub reports it to the run, which connects directly
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
    """Merge two letters of one Dask worker, in their order; of its progress the newest is kept."""
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
