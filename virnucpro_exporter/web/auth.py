"""Basic authentication against bcrypt hashes, without telling by time which users exist."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

_MOST_REMEMBERED = 64


class BasicAuth:
    """Checks the Authorization header.

    A bcrypt check takes 50 ms and more by design, so it runs in a thread of its own, and a
    password that was right is remembered: a flood of wrong ones does not delay a known client.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "metrics-auth")
        self._key = secrets.token_bytes(32)
        self._right: set[bytes] = set()

    async def allows(self, header: str, users: Mapping[str, bytes]) -> bool:
        """Whether the header names a user and the right password.

        Args:
            header: The value of the Authorization header, empty when there was none.
            users: bcrypt hashes by user name.
        """
        credentials = _credentials(header)
        if credentials is None:
            return False
        user, password = credentials
        # An unknown user costs as much as a known one, against any hash there is.
        known = user in users
        wanted = users[user] if known else next(iter(users.values()))
        proof = hmac.digest(self._key, b"\0".join((user.encode(), wanted, password)), "sha256")
        if known and proof in self._right:
            return True
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._thread, _matches, password, wanted)
        if known and right:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right.add(proof)
        return known and right

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _matches(password: bytes, wanted: bytes) -> bool:
    # bcrypt reads 72 bytes; newer versions of the library refuse more instead of cutting them off.
    return len(password) <= 72 and b"\0" not in password and bcrypt.checkpw(password, wanted)


def _credentials(header: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None
