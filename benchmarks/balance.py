"""How close to the best possible schedule the real scheduler comes, in virtual time.

Eight GPUs of speeds 1, 1, 1, 1, 1.5, 1.5, 2.5 and 2.5 process files of very uneven sizes, whose
declared costs are up to 30 % off. A GPU of speed 1 does 1,000 residues a second and a mean file
holds a million, so that 50 files take over an hour of virtual time, as on real GPUs: the stall
threshold (5 minutes) is then a small part of a run.

The ratio is makespan / lower bound; the bound knows the real sizes and speeds beforehand, and
counts a frozen GPU for the time until it froze. A row in which a file was lost, failed or completed
twice is marked WRONG, and the exit status is then 1. Runs of 5,000 files take seconds each, and
vary little: there are fewer of them.

Run: python benchmarks/balance.py [--seeds 50]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.simulation import VirtualGpu, VirtualRun, lower_bound, skewed_files

SPEEDS = (1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 2.5, 2.5)
RESIDUES_PER_SECOND = 1000.0  # of a GPU of speed 1
MANY_FILES = 5000

# A frozen GPU stops at this share of the lower bound of the others alone.
FREEZE_AT = 0.3


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is wrong with the GPUs.

    Attributes:
        name: For the table.
        goals: Highest mean ratio, by number of files; also which numbers of files are run.
        factors: Real speed as a share of the declared one, by index of the GPU.
        frozen: Index of the GPU that stops for ever.
        on_stall: What the scheduler does with the file of a stalled worker.
        is_stealing: Whether files are stolen.
    """

    name: str
    goals: Mapping[int, float | None]
    factors: Mapping[int, float] = field(default_factory=dict)
    frozen: int | None = None
    on_stall: OnStall = OnStall.REPORT
    is_stealing: bool = True

    def speed(self, index: int) -> float:
        """Residues per second that a GPU really does while it is not frozen."""
        return SPEEDS[index] * self.factors.get(index, 1.0) * RESIDUES_PER_SECOND


SLOW: Mapping[int, float | None] = {50: 1.08, 500: 1.015}
FROZEN: Mapping[int, float | None] = {50: 1.10, 500: 1.02}
SCENARIOS = (
    Scenario("healthy", {50: 1.03, 500: 1.005, 5000: 1.001}),
    Scenario("slow GPU at 0.3x", SLOW, factors={0: 0.3}),
    Scenario("fast GPU at 0.3x", SLOW, factors={7: 0.3}),
    Scenario("frozen, retry", FROZEN, frozen=0, on_stall=OnStall.RETRY),
    Scenario("frozen, restart", FROZEN, frozen=0, on_stall=OnStall.RESTART),
    Scenario("static, healthy", {50: None, 500: None, 5000: None}, is_stealing=False),
    Scenario("static, slow GPU", {50: None, 500: None}, factors={0: 0.3}, is_stealing=False),
)


def ratio(scenario: Scenario, count: int, distribution: str, seed: int) -> float:
    """Makespan / lower bound of one run.

    Raises:
        RuntimeError: A file was lost, failed or completed twice.
    """
    files, work = skewed_files(count, random.Random(seed), distribution=distribution)
    indices = range(len(SPEEDS))
    going = [scenario.speed(i) for i in indices if i != scenario.frozen]
    bound = lower_bound(work, going)
    freezes_at = FREEZE_AT * bound
    if scenario.frozen is not None:
        # What it may have finished before nobody else has to do.
        finished = scenario.speed(scenario.frozen) * freezes_at
        largest = max(work.values()) / max(going)
        bound = max((sum(work.values()) - finished) / sum(going), largest)
    gpus = {
        str(i): VirtualGpu(
            scenario.speed(i),
            freezes_at=freezes_at if i == scenario.frozen else float("inf"),
        )
        for i in indices
    }
    scheduler = Scheduler(
        {str(i): speed for i, speed in enumerate(SPEEDS)},
        settings=SchedulerSettings(on_stall=scenario.on_stall),
        policy=EarliestFinish() if scenario.is_stealing else NoStealing(),
    )
    outcome = VirtualRun(scheduler, gpus, work).run(files, limit=50 * bound)
    if set(outcome.completed.values()) != {1} or len(outcome.completed) != count:
        lost = sorted(set(work) - set(outcome.completed))
        twice = sorted(path for path, times in outcome.completed.items() if times > 1)
        raise RuntimeError(
            f"seed {seed}: lost {lost} (given up: {list(outcome.failed)}), completed twice {twice}"
        )
    return outcome.makespan / bound


def row(scenario: Scenario, count: int, sizes: str, seeds: int) -> tuple[str, bool]:
    """A line of the table, and whether no file was lost or doubled."""
    runs = seeds if count < MANY_FILES else max(3, seeds // 5)
    name = f"{scenario.name:<18} {count:>6} {sizes:<10} {runs:>4}"
    try:
        ratios = sorted(ratio(scenario, count, sizes, seed) for seed in range(runs))
    except RuntimeError as error:
        return f"{name} WRONG: {error}", False
    mean, p95 = statistics.mean(ratios), ratios[int(0.95 * len(ratios))]
    goal = scenario.goals[count]
    verdict = "" if goal is None else f"{goal:>7.3f} {'' if mean <= goal else 'MISSED'}"
    return f"{name} {mean:>7.4f} {p95:>7.4f} {verdict}".rstrip(), True


def main() -> int:
    """Print the table.

    Returns:
        1 if a file was lost or doubled.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="runs per row (full set: 50)")
    seeds = parser.parse_args().seeds
    print("makespan / lower bound")
    print(f"{'scenario':<18} {'files':>6} {'sizes':<10} runs {'mean':>7} {'p95':>7} {'goal':>7}")
    is_sound = True
    for scenario in SCENARIOS:
        for count in scenario.goals:
            for sizes in ("lognormal", "pareto"):
                line, is_right = row(scenario, count, sizes, seeds)
                print(line, flush=True)
                is_sound = is_sound and is_right
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
