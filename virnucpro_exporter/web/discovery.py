"""The exporters of the nodes of a run, in the format of Prometheus' HTTP service discovery.

https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.snapshot import Node


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

    def targets(self) -> bytes:
        """One group of targets for each node, with its name as the label `node`."""
        groups = [
            {"targets": [f"{_bracketed(node.host)}:{self.port}"], "labels": {"node": node.name}}
            for node in self.nodes.latest()
        ]
        return f"{json.dumps(groups)}\n".encode()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
