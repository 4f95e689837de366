"""Virtual workers at any pace: one seed, one history."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests import facts
from virnucpro_exporter.app.simulate import NoResults, SimulatedRun, activity, begin
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.gpu.simulated import Activity, SimulatedSource
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.scheduler import Decisions
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.simulation import SCENARIOS, Simulation, VirtualPool, VirtualWorkers


class FakeTime:
    """A clock that moves when somebody sleeps, and by chance between two looks at it."""

    def __init__(self, delays: Iterable[float]) -> None:
        self.now = 0.0
        self._delays = iter(delays)

    def clock(self) -> float:
        """Seconds, after a delay such as a busy machine makes."""
        self.now += next(self._delays, 0.0)
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds


class Recorded(WorkStealingCoordinator):
    """Keeps what was decided, and when."""

    decisions: list[tuple[float, object]]

    def handle(self, events: Iterable[ev.Event]) -> Decisions:
        """Decide, and write it down."""
        decisions = super().handle(events)
        self.decisions += [(self._clock(), decided) for decided in facts.everything(decisions)]
        return decisions


class Played:
    """A scenario, played to its end.

    Args:
        name: Which scenario.
        time: Its pace; as fast as possible when None.
        settings: Of the plan.
    """

    def __init__(
        self,
        name: str,
        time: FakeTime | None = None,
        *,
        balancer: str = "stealing",
        **settings: int,
    ) -> None:
        time = time or FakeTime([])
        self.plan = plan = Simulation(SCENARIOS[name], **{"count": 80, **settings})
        self.workers = VirtualWorkers(plan.virtual_gpus, plan.progress_every)
        pool = VirtualPool(self.workers, time.clock, time.sleep)
        coordinator = Recorded(
            plan.weights,
            balancer=balancer,
            policy=plan.policy(balancer),
            settings=SchedulerSettings(
                stall_threshold=plan.stall_threshold, second_attempts=balancer == "stealing"
            ),
            clock=pool.now,
        )
        coordinator.decisions = []
        runner = Runner(coordinator, pool, list(plan.names), NoResults(), None)
        runner.run(begin(plan, 0, self.workers))
        self.decisions = coordinator.decisions


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slow_machine_decides_the_same(name: str) -> None:
    """What is decided, and at which time of the simulation, does not depend on the pace."""
    rng = random.Random(5)
    slow = FakeTime(rng.choice((0.0, 0.0, 0.3, 2.0)) for _ in range(10_000))
    assert Played(name, slow).decisions == Played(name).decisions


def test_another_seed_is_another_run() -> None:
    """The seed decides about files and chances."""
    assert Played("balanced", seed=1).decisions != Played("balanced", seed=2).decisions


def test_a_signal_ends_waiting() -> None:
    """Whoever wakes the pool need not wait, and no time passes in the simulation."""
    plan = Simulation(SCENARIOS["balanced"])
    pool = VirtualPool(VirtualWorkers(plan.virtual_gpus), sleep=lambda _: pool.wake())
    assert not pool.rest(1e9)
    assert pool.poll(1e9) == []
    assert pool.now() == 0.0
    assert pool.rest(0.0)


def test_a_virtual_gpu_shows_what_its_worker_does() -> None:
    """A hung worker shows full utilisation, and a lost GPU nothing."""
    for name, expected in (
        ("stall", Activity(compute=1.0, power=0.4, memory=0.62)),
        ("lost-gpu", Activity(is_lost=True)),
    ):
        plan = Simulation(SCENARIOS[name], count=80)
        workers = VirtualWorkers(plan.virtual_gpus, plan.progress_every)
        file = begin(plan, 0, workers)[0]
        assert activity(workers, "1") == Activity()
        workers.spawn(facts.worker("1"))
        while workers.now < plan.batch(0).outages[0][1].begin:
            workers.now += 0.5
            workers.start(facts.start("1", 1, file))
        assert activity(workers, "1") == expected
        assert activity(workers, "0").memory < 0.1


def test_a_virtual_gpu_warms_up_and_cools_down() -> None:
    """Power follows at once, the temperature later, and the energy adds up."""
    now, doing = 0.0, Activity(compute=1.0, power=0.9)
    source = SimulatedSource(("NVIDIA H100 80GB HBM3",), lambda _: doing, clock=lambda: now)
    (found,) = source.open()

    def read(value: str) -> float:
        return float(source.read(found.uuid, (value,)).values[value])

    cold = read("temperature_celsius")
    assert read("power_watts") > 500
    now = 60.0
    warm = read("temperature_celsius")
    assert warm > cold + 20
    assert read("energy_joules") > 60 * 500
    doing = Activity()
    assert read("power_watts") < 100
    assert read("temperature_celsius") == warm
    now = 120.0
    assert read("temperature_celsius") < warm - 20


def test_all_files_are_counted_before_the_first_one_is_submitted() -> None:
    """Views are up by then, and show no run of 0 files."""
    plan = Simulation(SCENARIOS["balanced"], gpus=2, count=30, speed=1.0, seed=1)
    workers = VirtualWorkers(plan.virtual_gpus)
    pool = VirtualPool(workers)
    coordinator = WorkStealingCoordinator(plan.weights, clock=pool.now)
    shown = SimulatedRun(coordinator, workers, pool, begin(plan, 0, workers)).latest()
    assert (shown.files_total, shown.files_completed, shown.percent_done) == (30, 0, 0)
    assert shown.eta_seconds is None
