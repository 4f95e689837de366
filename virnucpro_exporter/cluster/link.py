"""The conversation with the agent on one Dask worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from virnucpro_exporter.cluster.agent import About, Agent, AgentEndedError
from virnucpro_exporter.cluster.commands import Command
from virnucpro_exporter.scheduling.events import WorkerEvent
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.snapshot import GpuSnapshot

# Takes an event, and of which process of its worker it tells; None: of the worker itself.
Tell = Callable[[WorkerEvent, "int | None"], None]


P = ParamSpec("P")
T = TypeVar("T")


class RemoteAgent:
    """An agent elsewhere. Its methods are named as what they are, so that types check each call.

    Args:
        actor: What Dask gives for it: the names of the methods, each to be awaited.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def ask(
        self, method: Callable[Concatenate[Agent, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method that answers at once, there."""
        answer: T = await getattr(self._actor, method.__name__)(*args, **kwargs)
        return answer

    async def wait(
        self,
        method: Callable[Concatenate[Agent, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a method that takes its time, there."""
        answer: T = await getattr(self._actor, method.__name__)(*args, **kwargs)
        return answer


# The time for which an answer is waited for is taken in so many steps.
_STEPS = 8


class Link:
    """One worker of the run, as the event loop talks to it.

    Args:
        worker_id: The id of the worker.
        about: What its agent has told.
        address: Of the Dask worker.
        agent: The agent there.
        silence: Seconds without an answer after which it counts as lost.
    """

    def __init__(
        self, worker_id: WorkerId, about: About, address: str, agent: RemoteAgent, silence: float
    ) -> None:
        self.worker_id = worker_id
        self.node = about.node
        self.name = about.place.name
        self.sees = about.place.sees
        self.address = address
        self._agent = agent
        self._silence = silence
        self._outgoing: list[Command] = []
        self._has_outgoing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, tell: Tell, lose: Callable[[Link, str], None]) -> None:
        """Pass commands and events on from now on.

        Args:
            tell: Takes what the agent tells.
            lose: Is told, once or twice, why the agent cannot be talked to any more.
        """

        async def until_lost(talk: Callable[[Tell], Any]) -> None:
            try:
                await talk(tell)
            except Exception as error:  # noqa: BLE001 - Dask tells a lost node in many ways
                lose(self, _why(error, self._silence))

        self._tasks = [
            asyncio.create_task(until_lost(talk)) for talk in (self._listen, self._speak)
        ]

    def send(self, command: Command) -> None:
        """Have the agent carry out a command, after those before it."""
        self._outgoing.append(command)
        self._has_outgoing.set()

    async def gpus(self) -> tuple[float, GpuSnapshot]:
        """The present time of the node's clock, in Unix seconds, and the GPUs seen there."""
        return await self._in_time(self._agent.wait(Agent.gpus))

    async def idle_closed(self) -> None:
        """Wait until `CloseIdle` has been carried out."""
        await self._agent.wait(Agent.idle_closed)

    def cut(self) -> list[asyncio.Task[None]]:
        """Talk no more.

        Returns:
            What is about to end, for whoever has to wait for it.
        """
        for task in self._tasks:
            task.cancel()
        return self._tasks

    async def end(self) -> None:
        """End the agent and its process."""
        with contextlib.suppress(OSError):  # it is gone
            await self._agent.ask(Agent.end)

    async def _speak(self, _tell: Tell) -> None:
        """Send the commands, those that have gathered together, one message at a time."""
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            commands, self._outgoing = self._outgoing, []
            await self._in_time(self._agent.wait(Agent.tell, commands))

    async def _listen(self, tell: Tell) -> None:
        while True:
            for generation, event in await self._in_time(self._agent.wait(Agent.listen)):
                tell(event, generation)

    async def _in_time(self, answer: Coroutine[Any, Any, T]) -> T:
        """An answer, unless there is none for too long while this program runs.

        A program that was paused finds timers that are over and answers that are waiting: so each
        step of the time counts only for as long as it was to be.
        """
        task = asyncio.ensure_future(answer)
        left, step = self._silence, self._silence / _STEPS
        try:
            while left > 0:
                begin = time.monotonic()
                done, _ = await asyncio.wait({task}, timeout=step)
                if done:
                    return task.result()
                left -= min(step, time.monotonic() - begin)
            raise asyncio.TimeoutError
        finally:
            task.cancel()


def _why(error: Exception, silence: float) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"its node has not answered for {silence:g} s"
    if isinstance(error, AgentEndedError):
        return "it had not heard of this run for too long"
    return "its Dask worker has left"
