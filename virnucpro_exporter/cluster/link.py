"""The exchange of messages with the agent on one Dask worker, independent of the connection."""

from __future__ import annotations

import asyncio

from virnucpro_exporter.cluster.commands import CloseIdle, Command, End, Order, Start
from virnucpro_exporter.cluster.letters import About, Down, Numbered, Up
from virnucpro_exporter.cluster.looks import Look
from virnucpro_exporter.scheduling.events import (
    AttemptCompleted,
    AttemptFailed,
    WorkerEvent,
    WorkerLost,
)
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId

# An event and the generation of the process that it concerns; None: it concerns the worker itself.
News = tuple[WorkerEvent, "int | None"]

# A Dask worker that is idle for so many seconds is given to a run that waits for it.
IDLE_SECONDS = 10.0


class Link:
    """The state of the exchange with the agent on one Dask worker.

    Args:
        address: The address of the Dask worker.
        node: Name of its node.

    Attributes:
        worker_id: Its id as a worker of the run; empty until it has joined.
        quiet: Seconds since its last message.
        watch: Seconds between two reports of its GPUs; 0 where other agents report them.
        workers: How many workers the run has; other runs compare it with theirs.
        gpus: The last sample of its GPUs; the reader resets it to None.
        news: The events that have arrived; the reader empties it.
        is_leaving: Its Dask worker is about to end.
        has_ended: The agent has ended.
        rival: How many workers another run has that waits for this Dask worker, or None.
        was_told_to_leave: The run gives it no more files.
        is_broken: The Dask worker that relays for its node cannot reach it.
        is_doomed: Dask's scheduler has removed the Dask worker.
    """

    def __init__(self, address: str, node: str) -> None:
        self.address = address
        self.node = node
        self.worker_id = WorkerId("")
        self.about: About | None = None
        self.introduced = asyncio.Event()
        self.idle_closed = asyncio.Event()
        self.ended = asyncio.Event()
        self.quiet = 0.0
        self.watch = 0.0
        self.workers = 0
        self.gpus: Look | None = None
        self.news: list[News] = []
        self.is_leaving = self.was_told_to_leave = self.is_doomed = self.is_broken = False
        self.rival: int | None = None
        self.idle = 0.0  # seconds without work
        self._is_silent = False
        self._running: set[AttemptNumber] = set()
        self._commands: Numbered[Command] = Numbered()
        self._sent = 0
        self._heard = self._told_heard = -1
        self._told: tuple[float, int] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the agent has ended."""
        return self.ended.is_set()

    @property
    def has_work(self) -> bool:
        """Whether attempts were sent to it that have not ended."""
        return bool(self._running)

    @property
    def sees(self) -> tuple[str, ...]:
        """The numbers of the GPUs that it sees."""
        return () if self.about is None else self.about.place.sees

    def begin(self, worker_id: WorkerId) -> None:
        """Note that the agent has joined the run as this worker."""
        self.worker_id = worker_id

    def send(self, order: Order, generation: int = -1) -> None:
        """Queue an order; the agent executes orders in their sequence."""
        self._commands.add(Command(self.worker_id, order, generation))
        if isinstance(order, Start):
            self._running.update(action.attempt for action in order.actions)
            self.idle = 0.0

    def end(self) -> None:
        """Order the agent to end."""
        self.send(End())

    def close_idle(self, seconds: float) -> None:
        """Order it to close its processor, if it is idle, within so many seconds."""
        self.send(CloseIdle(seconds))

    # -- letters --

    def reconnected(self) -> None:
        """Send what was not acknowledged again: the connection is a new one."""
        self._sent = 0
        self._told = None

    def letter(self, *, is_due: bool) -> Down | None:
        """The letter to send now, or None.

        Args:
            is_due: Whether acknowledgements and the number of workers are reasons to send one, too.
        """
        commands = self._commands.after(self._sent)
        terms = (self.watch, self.workers)
        is_first = self._told is None
        is_news = commands or is_first or (self._told or terms)[0] != self.watch
        if not (is_news or (is_due and (self._heard != self._told_heard or terms != self._told))):
            return None
        self._sent = self._commands.last
        self._told_heard = self._heard
        self._told = terms
        return Down(max(self._heard, 0), commands, self.watch, self.workers)

    def notice_node(self) -> None:
        """Note a message of its node: the node would have reported a silent agent."""
        if not self._is_silent:
            self.quiet = 0.0

    def take(self, up: Up) -> None:
        """Take a letter of the agent, or a report of its node that the agent is silent or gone."""
        self.is_broken = up.is_broken
        self._is_silent = up.silence > 0
        if self._is_silent:
            self.quiet = max(self.quiet, up.silence)
        if self.is_broken or self._is_silent:
            return
        self.quiet = 0.0
        self._commands.acknowledge(up.taken)
        self.rival = up.rival
        if up.about is not None and self.about is None:
            self.about = up.about
            self.introduced.set()
        if up.gpus is not None:
            self.gpus = up.gpus
        for told in up.events:
            if told.number > self._heard:
                self._heard = told.number
                self._note(told.event)
                if self.worker_id:
                    self.news.append((told.event, told.generation))
        if up.is_idle_closed:
            self.idle_closed.set()
        self.is_leaving = self.is_leaving or up.is_leaving
        if up.has_ended:
            self.ended.set()
            self.introduced.set()

    def _note(self, event: WorkerEvent) -> None:
        if isinstance(event, AttemptCompleted | AttemptFailed):
            self._running.discard(event.attempt)
        elif isinstance(event, WorkerLost):
            self._running.clear()
