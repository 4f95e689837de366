"""The machines of a run on many machines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """One machine.

    Attributes:
        name: As in the names of its GPUs, `name/index`.
        host: Its address in the network, an IP address (of IPv6 without brackets) or a host name.
    """

    name: str
    host: str
