"""The nodes of a run, and their GPUs as one snapshot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from virnucpro_exporter.snapshot import CollectorHealth, GpuDevice, GpuSnapshot, Latest, Node

# Nodes are asked about every second; what one said is shown for so many seconds.
MAX_AGE = 5.0


@dataclass(frozen=True, slots=True)
class _Heard:
    snapshot: GpuSnapshot  # its times are on our clock
    at: float  # monotonic
    time: float  # Unix seconds
    has_left: bool = False


class NodeGpus:
    """What the nodes tell of their GPUs, which are called `node/index` here.

    The clocks of the nodes need not agree with ours: a value is as old as its node says, counted
    back from its arrival. What a node cannot know is which processes belong to the run, so
    `foreign_processes` stays unknown.

    Args:
        clock: Monotonic seconds.
        wall_clock: Unix seconds.

    Attributes:
        nodes: All that were ever there, in the order of their names.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._heard: dict[str, _Heard] = {}
        self._made = GpuSnapshot(wall_clock())
        self._until = 0.0
        self.nodes: Latest[tuple[Node, ...]] = Latest(())

    def join(self, node: str, host: str) -> None:
        """A node has its first worker, or its first one again.

        Args:
            node: Its name.
            host: Its address in the network, which may be another than before.
        """
        with self._lock:
            hosts = {known.name: known.host for known in self.nodes.latest()}
            hosts[node] = host
            self.nodes.publish(tuple(Node(*known) for known in sorted(hosts.items())))

    def take(self, node: str, now_there: float, snapshot: GpuSnapshot) -> None:
        """A node has answered.

        Args:
            node: Its name.
            now_there: Unix seconds on its clock as it answered.
            snapshot: Its GPUs, with times on its clock.
        """
        ahead = now_there - self._wall_clock()
        devices = tuple(_renamed(node, device, ahead) for device in snapshot.devices)
        moved = replace(snapshot, timestamp=snapshot.timestamp - ahead, devices=devices)
        with self._lock:
            self._heard[node] = _Heard(moved, self._clock(), self._wall_clock())
            self._until = 0.0

    def leave(self, node: str) -> None:
        """A node has no worker any more; its GPUs are down until it returns."""
        with self._lock:
            if heard := self._heard.get(node):
                self._heard[node] = replace(heard, has_left=True)
                self._until = 0.0

    def close(self) -> None:
        """The run is over: nothing is known of the GPUs any more."""
        with self._lock:
            self._heard.clear()
            self._until = 0.0

    def latest(self) -> GpuSnapshot:
        """All GPUs that were ever seen; the same object as long as nothing changes."""
        with self._lock:
            now = self._clock()
            if now >= self._until:
                ends = [heard.at + MAX_AGE for heard in self._heard.values()]
                self._until = min((end for end in ends if end > now), default=float("inf"))
                self._made = self._make(now)
            return self._made

    def _make(self, now: float) -> GpuSnapshot:
        devices: list[GpuDevice] = []
        silent: list[str] = []
        for node, heard in sorted(self._heard.items()):
            is_fresh = now < heard.at + MAX_AGE and not heard.has_left
            if not is_fresh and not heard.has_left:
                silent.append(node)
            found = heard.snapshot.devices
            devices += found if is_fresh else (_down(node, device) for device in found)
        backends = [h.snapshot.backend for h in self._heard.values() if h.snapshot.devices]
        times = [heard.time for heard in self._heard.values()]
        health = CollectorHealth(
            success=not silent if self._heard else None,
            last_success_timestamp=max(times, default=None),
            reason=f"nodes that do not answer: {', '.join(silent)}" if silent else "",
        )
        backend = backends[0] if backends else "none"
        return GpuSnapshot(self._wall_clock(), backend, tuple(devices), health)


def _renamed(node: str, device: GpuDevice, ahead: float) -> GpuDevice:
    sample = device.sample
    if sample is not None:
        sample = replace(sample, timestamp=sample.timestamp - ahead, foreign_processes=None)
    return replace(device, gpu=f"{node}/{device.gpu}", node=node, sample=sample)


def _down(node: str, device: GpuDevice) -> GpuDevice:
    return replace(device, up=False, sample=None, reasons=(("", f"node {node} does not answer"),))
