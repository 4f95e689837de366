"""A connection as bytes in and out, plain or over TLS, with one deadline for all that it waits for.

asyncio's own streams tie transport, protocol and reader together in rings, which only the garbage
collector takes apart. During a run it seldom looks, and a TLS connection holds 100 kB: here nothing
refers back, so all is freed as soon as a connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from virnucpro_exporter.web.http import LONGEST_HEAD, HttpError

T = TypeVar("T")

_CHUNK = 32768  # bytes; what a slow reader costs beside the page that all readers share
_END_OF_HEAD = b"\r\n\r\n"
# On close, discard what has not been sent yet and reset the connection.
_FORGET = struct.pack("ii", 1, 0)
# What a client still sends after its answer is read and dropped, up to so much for so long: closing
# with unread bytes would take the answer from it.
_DROPPED_BYTES = 262_144
_DROPPED_SECONDS = 0.5


class Stream:
    """One accepted connection.

    Args:
        client: Its socket, which does not block.
        deadline: Loop time at which whatever is under way fails with `TimeoutError`.
    """

    def __init__(self, client: socket.socket, deadline: float) -> None:
        self._socket = client
        self._received = bytearray()
        self.deadline = deadline

    async def secure(self, context: ssl.SSLContext) -> dict[str, Any]:
        """Use TLS from now on.

        Returns:
            The client's certificate as `ssl` shows it; empty without one that was verified.

        Raises:
            OSError: The handshake has failed.
        """
        secured = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = secured
        await self._do(secured.do_handshake, writes=False)
        return secured.getpeercert() or {}

    async def begin(self) -> bool:
        """Wait for the first byte of a request; False where the client has ended instead."""
        return bool(self._received) or await self._receive()

    async def head(self) -> bytes:
        """A whole head, with the empty line that ends it.

        Raises:
            HttpError: It is too long.
            EOFError: The client has ended before.
        """
        looked = 0
        while (end := self._received.find(_END_OF_HEAD, looked)) < 0:
            if len(self._received) > LONGEST_HEAD:
                raise HttpError(431, "the headers are too long")
            looked = max(0, len(self._received) - len(_END_OF_HEAD) + 1)
            if not await self._receive():
                raise EOFError
        if end > LONGEST_HEAD:
            raise HttpError(431, "the headers are too long")
        head = bytes(self._received[: end + len(_END_OF_HEAD)])
        del self._received[: len(head)]
        return head

    async def send(self, *parts: bytes) -> None:
        """Write all of it, as fast as the client reads."""
        for part in parts:
            view = memoryview(part)
            while view:
                sent = await self._do(self._socket.send, view[:_CHUNK], writes=True)
                view = view[sent:]

    async def end(self) -> None:
        """End the sending direction, and read what is still under way."""
        self.deadline = min(self.deadline, asyncio.get_running_loop().time() + _DROPPED_SECONDS)
        with contextlib.suppress(OSError, ValueError):
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.unwrap()
        self._socket.shutdown(socket.SHUT_WR)
        dropped = 0
        while dropped < _DROPPED_BYTES and await self._receive():
            dropped += len(self._received)
            self._received.clear()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def reset(self) -> None:
        """Reset the connection: the client sees that its answer is incomplete."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)

    async def _receive(self) -> bool:
        data = await self._do(self._socket.recv, _CHUNK, writes=False)
        self._received += data
        return bool(data)

    async def _do(self, operation: Callable[..., T], *arguments: Any, writes: bool) -> T:
        """Repeat an operation until the socket lets it pass."""
        while True:
            try:
                return operation(*arguments)
            except ssl.SSLWantReadError:
                wants_to_write = False
            except ssl.SSLWantWriteError:
                wants_to_write = True
            except BlockingIOError:
                wants_to_write = writes
            await self._passable(wants_to_write)

    async def _passable(self, to_write: bool) -> None:  # noqa: FBT001 - private, one caller
        loop = asyncio.get_running_loop()
        passable: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(self.deadline, _give_up, passable)
        add, remove = (
            (loop.add_writer, loop.remove_writer)
            if to_write
            else (loop.add_reader, loop.remove_reader)
        )
        number = self._socket.fileno()
        add(number, _wake, passable)
        try:
            in_time = await passable
        finally:
            remove(number)
            timer.cancel()
        if not in_time:  # raised here: an exception in the future would refer back to it
            raise TimeoutError


def _wake(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
