"""Basic authentication against bcrypt hashes, without telling by time which users exist."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from virnucpro_exporter.web.pace import Pace, share_of_machine

_MOST_REMEMBERED = 1024
_MOST_WAITING = 8  # checks; at 70 ms each, and with the share below, the last waits some seconds
# What checking may cost a run, as a share of the machine, and what may be checked at once.
_SHARE = 0.01
_BURST = 0.5  # seconds
_LONGEST = 72  # bytes that bcrypt reads of a password


class TooManyChecks(Exception):  # noqa: N818 - it is answered, not an error
    """So many passwords wait to be checked that this one is not."""


class BasicAuth:
    """Checks the Authorization header.

    A bcrypt check takes 50 ms and more by design. So it runs in a thread of its own, one at a time,
    for a small share of the machine; few may wait for one, and what was checked is remembered,
    right or wrong: neither a flood of wrong passwords nor a thousand clients with an old one delay
    a known client.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "metrics-auth")
        self._key = secrets.token_bytes(32)
        # Oldest first. Wrong ones must not push right ones out.
        self._right: dict[bytes, None] = {}
        self._wrong: dict[bytes, None] = {}
        self._pace = Pace(share_of_machine(_SHARE), _BURST)
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def allows(self, header: str, users: Mapping[str, bytes]) -> bool:
        """Whether the header names a user and the right password.

        Args:
            header: The value of the Authorization header, empty when there was none.
            users: bcrypt hashes by user name.

        Raises:
            TooManyChecks: The password has not been checked.
        """
        credentials = _credentials(header)
        if credentials is None:
            return False
        user, password = credentials
        # An unknown user costs as much as a known one, against any hash there is.
        known = user in users
        wanted = users[user] if known else next(iter(users.values()))
        proof = hmac.digest(self._key, repr((known, user, wanted, password)).encode(), "sha256")
        if proof in self._right:
            return True
        if proof in self._wrong:
            return False
        right = await self._check(password, wanted) and known
        _remember(self._right if right else self._wrong, proof)
        return right

    async def _check(self, password: bytes, wanted: bytes) -> bool:
        if self._waiting >= _MOST_WAITING:
            raise TooManyChecks
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(self._pace.wait(time.monotonic()))
                started = time.monotonic()
                try:
                    return await loop.run_in_executor(self._thread, _matches, password, wanted)
                finally:
                    now = time.monotonic()
                    self._pace.spend(now, now - started)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _remember(proofs: dict[bytes, None], proof: bytes) -> None:
    proofs[proof] = None
    if len(proofs) > _MOST_REMEMBERED:
        del proofs[next(iter(proofs))]


def _matches(password: bytes, wanted: bytes) -> bool:
    # Other exporters, in Go, compare the bytes that bcrypt reads; the library here refuses more.
    return bcrypt.checkpw(password[:_LONGEST], wanted)


def _credentials(header: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None
