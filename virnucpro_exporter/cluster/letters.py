"""The messages between a run and its agents, and their sequence numbers.

Each node has one connection, over which batches are sent. A batch holds a letter for each Dask
worker with something to send, by the worker's address; an empty batch is a sign of life. Commands
and events are numbered: what was not acknowledged is sent again over the next connection, and the
receiver drops numbers that it has already received. So nothing is lost or doubled when a connection
breaks or another Dask worker carries it.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from virnucpro_exporter.cluster.commands import Command
from virnucpro_exporter.cluster.looks import Look
from virnucpro_exporter.scheduling.events import WorkerEvent

# The name of the Dask worker's handler for the connections of runs.
LINE = "virnucpro-line"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """The device of a Dask worker.

    Attributes:
        device: Number of its GPU on the node, or None for a CPU slot.
        name: Model name of the GPU, or `CPU`.
        pin: The CUDA_VISIBLE_DEVICES of its worker process.
        trouble: Why it cannot be used, in one line, or empty.
        sees: Numbers of all GPUs of the node that this process can sample.
        shown: Numbers of the GPUs in its CUDA_VISIBLE_DEVICES, its own first.
    """

    device: str | None
    name: str
    pin: str
    trouble: str = ""
    sees: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """The introduction of an agent.

    Attributes:
        node: Name of the node.
        place: The device of the Dask worker.
    """

    node: str
    place: Place


class Told(NamedTuple):
    """A numbered event; a tuple, because tuples are unpickled fastest.

    Attributes:
        number: The sequence number of the event.
        generation: How many processes the worker had had by then.
        event: The event.
    """

    number: int
    generation: int
    event: WorkerEvent


@dataclass(slots=True)
class Down:
    """From the run to an agent.

    Attributes:
        heard: Acknowledges all events up to this number.
        commands: The commands with their sequence numbers.
        watch: Seconds between two reports of its GPUs; 0 where other agents report them.
        workers: How many workers the run has.
    """

    heard: int
    commands: Sequence[tuple[int, Command]] = ()
    watch: float = 0.0
    workers: int = 0


@dataclass(slots=True)
class Up:
    """From an agent to the run, or from a Dask worker about another that it cannot reach.

    Attributes:
        taken: Acknowledges all commands up to this number.
        events: The numbered events.
        about: The introduction of the agent; in the first letter of a connection.
        gpus: A sample of the GPUs that it sees.
        is_idle_closed: `CloseIdle` has been carried out.
        is_leaving: Its Dask worker is about to end.
        has_ended: The agent has ended.
        rival: How many workers another run has that waits for this Dask worker, or None.
        silence: Seconds since the last message of this Dask worker arrived at the one that relays
            its letters.
        is_broken: It cannot be reached from its node.
    """

    taken: int = 0
    events: Sequence[Told] = ()
    about: About | None = None
    gpus: Look | None = None
    is_idle_closed: bool = False
    is_leaving: bool = False
    has_ended: bool = False
    rival: int | None = None
    silence: float = 0.0
    is_broken: bool = False


def sealed(batch: Mapping[str, Down | Up | None], *, is_beat: bool = False) -> dict[str, Any]:
    """A batch as a message of Dask; the letters are pickled here, which is the fastest way.

    Args:
        batch: The letters, by the addresses of Dask workers; None where the run has given one up.
        is_beat: Whether Dask workers without a letter get a sign of life, too.
    """
    message: dict[str, Any] = {"beat": True} if is_beat else {}
    if batch:
        message["letters"] = pickle.dumps(dict(batch), pickle.HIGHEST_PROTOCOL)
    return message


def opened(message: Mapping[str, Any]) -> dict[str, Any]:
    """The unpickled letters of a batch; all members of a Dask cluster trust each other's code."""
    content = message.get("letters")
    return {} if content is None else pickle.loads(content)  # noqa: S301 - see above


class Numbered(Generic[T]):
    """Messages that are not acknowledged yet, in the order of their sequence numbers."""

    def __init__(self) -> None:
        self.last = 0
        self._kept: deque[tuple[int, T]] = deque()

    def add(self, content: T) -> int:
        """Add a message; returns its sequence number."""
        self.last += 1
        self._kept.append((self.last, content))
        return self.last

    def drop_last(self) -> None:
        """Remove the last message, which a newer one replaces."""
        self._kept.pop()

    def acknowledge(self, number: int) -> None:
        """Remove all messages up to this number: they have arrived."""
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()

    def after(self, number: int) -> list[tuple[int, T]]:
        """The messages with a higher number."""
        if self.last <= number:
            return []
        fresh: list[tuple[int, T]] = []
        for item in reversed(self._kept):
            if item[0] <= number:
                break
            fresh.append(item)
        fresh.reverse()
        return fresh
