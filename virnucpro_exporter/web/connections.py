"""Connections with limits on everything a client decides: how many, how long, how much.

Each is a task of one event loop. Where all places are taken, or file descriptors have run out, one
makes room, so that a new scrape always gets in: a stranger first, which has had no answer yet or
was refused, then the connection that has been idle the longest, and never the newest.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from virnucpro_exporter.web.http import HttpError, Request, Response, parse
from virnucpro_exporter.web.pace import Pace, share_of_machine
from virnucpro_exporter.web.streams import Stream
from virnucpro_exporter.web.web_config import Tls

_log = logging.getLogger(__name__)

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY = 0.05  # seconds until the next accept where no room can be made
_ROOM_MADE = 0.001  # seconds for a dropped connection to give its file descriptor back
# What strangers may cost a run, as a share of the machine, and what they may cost at once.
_SHARE = 0.015
_BURST = 0.025  # seconds
_DEAREST = 0.01  # seconds that one stranger is taken to have cost at most

_Tasks = dict["asyncio.Task[None]", None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take.

    Attributes:
        connections: How many at the same time; fewer where the process may open few files.
        head_seconds: For the TLS handshake, and for all of the head of a request.
        idle_seconds: Between two requests on one connection.
        write_seconds: For the client to read an answer.
        total_seconds: Age at which a connection ends after the answer it is due.
    """

    connections: int = 512
    head_seconds: float = 5.0
    idle_seconds: float = 75.0
    write_seconds: float = 15.0
    total_seconds: float = 3600.0


class Connections:
    """Accepts connections and answers the requests on them.

    Args:
        respond: Makes the answer to a request.
        tls: What holds for a new connection, None for plain HTTP; asked for each one, so that it
            may change.
        limits: What one client may take.
    """

    def __init__(
        self,
        respond: Callable[[Request], Awaitable[Response]],
        tls: Callable[[], Tls | None],
        limits: Limits,
    ) -> None:
        self._respond = respond
        self._tls = tls
        self._limits = limits
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The other half is for the run; without a limit (-1) there is none here either.
        self._places = min(limits.connections, files // 2) if files > 0 else limits.connections
        # Each in the order in which a connection came to its present state.
        self._strangers: _Tasks = {}
        self._idle: _Tasks = {}
        self._busy: _Tasks = {}
        self._refusals = Pace(share_of_machine(_SHARE), _BURST)
        self._crowd = Pace(share_of_machine(_SHARE))
        self._spent = 0.0

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:
                _log.debug("cannot accept a connection: %s", error)
                is_stuck = error.errno in _NO_ROOM and not self._drop_one()
                await asyncio.sleep(_RETRY if is_stuck else _ROOM_MADE)
                continue
            if len(self._strangers) + len(self._idle) + len(self._busy) >= self._places:
                self._drop_one()
                await self._in_turn(self._crowd)
            newest = asyncio.create_task(self._serve(client, str(address[0])))
            await asyncio.sleep(0)  # it begins, and is kept in its place from then on
            del newest

    def drop_idle(self) -> None:
        """End the connections without a request in progress."""
        for task in (*self._strangers, *self._idle):
            task.cancel()

    async def close(self) -> None:
        """End all connections; none may be accepted any more."""
        await asyncio.sleep(0)  # let the newest begin, see `accept`
        tasks = [*self._strangers, *self._idle, *self._busy]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drop_one(self) -> bool:
        """End the connection that can best be done without; False without any.

        Strangers come first as long as there are many. Few of them are new, and what fills the
        places are then clients that do not read their answers.
        """
        many = len(self._strangers) > self._places // 4
        for tasks in (*((self._strangers,) if many else ()), self._idle, self._busy):
            for task in tasks:
                del tasks[task]
                task.cancel()
                return True
        for task in [*self._strangers][:-1]:
            del self._strangers[task]
            task.cancel()
            return True
        return False

    def _move(self, task: asyncio.Task[None], to: _Tasks) -> None:
        """Put a connection last in its new state; one that was dropped is in none, and ends."""
        for tasks in (self._strangers, self._idle, self._busy):
            if tasks.pop(task, task) is None:
                to[task] = None

    async def _in_turn(self, pace: Pace) -> None:
        """Wait until strangers have cost no more than they may."""
        now, spent = time.monotonic(), time.thread_time()
        pace.spend(now, min(spent - self._spent, _DEAREST))
        self._spent = spent
        await asyncio.sleep(pace.wait(now))

    async def _serve(self, client: socket.socket, host: str) -> None:
        """The life of one connection; whatever its client does, it ends here."""
        task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment] # within one
        # Only now can it be dropped: cancelled before its first step, it would leak the socket.
        self._strangers[task] = None
        now = asyncio.get_running_loop().time()
        stream = Stream(client, now + self._limits.head_seconds)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._tls()
            if tls is None or tls.admits(await stream.secure(tls.context)):
                await self._converse(stream, task, host)
                await stream.end()
        except (OSError, EOFError) as error:
            _log.debug("a connection ended early: %r", error)
        finally:
            stream.close()
            for tasks in (self._strangers, self._idle, self._busy):
                tasks.pop(task, None)

    async def _converse(self, stream: Stream, task: asyncio.Task[None], host: str) -> None:
        """Answer one request after the other."""
        limits, clock = self._limits, asyncio.get_running_loop().time
        ends, patience, keep_alive = clock() + limits.total_seconds, limits.head_seconds, True
        while keep_alive:
            stream.deadline = clock() + patience
            if not await stream.begin():
                return
            stream.deadline = clock() + limits.head_seconds
            if task in self._idle:
                self._move(task, self._idle)
            with_body = True
            try:
                request = replace(parse(await stream.head()), client=host)
                with_body = request.method != "HEAD"
                response = await self._respond(request)
                keep_alive = request.keep_alive and clock() < ends
            except HttpError as error:
                response, keep_alive = error.response, False
            if response.is_refusal:
                await self._in_turn(self._refusals)
            else:
                self._move(task, self._busy)
            await self._send(stream, response, keep_alive=keep_alive, with_body=with_body)
            if not response.is_refusal:
                self._move(task, self._idle)
                patience = limits.idle_seconds

    async def _send(
        self, stream: Stream, response: Response, *, keep_alive: bool, with_body: bool
    ) -> None:
        stream.deadline = asyncio.get_running_loop().time() + self._limits.write_seconds
        try:
            await stream.send(
                response.head(time.time(), keep_alive=keep_alive),
                response.body if with_body else b"",
            )
        except TimeoutError:
            stream.reset()
            raise
