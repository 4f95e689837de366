"""Where to listen: `HOST:PORT`, `[IPV6]:PORT`, or `:PORT` for every address of the machine."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Sequence

from virnucpro_exporter.errors import UsageError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:]*)):(?P<port>\d{1,5})")
_PORTS_TRIED = 100
_BACKLOG = 1024  # a flood of connections must not keep a scrape from being accepted
# What the kernel may hold of an answer that its reader leaves there (it takes up to three times as
# much for the purpose); connections inherit it.
_SEND_BUFFER = 32768  # bytes


def bind(addresses: Sequence[str | socket.socket]) -> list[socket.socket]:
    """Listen on all of them, or on none.

    Args:
        addresses: Port 0 takes a free one. A socket that listens already is taken as it is.

    Returns:
        Sockets that listen and do not block.

    Raises:
        UsageError: One of them cannot be used.
    """
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(s) for address in addresses for s in _bind(address)]
        stack.pop_all()
    return listeners


def bind_near(address: str) -> list[socket.socket]:
    """Listen on an address, or where its port is taken on the next one that is free.

    Raises:
        UsageError: None of a hundred ports is free, or the address cannot be used.
    """
    host, _, port = address.rpartition(":")
    for number in range(int(port), int(port) + _PORTS_TRIED):
        try:
            return bind([f"{host}:{number}"])
        except UsageError as error:  # noqa: PERF203 - each port is one try
            is_taken = getattr(error.__cause__, "errno", None) == errno.EADDRINUSE
            if not is_taken or number + 1 == int(port) + _PORTS_TRIED:
                raise
    raise AssertionError("unreachable")


def shown(listener: socket.socket) -> str:
    """The `HOST:PORT` of a listening socket, with a host that can be opened from this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("::", "0.0.0.0"):  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs on this machine reach a listening socket."""
    host = str(listener.getsockname()[0]).partition("%")[0]
    return ipaddress.ip_address(host).is_loopback


def _bind(address: str | socket.socket) -> list[socket.socket]:
    if isinstance(address, socket.socket):
        address.settimeout(0)
        return [address]
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise UsageError(f"cannot listen on {address!r}: must be HOST:PORT, [IPV6]:PORT or :PORT")
    host, port = match["v6"] or match["host"], int(match["port"])
    try:
        if not host:
            return [_listen_everywhere(port)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with contextlib.ExitStack() as stack:
            places = dict.fromkeys((family, place) for family, _, _, _, place in found)
            listeners = [stack.enter_context(_listen(*place)) for place in places]
            stack.pop_all()
    except OSError as error:
        advice = "; choose another port" if error.errno == errno.EADDRINUSE else ""
        raise UsageError(f"cannot listen on {address}: {error.strerror}{advice}") from error
    return listeners


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return _listen(socket.AF_INET6, ("::", port), everywhere=True)
    return _listen(socket.AF_INET, ("", port))


def _listen(family: int, place: tuple[object, ...], *, everywhere: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not everywhere))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        listener.bind(place)
        listener.listen(_BACKLOG)
        listener.settimeout(0)  # never blocks
    except OSError:
        listener.close()
        raise
    return listener
