"""The messages between the pool and its workers: small tuples in packets.

A packet socket keeps message boundaries, so a worker that is stopped or killed at any instruction
never leaves half a message. Paths travel as bytes, whatever their encoding. Marshal is safe here:
both ends are the same interpreter and the same user.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from typing import Any

# To the worker.
START, CANCEL, SHRINK, MOVE = 0, 1, 2, 3
# To the pool.
READY, SETUP_FAILED, STARTED, PROGRESS, COMPLETED, FAILED, OUTPUTS = 10, 11, 12, 13, 14, 15, 16
SHRUNK, MEMORY_SHORT, MOVED = 17, 18, 19

Message = tuple[Any, ...]

# Far below the smallest usual socket buffer (200 KiB), and above ten of the longest paths.
PACKET_BYTES = 60_000
NAMES = 50  # of outputs in one message; the longest fit into a packet
MESSAGE_BYTES = 48  # of a message beside its texts
RECEIVE_BYTES = 1 << 17


def encode(messages: list[Message]) -> bytes:
    """One packet of these messages."""
    return marshal.dumps(messages)


def decode(packet: bytes) -> list[Message]:
    """The messages of a packet."""
    messages: list[Message] = marshal.loads(packet)  # noqa: S302 - both ends are this program
    return messages


def size(message: Message) -> int:
    """Bytes that a message takes in a packet, at most."""
    texts = [value for value in message if isinstance(value, (str, bytes))]
    nested = [item for value in message if isinstance(value, tuple) for item in value]
    return MESSAGE_BYTES + sum(4 * len(text) + 8 for text in (*texts, *nested))


def packets(messages: list[Message]) -> Iterator[bytes]:
    """The packets that carry these messages, nearly always one."""
    if not messages:
        return
    whole = encode(messages)
    if len(whole) <= PACKET_BYTES:
        yield whole
    else:
        yield from map(encode, split(messages))


def split(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Cut messages into lists that each fit into one packet."""
    part: list[Message] = []
    used = 0
    for message in messages:
        needed = size(message)
        if part and used + needed > PACKET_BYTES:
            yield part
            part, used = [], 0
        part.append(message)
        used += needed
    if part:
        yield part
