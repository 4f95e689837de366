"""The nodes of a run, and their GPUs as one snapshot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from virnucpro_exporter.cluster.looks import Look, unpack
from virnucpro_exporter.snapshot import CollectorHealth, GpuDevice, GpuSnapshot, Latest, Node

# Nodes report every one to three seconds; a report is shown for so many seconds.
MAX_AGE = 5.0


@dataclass(slots=True)
class _Heard:
    node: str
    look: Look
    at: float  # monotonic
    time: float  # Unix seconds
    has_left: bool = False
    _snapshot: GpuSnapshot | None = None

    @property
    def snapshot(self) -> GpuSnapshot:
        """The GPUs, with times on the local clock."""
        if self._snapshot is None:
            self._snapshot = unpack(self.look, self.node, self.time)
        return self._snapshot


class NodeGpus:
    """The GPUs of all nodes, from the reports of the workers; their ids are `node/number`.

    A worker reports the GPUs that it sees: all of its node, or some. A GPU that several workers
    report is shown once.

    The clocks of the nodes need not agree with the local one: the age of a value on its node is
    subtracted from the time of its arrival. A node cannot tell which processes belong to the run,
    so `foreign_processes` stays unknown.

    Args:
        clock: Monotonic seconds.
        wall_clock: Unix seconds.

    Attributes:
        nodes: All nodes that ever had a worker, in the order of their names.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._heard: dict[str, _Heard] = {}  # by the id of the worker
        self._made = GpuSnapshot(wall_clock())
        self._until = 0.0
        self.nodes: Latest[tuple[Node, ...]] = Latest(())

    def join(self, node: str, host: str) -> None:
        """Add a node, or update its address.

        Args:
            node: The name of the node.
            host: Its network address, which may differ from an earlier one.
        """
        with self._lock:
            hosts = {known.name: known.host for known in self.nodes.latest()}
            if hosts.get(node) != host:
                hosts[node] = host
                self.nodes.publish(tuple(Node(*known) for known in sorted(hosts.items())))

    def take(self, node: str, worker: str, look: Look) -> None:
        """Take the report of a worker.

        Args:
            node: The name of its node.
            worker: The id of the worker.
            look: The GPUs that it sees.
        """
        with self._lock:
            self._heard[worker] = _Heard(node, look, self._clock(), self._wall_clock())
            self._until = 0.0

    def leave(self, worker: str, *, in_order: bool) -> None:
        """Remove a worker that has left.

        Args:
            worker: The id of the worker.
            in_order: Whether it left as announced: then the GPUs that no other worker reports are
                removed; else they are shown as down until the worker returns.
        """
        with self._lock:
            if in_order:
                self._heard.pop(worker, None)
                self._until = 0.0
            elif heard := self._heard.get(worker):
                heard.has_left = True
                self._until = 0.0

    def close(self) -> None:
        """Remove all GPUs: the run is over."""
        with self._lock:
            self._heard.clear()
            self._until = 0.0

    def latest(self) -> GpuSnapshot:
        """All GPUs of the run's nodes; the same object as long as nothing changes."""
        with self._lock:
            now = self._clock()
            if now >= self._until:
                ends = [heard.at + MAX_AGE for heard in self._heard.values()]
                self._until = min((end for end in ends if end > now), default=float("inf"))
                self._made = self._make(now)
            return self._made

    def _make(self, now: float) -> GpuSnapshot:
        devices: dict[str, GpuDevice] = {}
        answering: set[str] = set()  # nodes and GPUs with a fresh report
        for _, heard in sorted(self._heard.items()):
            is_fresh = now < heard.at + MAX_AGE and not heard.has_left
            if is_fresh:
                answering |= _told(heard)
            for device in heard.snapshot.devices:
                # The first worker with values wins: they must not alternate between workers.
                if device.gpu not in devices or (is_fresh and not devices[device.gpu].up):
                    devices[device.gpu] = device if is_fresh else _down(heard.node, device)
        silent = {
            heard.node
            for heard in self._heard.values()
            if not heard.has_left and not answering >= _told(heard)
        }
        backends = [h.snapshot.backend for h in self._heard.values() if h.snapshot.devices]
        times = [heard.time for heard in self._heard.values()]
        health = CollectorHealth(
            success=not silent if self._heard else None,
            last_success_timestamp=max(times, default=None),
            reason=f"nodes that do not answer: {', '.join(sorted(silent))}" if silent else "",
        )
        backend = backends[0] if backends else "none"
        ordered = sorted(devices.values(), key=_order)
        return GpuSnapshot(self._wall_clock(), backend, tuple(ordered), health)


def _told(heard: _Heard) -> set[str]:
    return {heard.node, *(device.gpu for device in heard.snapshot.devices)}


def _order(device: GpuDevice) -> tuple[str, tuple[int, ...]]:
    node, _, number = device.gpu.rpartition("/")
    return node, tuple(int(part) for part in number.split(":"))


def _down(node: str, device: GpuDevice) -> GpuDevice:
    return replace(device, up=False, sample=None, reasons=(("", f"node {node} does not answer"),))
