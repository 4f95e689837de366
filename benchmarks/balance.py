"""How close to the best possible schedule the real scheduler comes, in virtual time.

Eight GPUs of speeds 1, 1, 1, 1, 1.5, 1.5, 2.5 and 2.5 process files of very uneven sizes, whose
declared costs are up to 30 % off. A GPU of speed 1 does 1,000 residues a second and a mean file
holds a million, so that 50 files take over an hour of virtual time, as on real GPUs. A new process
takes half a minute until it is ready, as one that loads a model does, at the start and after every
kill. The stall threshold is the default, 5 minutes: what a frozen GPU costs depends on how long a
run is beside it, and it is about 6 % of the runs of 50 files, and 0.7 % of those of 500.

Two columns of ratios are makespan / lower bound. The bound knows the real sizes and speeds: all
work on all GPUs, or the largest file on the fastest; a frozen GPU counts for the time until it
froze. Not every bound can be reached: whole files do not fill all GPUs evenly. `known` is what a
planner reaches that knows all sizes, speeds and faults beforehand and needs no time to start.
When one of the two fastest GPUs freezes there is no goal: it may hold one of the largest files, and
nobody can know before the threshold that what it has done of it is lost.

A row in which a file was lost, failed or completed twice is marked WRONG, and the exit status is
then 1. There are a fifth as many runs of 5,000 files, which vary little, and of the static
balancer, which is there to compare with.

Run: python benchmarks/balance.py [--seeds 50] [--first-seed 0]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.simulation import VirtualGpu, VirtualRun, lower_bound, skewed_files

SPEEDS = (1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 2.5, 2.5)
RESIDUES_PER_SECOND = 1000.0  # of a GPU of speed 1
STARTUP = 30.0  # seconds until a process is ready
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

    def speeds(self) -> list[float]:
        """Residues per second that the GPUs really do while they are not frozen."""
        factors = self.factors
        return [s * factors.get(i, 1.0) * RESIDUES_PER_SECOND for i, s in enumerate(SPEEDS)]


SLOW: Mapping[int, float | None] = {50: 1.08, 500: 1.015}
FROZEN: Mapping[int, float | None] = {50: 1.10, 500: 1.02}
NO_GOAL: Mapping[int, float | None] = {50: None, 500: None}
SCENARIOS = (
    Scenario("healthy", {50: 1.03, 500: 1.005, 5000: 1.001}),
    Scenario("slow GPU at 0.3x", SLOW, factors={0: 0.3}),
    Scenario("fast GPU at 0.3x", SLOW, factors={7: 0.3}),
    Scenario("frozen, retry", FROZEN, frozen=0, on_stall=OnStall.RETRY),
    Scenario("frozen, restart", FROZEN, frozen=0, on_stall=OnStall.RESTART),
    Scenario("fast frozen, retry", NO_GOAL, frozen=7, on_stall=OnStall.RETRY),
    Scenario("fast frozen, restart", NO_GOAL, frozen=7, on_stall=OnStall.RESTART),
    Scenario("static, healthy", {50: None, 500: None, 5000: None}, is_stealing=False),
    Scenario("static, slow GPU", NO_GOAL, factors={0: 0.3}, is_stealing=False),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run: a scenario by its index, so many files of such sizes, from this seed."""

    scenario: int
    count: int
    sizes: str
    seed: int


