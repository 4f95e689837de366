"""The conversation with the agent on one Dask worker, whatever connection carries it."""

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

# An event, and of which process of its worker it tells; None: of the worker itself.
News = tuple[WorkerEvent, "int | None"]

# A Dask worker without work for so many seconds may go to a run that waits for it.
IDLE_SECONDS = 10.0


class Link:
    """One Dask worker, as the event loop talks to the agent there.

    Args:
        address: Of the Dask worker.
        node: Name of its node.

    Attributes:
        worker_id: The worker of the run that it is; empty until it has joined.
        quiet: For how many seconds it has not been heard.
        watch: Seconds between two looks at its GPUs; 0 where others tell of them.
        workers: How many workers the run has, for others that wait for it.
        gpus: What it told of its GPUs last; it is taken from here.
        news: What it told of its work; likewise.
        is_leaving: Its Dask worker is about to end.
        has_ended: The agent will do nothing any more.
        rival: How many workers a run has that waits for it, or None.
        was_told_to_leave: The run gives it no more files.
        is_broken: It cannot be reached from its node.
        is_doomed: Dask has given its Dask worker up.
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
        """Whether the agent will do nothing any more."""
        return self.ended.is_set()

    @property
    def has_work(self) -> bool:
        """Whether it was handed files that it has not ended."""
        return bool(self._running)

    @property
    def sees(self) -> tuple[str, ...]:
        """The numbers of the GPUs that it sees."""
        return () if self.about is None else self.about.place.sees

    def begin(self, worker_id: WorkerId) -> None:
        """It is this worker of the run now."""
        self.worker_id = worker_id

    def send(self, order: Order, generation: int = -1) -> None:
        """Have the agent carry out an order, after those before it."""
        self._commands.add(Command(self.worker_id, order, generation))
        if isinstance(order, Start):
            self._running.update(action.attempt for action in order.actions)
            self.idle = 0.0

    def end(self) -> None:
        """Have the agent end."""
        self.send(End())

    def close_idle(self, seconds: float) -> None:
        """Have it close its processor, if it processes nothing."""
        self.send(CloseIdle(seconds))

    # -- letters --

    def reconnected(self) -> None:
        """Another connection carries the conversation: what was not acknowledged is sent again."""
        self._sent = 0
        self._told = None

    def letter(self, *, is_due: bool) -> Down | None:
        """What is to be sent now, if anything.

        Args:
            is_due: Acknowledgements are sent as well.
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
        """Its node was heard, which would have said that it is silent."""
        if not self._is_silent:
            self.quiet = 0.0

    def take(self, up: Up) -> None:
        """It has told something, or its node tells that it is silent or gone."""
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
