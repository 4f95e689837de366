"""A cluster of nodes in which much goes wrong, at any size: for benchmarks and tests."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.weights import get_gpu_weight
from virnucpro_exporter.simulation.files import skewed_files
from virnucpro_exporter.simulation.scenarios import MODELS
from virnucpro_exporter.simulation.workers import Mishap, Outage, VirtualGpu, VirtualWorkers

GPUS_PER_NODE = 8
RESIDUES_PER_SECOND = 100_000.0  # of a GPU of weight 1
MEAN_RESIDUES = 1_000_000  # of a file: ten seconds on such a GPU
_STARTUP = 30.0  # seconds until a process has loaded its model
_FOLDER = "/scratch/project/reads"

# What happens to nodes, by their number within each 32, at shares of the time that the run takes.
_PERIOD = 32
_LEAVES_AND_RETURNS, _JOINS_LATE, _LEAVES = 1, 2, 3
_LATE, _GONE, _BACK, _GONE_FOR_GOOD = 0.1, 0.3, 0.5, 0.6

# What happens to single GPUs, by their number within each 128.
_SLOW, _FROZEN, _CRASHING = 40, 49, 58
_GPU_PERIOD = 128
_SLOW_TO, _FREEZES, _CRASHES = 0.3, 0.4, 0.2

# One file in so many fails once, and another one once loses its worker.
_FAILING = 1000


@dataclass(frozen=True)
class VirtualCluster:
    """Nodes of eight GPUs, and files of very different sizes.

    In each 32 nodes one leaves and returns, one joins late and one leaves for good. In each 128
    GPUs one works at 0.3 of its declared speed, one freezes for ever, and the process of one is
    killed. One file in a thousand fails once, and another one once loses its worker.

    Args:
        nodes: How many nodes; with four or more, all of this happens from 64 GPUs on.
        count: How many files.
        seed: Seed of the random numbers.
    """

    nodes: int
    count: int
    seed: int = 1

    @cached_property
    def names(self) -> dict[str, str]:
        """The model of each GPU, by its id `node/index`; all GPUs of a node are of one model."""
        return {
            f"gpu{node:03}/{index}": MODELS[node % len(MODELS)]
            for node in range(self.nodes)
            for index in range(GPUS_PER_NODE)
        }

    @cached_property
    def weights(self) -> dict[str, float]:
        """The declared speeds."""
        return {gpu: get_gpu_weight(name) for gpu, name in self.names.items()}

    @cached_property
    def inputs(self) -> tuple[list[SequenceFile], dict[str, int]]:
        """The files with their declared costs, and the residues that they really hold, by path."""
        rng = random.Random(self.seed)  # noqa: S311 - one seed, one history; no secret
        return skewed_files(self.count, rng, mean=MEAN_RESIDUES, folder=_FOLDER)

    @property
    def at_start(self) -> list[str]:
        """The GPUs that are there from the start."""
        return [g for g in self.names if self._node(g) % _PERIOD != _JOINS_LATE]

    @staticmethod
    def _node(gpu: str) -> int:
        return int(gpu.removeprefix("gpu").partition("/")[0])

    def _number(self, gpu: str) -> int:
        return self._node(gpu) * GPUS_PER_NODE + int(gpu.partition("/")[2])

    @cached_property
    def seconds(self) -> float:
        """About how long the run takes."""
        return self.count * MEAN_RESIDUES / sum(self.weights.values()) / RESIDUES_PER_SECOND

    @cached_property
    def gpus(self) -> dict[str, VirtualGpu]:
        """The GPUs as they really are."""
        made = {}
        for gpu, weight in self.weights.items():
            trouble = self._number(gpu) % _GPU_PERIOD
            made[gpu] = VirtualGpu(
                weight * RESIDUES_PER_SECOND * (_SLOW_TO if trouble == _SLOW else 1.0),
                freezes_at=_FREEZES * self.seconds if trouble == _FROZEN else math.inf,
                startup=_STARTUP,
            )
        return made

    def _comings(self) -> Iterator[tuple[float, ev.WorkerJoined | ev.WorkerLost]]:
        """The workers that join and are taken away, and when."""
        for gpu, name in self.names.items():
            joins = ev.WorkerJoined(WorkerId(gpu), name, self.weights[gpu])
            leaves = ev.WorkerLost(WorkerId(gpu), "its node has left", ev.LossCause.LEFT_CLUSTER)
            fate = self._node(gpu) % _PERIOD
            if fate == _JOINS_LATE:
                yield _LATE * self.seconds, joins
            elif fate == _LEAVES_AND_RETURNS:
                yield _GONE * self.seconds, leaves
                yield _BACK * self.seconds, joins
            elif fate == _LEAVES:
                yield _GONE_FOR_GOOD * self.seconds, leaves

    def workers(self) -> VirtualWorkers:
        """What the workers do, and when."""
        workers = VirtualWorkers(self.gpus)
        _, work = self.inputs
        rng = random.Random(f"{self.seed}/mishaps")  # noqa: S311 - as above
        shaken = rng.sample(list(work), 2 * (self.count // _FAILING))
        failing, interrupted = shaken[::2], shaken[1::2]
        mishaps = dict.fromkeys(failing, Mishap(1))
        workers.add(work, mishaps | dict.fromkeys(interrupted, Mishap(1, takes_worker=True)))
        for gpu in self.names:
            if self._number(gpu) % _GPU_PERIOD == _CRASHING:
                at = _CRASHES * self.seconds
                workers.plan(gpu, Outage(at, at, "killed by signal 9"))
        for at, event in self._comings():
            workers.announce(at, event)
        return workers

    def lower_bound(self) -> float:
        """Seconds below which no schedule can end: all work on all GPUs while they can be used."""
        _, work = self.inputs
        left, now, speed = float(sum(work.values())), 0.0, 0.0
        for at, change in sorted(self._changes()):
            if left <= speed * (at - now):
                break
            left, now, speed = left - speed * (at - now), at, speed + change
        fastest = max(gpu.speed for gpu in self.gpus.values())
        return max(now + left / speed, max(work.values()) / fastest)

    def _changes(self) -> Iterator[tuple[float, float]]:
        """When the speed of all GPUs together changes, in seconds, and by how much."""
        for gpu in self.at_start:
            yield 0.0, self.gpus[gpu].speed
        for spec in self.gpus.values():
            if spec.freezes_at < math.inf:
                yield spec.freezes_at, -spec.speed
        for at, event in self._comings():
            speed = self.gpus[event.worker_id].speed
            yield at, speed if isinstance(event, ev.WorkerJoined) else -speed


def timeless() -> Callable[[], float]:
    """A clock for a pool that is always ahead, so that nothing ever waits."""
    return itertools.count(0.0, 1e9).__next__
