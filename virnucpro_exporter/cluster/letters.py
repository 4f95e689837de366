"""What the run and its agents tell each other, and how it is counted.

A batch goes over one connection for each node: a letter for every Dask worker there that has
something to say, by its address, and none at all as a sign of life. Commands and events are
numbered; what was not acknowledged is sent again over the next connection, and what came before is
dropped. So a connection may break, or go through another Dask worker, and nothing is lost.
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

# Under this name a Dask worker hears the lines of runs.
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
        sees: Numbers of the node's GPUs that it sees, its own and others.
        shown: Numbers of those that its CUDA_VISIBLE_DEVICES names, its own first.
    """

    device: str | None
    name: str
    pin: str
    trouble: str = ""
    sees: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What an agent tells of itself.

    Attributes:
        node: Name of the node.
        place: Its device.
    """

    node: str
    place: Place


class Told(NamedTuple):
    """An event; a tuple, because those are opened fastest.

    Attributes:
        number: Of the event.
        generation: How many processes the worker had had by then.
        event: What happened.
    """

    number: int
    generation: int
    event: WorkerEvent


@dataclass(slots=True)
class Down:
    """From the run to an agent.

    Attributes:
        heard: All events up to this number have come.
        commands: With their numbers.
        watch: Seconds between two looks at its GPUs; 0 where others tell of them.
        workers: How many workers the run has.
    """

    heard: int
    commands: Sequence[tuple[int, Command]] = ()
    watch: float = 0.0
    workers: int = 0


@dataclass(slots=True)
class Up:
    """From an agent to the run, or from a Dask worker about one that it cannot reach.

    Attributes:
        taken: All commands up to this number have come.
        events: What happened.
        about: What the agent is, when a connection has begun.
        gpus: What it sees of its GPUs.
        is_idle_closed: `CloseIdle` has been carried out.
        is_leaving: Its Dask worker is about to end.
        has_ended: It will do nothing any more.
        rival: How many workers another run has that waits for this Dask worker, or None.
        silence: For how many seconds it has not been heard on its node.
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
    """A batch, as Dask carries it fastest: letters by the addresses of Dask workers.

    Args:
        batch: The letters.
        is_beat: Those that have none are to hear that the run goes on.
    """
    message: dict[str, Any] = {"beat": True} if is_beat else {}
    if batch:
        message["letters"] = pickle.dumps(dict(batch), pickle.HIGHEST_PROTOCOL)
    return message


def opened(message: Mapping[str, Any]) -> dict[str, Any]:
    """The letters of a batch; from members of the cluster alone, which run each other's code."""
    content = message.get("letters")
    return {} if content is None else pickle.loads(content)  # noqa: S301 - see above


class Numbered(Generic[T]):
    """What was told and is not acknowledged yet, in its order."""

    def __init__(self) -> None:
        self.last = 0
        self._kept: deque[tuple[int, T]] = deque()

    def add(self, content: T) -> int:
        """Give it the next number."""
        self.last += 1
        self._kept.append((self.last, content))
        return self.last

    def drop_last(self) -> None:
        """Forget the last one: another says more."""
        self._kept.pop()

    def acknowledge(self, number: int) -> None:
        """All up to this number have arrived."""
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()

    def after(self, number: int) -> list[tuple[int, T]]:
        """Those with a higher number."""
        if self.last <= number:
            return []
        fresh: list[tuple[int, T]] = []
        for item in reversed(self._kept):
            if item[0] <= number:
                break
            fresh.append(item)
        fresh.reverse()
        return fresh
