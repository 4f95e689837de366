"""Counters over whole runs of the real scheduler, in virtual time."""

from __future__ import annotations

import re

import pytest

from virnucpro_exporter.gpu import state
from virnucpro_exporter.gpu.simulated import Activity, SimulatedSource
from virnucpro_exporter.gpu.sources import CORE
from virnucpro_exporter.metrics import GpuCollector, RunCollector
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.simulation import SCENARIOS, Simulation
from virnucpro_exporter.simulation.virtual_run import VirtualRun
from virnucpro_exporter.snapshot import GpuSnapshot, Latest

RISING = re.compile(r".*_(total|bucket|count|sum)")
Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class ScrapedRun(VirtualRun):
    """A run in virtual time that is scraped after every event.

    Attributes:
        counters: Those of the latest scrape.
        lost: Whether a GPU was ever seen lost.
    """

    def __init__(self, plan: Simulation, settings: SchedulerSettings) -> None:
        scheduler = Scheduler(plan.weights, settings=settings, policy=plan.policy("stealing"))
        batch = plan.batch(0)
        super().__init__(scheduler, plan.virtual_gpus, batch.work, plan.progress_every)
        self._core = scheduler
        self._workers.add({}, batch.mishaps)
        for gpu, outage in batch.outages:
            self._workers.plan(gpu, outage)
        self._source = SimulatedSource(
            list(plan.names.values()), self._activity, clock=lambda: self._workers.now
        )
        self._states = {f.gpu: state.identified(state.GpuState(f), f) for f in self._source.open()}
        self.counters: Counters = {}
        self.lost = False

    def _activity(self, gpu: str) -> Activity:
        outage = self._workers.outage(gpu)
        return Activity(compute=0.5, is_lost=outage is not None and outage.is_loss)

    def _turn(self) -> None:
        super()._turn()
        found = self._scrape()
        fallen = {key: v for key, v in found.items() if v < self.counters.get(key, 0.0)}
        assert not fallen, f"counters went down: {fallen}"
        gone = {key for key in self.counters.keys() - found.keys() if "_gpu_" not in key[0]}
        assert not gone, f"counters of the run vanished: {gone}"
        self.counters.update(found)

    def _scrape(self) -> Counters:
        now = self._workers.now
        for gpu, held in self._states.items():
            asked = state.due(held, (*CORE, "energy_joules"), now)
            if asked:
                reading = self._source.read(held.found.uuid, asked)
                self._states[gpu] = state.absorb(held, reading, now, now)
        devices = tuple(state.device(gpu, held, now, 3.0) for gpu, held in self._states.items())
        self.lost |= not all(device.up for device in devices)
        run = take_snapshot(self._core, RunContext(), now)
        collectors = RunCollector(Latest(run)), GpuCollector(Latest(GpuSnapshot(now, "x", devices)))
        return {
            (sample.name, tuple(sample.labels.items())): sample.value
            for collector in collectors
            for family in collector.collect()
            for sample in family.samples
            if RISING.fullmatch(sample.name)
        }


@pytest.mark.parametrize(
    ("scenario", "raised"),
    [
        ("lost-gpu", ["worker_restarts_total", "gpu_errors_total", "steals_total"]),
        ("stall", ["worker_stalls_total", "second_attempts_total"]),
        ("failures", ["file_failures_total", "file_duration_seconds_count"]),
        ("thrash", ["file_resteals_total", "worker_restarts_total"]),
    ],
)
def test_counters_never_go_down(scenario: str, raised: list[str]) -> None:
    """Not by restarts, lost GPUs, second attempts or failures; not even by a rounding error."""
    plan = Simulation(SCENARIOS[scenario], gpus=4, count=80)
    settings = SchedulerSettings(stall_threshold=plan.stall_threshold, on_stall=OnStall.RETRY)
    run = ScrapedRun(plan, settings)
    run.run(plan.batch(0).files)
    totals = dict.fromkeys(raised, 0.0)
    for (name, _), value in run.counters.items():
        if (bare := name.removeprefix("virnucpro_")) in totals:
            totals[bare] += value
    assert all(totals.values()), "what is meant to happen has happened"
    assert run.lost is (scenario == "lost-gpu")
