"""Connections with limits on everything a client decides: how many, how long, how much.

Each is a task of one event loop. Where all places are taken, or file descriptors have run out, the
connection that has been idle the longest makes room, so that a new scrape always gets in.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from virnucpro_exporter.web.http import LONGEST_HEAD, HttpError, Request, Response, parse

_log = logging.getLogger(__name__)

_CHUNK = 32768  # bytes; what a slow reader costs beside the page that all readers share
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY = 0.05  # seconds until the next accept where no room can be made
_ROOM_MADE = 0.001  # seconds for a dropped connection to give its file descriptor back
# On close, forget what has not been sent yet and reset the connection.
_FORGET = struct.pack("ii", 1, 0)
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take.

    Attributes:
        connections: How many at the same time.
        head_seconds: For the TLS handshake, and for all of the head of a request.
        idle_seconds: Between two requests on one connection.
        write_seconds: For the client to read an answer.
        total_seconds: Age at which a connection ends after the answer it is due.
    """

    connections: int = 128
    head_seconds: float = 5.0
    idle_seconds: float = 75.0
    write_seconds: float = 15.0
    total_seconds: float = 3600.0


class Connections:
    """Accepts connections and answers the requests on them.

    Args:
        respond: Makes the answer to a request.
        tls: The context for a new connection, None for plain HTTP; asked for each one, so that it
            may change.
        limits: What one client may take.
    """

    def __init__(
        self,
        respond: Callable[[Request], Awaitable[Response]],
        tls: Callable[[], ssl.SSLContext | None],
        limits: Limits,
    ) -> None:
        self._respond = respond
        self._tls = tls
        self._limits = limits
        # Both in the order in which a connection came to its present state.
        self._idle: dict[asyncio.Task[None], None] = {}
        self._busy: dict[asyncio.Task[None], None] = {}

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                _log.debug("cannot accept a connection: %s", error)
                is_stuck = error.errno in _NO_ROOM and not self._drop_oldest()
                await asyncio.sleep(_RETRY if is_stuck else _ROOM_MADE)
                continue
            if len(self._idle) + len(self._busy) >= self._limits.connections:
                self._drop_oldest()
            newest = asyncio.create_task(self._serve(client))
            await asyncio.sleep(0)  # it begins, and is kept in its place from then on
            del newest

    def drop_idle(self) -> None:
        """End the connections without a request in progress."""
        for task in self._idle:
            task.cancel()

    async def close(self) -> None:
        """End all connections; none may be accepted any more."""
        await asyncio.sleep(0)  # let the newest begin, see `accept`
        tasks = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drop_oldest(self) -> bool:
        """End the connection that has been idle the longest, or else busy; False without any."""
        tasks = self._idle or self._busy
        for task in tasks:
            del tasks[task]
            task.cancel()
            return True
        return False

    def _move(
        self, origin: dict[asyncio.Task[None], None], to: dict[asyncio.Task[None], None]
    ) -> None:
        """Put the connection under way last in its new place, or end it if it was dropped."""
        task = asyncio.current_task()
        if task is None or task not in origin:
            # Before Python 3.12 `wait_for` forgets a cancellation that comes with the result.
            raise asyncio.CancelledError
        del origin[task]
        to[task] = None

    async def _serve(self, client: socket.socket) -> None:
        """The life of one connection; whatever its client does, it ends here."""
        task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment] # within one
        # Only now can it be dropped: cancelled before its first step, it would leak the socket.
        self._idle[task] = None
        transport: asyncio.Transport | None = None
        try:
            # asyncio sets this only on sockets that know their protocol; accepted ones do not.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = asyncio.StreamReader(limit=LONGEST_HEAD)
            protocol = asyncio.StreamReaderProtocol(reader)
            loop = asyncio.get_running_loop()
            context = self._tls()
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=context,
                ssl_handshake_timeout=self._limits.head_seconds if context else None,
            )
            # What the client has not taken is waited for, not buffered: see `_send`.
            transport.set_write_buffer_limits(0)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await self._converse(reader, writer)
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), self._limits.head_seconds)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            _log.debug("a connection ended early: %r", error)
        finally:
            if transport is None:
                client.close()
            else:
                transport.abort()
            for tasks in (self._idle, self._busy):
                tasks.pop(task, None)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other."""
        limits, loop = self._limits, asyncio.get_running_loop()
        ends, patience, keep_alive = loop.time() + limits.total_seconds, limits.head_seconds, True
        while keep_alive:
            first = await asyncio.wait_for(reader.read(1), patience)
            if not first:
                return
            self._move(self._idle, self._idle)
            body_wanted = True
            try:
                request = parse(first + await asyncio.wait_for(_head(reader), limits.head_seconds))
                self._move(self._idle, self._busy)
                body_wanted = request.method != "HEAD"
                response = await self._respond(request)
                keep_alive = request.keep_alive and loop.time() < ends
            except HttpError as error:
                response, keep_alive = error.response, False
            sending = _send(writer, response, keep_alive=keep_alive, body=body_wanted)
            try:
                await asyncio.wait_for(sending, limits.write_seconds)
            except asyncio.TimeoutError:
                client = writer.get_extra_info("socket")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
                raise
            if keep_alive:
                self._move(self._busy, self._idle)
            patience = limits.idle_seconds


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(_END_OF_HEAD)
    except asyncio.LimitOverrunError as error:
        raise HttpError(431, "the headers are too long") from error


async def _send(
    writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool, body: bool
) -> None:
    """Write the answer in pieces, so that only the piece under way is copied for a slow reader."""
    writer.write(response.head(time.time(), keep_alive=keep_alive))
    view = memoryview(response.body if body else b"")
    for start in range(0, len(view), _CHUNK):
        writer.write(view[start : start + _CHUNK])
        await writer.drain()
    await writer.drain()
