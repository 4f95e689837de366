"""What a simulation is about: its GPUs, its files, and what goes wrong.

A scenario is planned batch by batch (a run's worth of files) from the seed and the number of the
batch, so that the same things happen at the same times whenever it is run.

Times are seconds as the run and Prometheus see them. `speed` makes the GPUs that many times faster
than those of the table of weights; it does not touch the clock. A file that takes an RTX 3090 four
minutes takes it four seconds at speed 60, and the stall threshold shrinks with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.policy import NoStealing, StealPolicy
from virnucpro_exporter.scheduling.weights import get_gpu_weight
from virnucpro_exporter.simulation.files import skewed_files
from virnucpro_exporter.simulation.pingpong import PingPong
from virnucpro_exporter.simulation.workers import Mishap, Outage, VirtualGpu

# Of the GPUs of a simulation, in turn: enough of one model to compare them with each other.
MODELS = (
    "NVIDIA GeForce RTX 3090",
    "NVIDIA GeForce RTX 3090",
    "NVIDIA GeForce RTX 3090",
    "NVIDIA A100-SXM4-80GB",
    "NVIDIA GeForce RTX 3090",
    "NVIDIA A100-SXM4-80GB",
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H100 80GB HBM3",
)

# At speed 1: residues per second of a GPU of weight 1, and seconds.
_RESIDUES_PER_SECOND = 100_000
_MEAN_FILE_SECONDS = 240
_PROGRESS_SECONDS = 10.0

# An outage begins and ends at these shares of the time that a batch is expected to take.
_OUTAGE_FROM, _OUTAGE_TO = 0.15, 0.75
# It lasts at least so many stall thresholds, however short the batch is.
_OUTAGE_THRESHOLDS = 3.0

# As a number of attempts.
_ALWAYS = 1_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong.

    Attributes:
        about: In one line, for the help.
        overrated: How many times too fast the first quarter of the GPUs is declared to be.
        slow_to: Share of its speed that the troubled GPU really reaches.
        outage: What happens to the troubled GPU: `""`, `"hang"` or `"loss"`.
        failing: Share of the files whose first attempt fails.
        poison: Share of the files that always fail.
        interrupted: Share of the files whose first attempt ends because the worker is taken away.
        startup: Seconds, at speed 1, until a new worker takes files.
        policy: How files are stolen, where not in the real way.
    """

    about: str
    overrated: float = 1.0
    slow_to: float = 1.0
    outage: str = ""
    failing: float = 0.0
    poison: float = 0.0
    interrupted: float = 0.0
    startup: float = 20.0
    policy: Callable[[], StealPolicy] | None = None


SCENARIOS: Mapping[str, Scenario] = {
    "balanced": Scenario("nothing goes wrong"),
    "skewed": Scenario("two of eight GPUs get four times the work they can do", overrated=4.0),
    "slow-gpu": Scenario("GPU 1 works at 0.3 of its speed", slow_to=0.3),
    "stall": Scenario("GPU 1 hangs in a file, at full utilisation, and recovers", outage="hang"),
    "lost-gpu": Scenario("GPU 1 falls off the bus and comes back", outage="loss"),
    "failures": Scenario("one file in eight fails, some of them always", failing=0.1, poison=0.02),
    "thrash": Scenario(
        "workers are taken away, and a bad policy passes the same files around",
        overrated=20.0,
        interrupted=0.7,
        startup=45.0,
        policy=PingPong,
    ),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """The files of one run.

    Attributes:
        files: With their declared costs.
        work: Residues that they really hold, by path.
        mishaps: What happens to attempts at some of them, by path.
        outages: (GPU, outage), in seconds since the start of the batch.
        seconds: How long it takes if nothing goes wrong.
    """

    files: tuple[SequenceFile, ...]
    work: Mapping[str, int]
    mishaps: Mapping[str, Mishap]
    outages: tuple[tuple[str, Outage], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """A scenario on some GPUs.

    Attributes:
        scenario: What goes wrong.
        gpus: How many GPUs.
        count: Files of a batch.
        speed: How many times faster than real ones the GPUs are.
        seed: Seed of the random numbers.
        stall_threshold: Seconds.
    """

    scenario: Scenario
    gpus: int = 8
    count: int = 500
    speed: float = 60.0
    seed: int = 1
    stall_threshold: float = 5.0

    @property
    def names(self) -> dict[str, str]:
        """The models of the GPUs, by id."""
        return {str(i): MODELS[i % len(MODELS)] for i in range(self.gpus)}

    @property
    def troubled(self) -> str:
        """The GPU to which things happen."""
        return str(min(1, self.gpus - 1))

    @property
    def weights(self) -> dict[str, float]:
        """The speeds that the scheduler is given."""
        overrated = {str(i) for i in range(max(1, self.gpus // 4))}
        return {
            gpu: get_gpu_weight(name) * (self.scenario.overrated if gpu in overrated else 1.0)
            for gpu, name in self.names.items()
        }

    @property
    def virtual_gpus(self) -> dict[str, VirtualGpu]:
        """The GPUs as they really are."""
        base = _RESIDUES_PER_SECOND * self.speed
        startup = self.scenario.startup / self.speed
        return {
            gpu: VirtualGpu(
                base
                * get_gpu_weight(name)
                * (self.scenario.slow_to if gpu == self.troubled else 1.0),
                startup=startup,
            )
            for gpu, name in self.names.items()
        }

    @property
    def progress_every(self) -> float:
        """Seconds between progress reports."""
        return _PROGRESS_SECONDS / self.speed

    def policy(self, balancer: str) -> StealPolicy | None:
        """How files are stolen with this balancer, where not in the real way."""
        make = self.scenario.policy if balancer != NoStealing.name else None
        return make() if make else None

    def batch(self, number: int) -> Batch:
        """Generate the files of a batch, and what happens meanwhile."""
        rng = random.Random(f"{self.seed}/{number}")  # noqa: S311 - one seed, one history; no secret
        files, work = skewed_files(
            self.count,
            rng,
            sigma=0.7,
            mean=_RESIDUES_PER_SECOND * _MEAN_FILE_SECONDS,
            folder=f"/simulated/{number}",
        )
        seconds = sum(work.values()) / sum(gpu.speed for gpu in self.virtual_gpus.values())
        return Batch(
            tuple(files),
            work,
            self._mishaps(work, rng),
            tuple(self._outages(seconds)),
            seconds,
        )

    def _mishaps(self, work: Mapping[str, int], rng: random.Random) -> dict[str, Mishap]:
        scenario = self.scenario
        shares = {
            Mishap(_ALWAYS): scenario.poison,
            Mishap(1): scenario.failing,
            Mishap(1, takes_worker=True): scenario.interrupted,
        }
        share_of_none = 1.0 - sum(shares.values())
        drawn = rng.choices([*shares, None], [*shares.values(), share_of_none], k=len(work))
        return {path: mishap for path, mishap in zip(work, drawn, strict=True) if mishap}

    def _outages(self, seconds: float) -> Iterator[tuple[str, Outage]]:
        scenario = self.scenario
        if scenario.outage:
            begin = _OUTAGE_FROM * seconds
            least = _OUTAGE_THRESHOLDS * self.stall_threshold
            end = begin + max((_OUTAGE_TO - _OUTAGE_FROM) * seconds, least)
            if scenario.outage == "hang":
                yield self.troubled, Outage(begin, end, spares_new=True)
            else:
                yield self.troubled, Outage(begin, end, "simulated: the GPU was lost", is_loss=True)
