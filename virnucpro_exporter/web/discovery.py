"""Further targets to scrape, in the format of Prometheus' HTTP service discovery.

https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.snapshot import Node


class Discovery(Protocol):
    """Lists further targets."""

    def targets(self, host: str) -> bytes:
        """The targets.

        Args:
            host: By which the client reached this machine, `HOST` or `HOST:PORT`.
        """


@dataclass(frozen=True, slots=True)
class NodeDiscovery:
    """Where to scrape the nodes of a run.

    Attributes:
        nodes: All that were ever part of the run, whether they still are or not: a node that is
            gone has to be seen as a target that is down, and not to vanish.
        port: Where the exporter of each node listens.
    """

    nodes: Published[Sequence[Node]]
    port: int

    def targets(self, _host: str = "") -> bytes:
        """One group of targets for each node, with its name as the label `node`."""
        groups = [
            {"targets": [f"{_bracketed(node.host)}:{self.port}"], "labels": {"node": node.name}}
            for node in self.nodes.latest()
        ]
        return f"{json.dumps(groups)}\n".encode()


@dataclass(frozen=True, slots=True)
class RunTarget:
    """A run that serves its own metrics.

    Attributes:
        name: Of the run.
        port: Where it listens.
        path: Of its metrics.
        scheme: `http` or `https`.
        is_local: Only programs on this machine reach it.
    """

    name: str
    port: int
    path: str
    scheme: str
    is_local: bool

    def group(self, host: str) -> dict[str, object]:
        """In the format of Prometheus.

        Args:
            host: Of this machine, of IPv6 in brackets.
        """
        return {
            "targets": [f"{'localhost' if self.is_local else host}:{self.port}"],
            "labels": {
                "run": self.name,
                "__scheme__": self.scheme,
                "__metrics_path__": self.path,
            },
        }


@dataclass(frozen=True, slots=True)
class RunDiscovery:
    """The runs of this machine that serve by themselves.

    Attributes:
        runs: Those there are.
    """

    runs: Published[Sequence[RunTarget]]

    def targets(self, host: str) -> bytes:
        """A group for each run, under the name that the client has for this machine."""
        name = _HOST.match(host)
        shown = name[0] if name else "localhost"
        return f"{json.dumps([run.group(shown) for run in self.runs.latest()])}\n".encode()


_HOST = re.compile(r"\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+", re.ASCII)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