def ratios(case: Case) -> tuple[float, float] | str:
    """Makespan / lower bound of one run, and of a planner that knows all beforehand.

    Returns:
        The two ratios, or what is wrong: a file was lost, failed or completed twice.
    """
    scenario = SCENARIOS[case.scenario]
    files, work = skewed_files(case.count, random.Random(case.seed), distribution=case.sizes)
    speeds = scenario.speeds()
    going = [speed for i, speed in enumerate(speeds) if i != scenario.frozen]
    bound = lower_bound(work, going)
    works_until = [float("inf")] * len(speeds)
    if scenario.frozen is not None:
        freezes_at = works_until[scenario.frozen] = FREEZE_AT * bound
        # What it may have finished before nobody else has to do.
        finished = speeds[scenario.frozen] * freezes_at
        bound = max((sum(work.values()) - finished) / sum(going), max(work.values()) / max(going))
    gpus = {
        str(i): VirtualGpu(speed, freezes_at=works_until[i], startup=STARTUP)
        for i, speed in enumerate(speeds)
    }
    scheduler = Scheduler(
        {str(i): speed for i, speed in enumerate(SPEEDS)},
        settings=SchedulerSettings(on_stall=scenario.on_stall),
        policy=EarliestFinish() if scenario.is_stealing else NoStealing(),
    )
    outcome = VirtualRun(scheduler, gpus, work).run(files, limit=50 * bound)
    if outcome.completed != dict.fromkeys(work, 1):
        lost = sorted(set(work) - set(outcome.completed))
        twice = sorted(path for path, times in outcome.completed.items() if times > 1)
        return f"seed {case.seed}: lost {lost} (given up: {outcome.failed}), twice {twice}"
    return outcome.makespan / bound, best_known(work, speeds, works_until) / bound


def best_known(
    work: Mapping[str, int], speeds: Sequence[float], works_until: Sequence[float]
) -> float:
    """Seconds that whole files take when sizes, speeds and faults are known (MULTIFIT).

    The least time within which files by falling size, each on the slowest GPU that still has room
    for it, all find a place.
    """
    sizes = sorted(work.values(), reverse=True)
    too_short, enough = 0.0, 2.0 * sum(sizes) / max(speeds)
    while enough - too_short > 1e-4 * enough:
        middle = (too_short + enough) / 2.0
        room = [
            speed * min(middle, until) for speed, until in zip(speeds, works_until, strict=True)
        ]
        if _all_fit(sizes, sorted(room)):
            enough = middle
        else:
            too_short = middle
    return enough


def _all_fit(sizes: Sequence[int], room: list[float]) -> bool:
    for size in sizes:
        place = next((i for i, left in enumerate(room) if size <= left), None)
        if place is None:
            return False
        room[place] -= size
    return True


def rows(seeds: int) -> list[tuple[int, int, str, int]]:
    """Scenario, number of files, sizes and number of runs of each line of the table."""
    few = max(1, seeds // 5)
    return [
        (index, count, sizes, seeds if scenario.is_stealing and count < MANY_FILES else few)
        for index, scenario in enumerate(SCENARIOS)
        for count in scenario.goals
        for sizes in ("lognormal", "pareto")
    ]


def line(scenario: Scenario, count: int, results: Sequence[tuple[float, float]]) -> str:
    """The figures of one row."""
    ours = sorted(mine for mine, _ in results)
    mean, p95 = statistics.mean(ours), ours[int(0.95 * len(ours))]
    known = statistics.mean(best for _, best in results)
    goal = scenario.goals[count]
    verdict = "" if goal is None else f"{goal:>7.3f} {'' if mean <= goal else 'MISSED'}"
    return f"{mean:>7.4f} {p95:>7.4f} {known:>7.4f} {verdict}".rstrip()


def main() -> int:
    """Print the table.

    Returns:
        1 if a file was lost or doubled.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50, help="runs per row (default: 50)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run")
    options = parser.parse_args()
    print("makespan / lower bound")
    print(f"{'scenario':<20} {'files':>5} {'sizes':<9} {'runs':>4}", end=" ")
    print(f"{'mean':>7} {'p95':>7} {'known':>7} {'goal':>7}")
    is_sound = True
    first = options.first_seed
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for index, count, sizes, runs in rows(options.seeds):
            cases = [Case(index, count, sizes, first + i) for i in range(runs)]
            results = pool.map(ratios, cases, chunksize=1)
            wrong = [result for result in results if isinstance(result, str)]
            right = [result for result in results if not isinstance(result, str)]
            scenario = SCENARIOS[index]
            figures = f"WRONG: {wrong[0]}" if wrong else line(scenario, count, right)
            print(f"{scenario.name:<20} {count:>5} {sizes:<9} {runs:>4} {figures}", flush=True)
            is_sound = is_sound and not wrong
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
