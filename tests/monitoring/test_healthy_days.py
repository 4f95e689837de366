"""Days on which nothing is wrong, at their real length: no alert may fire.

The real scheduler runs virtual workers in virtual time; its metrics, one scrape a minute, are what
promtool evaluates the committed rules on. So a day takes a second, and no length of time is scaled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import builders
from tests.monitoring.backfill import Line, scraped
from tests.monitoring.programs import Labels, tool
from tests.monitoring.rules import RULES
from virnucpro_exporter.app.simulate import NoResults
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.metrics import build_registry
from virnucpro_exporter.metrics.catalog import COLLECTOR_LAST_SUCCESS, COLLECTOR_SUCCESS
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.simulation import Reports, VirtualGpu, VirtualPool, VirtualWorkers, pool
from virnucpro_exporter.snapshot import Latest, RunResult, RunSnapshot, RunState

pytestmark = pytest.mark.xdist_group("healthy days")

MINUTE = 60.0
SPEED = 100_000  # residues per second
AFTER = 20  # minutes that are watched after the end: longer than any alert waits
RUN = {"job": "virnucpro", "instance": "gpu-1:9877"}
NODE = {"job": "virnucpro-node", "instance": "gpu-1:9878"}
# The metrics in the rules: with those alone a day takes half the time.
ASKED_FOR = {*re.findall(r"\b(?:up|virnucpro_\w+)\b", "".join(p.read_text() for p in RULES))}
Watch = Callable[[int, RunSnapshot], None]


@dataclass
class Day:
    """What Prometheus has seen, minute by minute.

    Attributes:
        gaps: Minutes in which Prometheus itself was not there.
    """

    gaps: frozenset[int] = frozenset()
    seen: dict[str, dict[int, dict[tuple[str, ...], float]]] = field(default_factory=dict)

    def scrape(self, minute: int, target: Labels, lines: Iterable[Line]) -> None:
        """Keep what a target says; nothing, where it does not answer."""
        found = {_key(name, labels): value for name, labels, value, _ in lines}
        up = _key("up", target)
        self.seen.setdefault(target["instance"], {})[minute] = {up: 0.0, **found}

    def fired(self, folder: Path) -> str:
        """What promtool says if an alert fired at any time; empty if none did."""
        last = max(minute for minutes in self.seen.values() for minute in minutes)
        fired = f'ALERTS{{alertstate="firing"}}[{last}m]'
        expr = f"count by (alertname, gpu, run) (count_over_time({fired}))"
        test = {
            "interval": "1m",
            "input_series": [*self._series(last)],
            "promql_expr_test": [{"expr": expr, "eval_time": f"{last}m", "exp_samples": []}],
        }
        content = {"rule_files": [str(p) for p in RULES], "evaluation_interval": "1m"}
        path = folder / "day.test.yml"
        path.write_text(yaml.dump({**content, "tests": [test]}, Dumper=yaml.CSafeDumper))
        done = tool("promtool", "test", "rules", path)
        return "" if done.returncode == 0 else done.stdout

    def _series(self, last: int) -> Iterator[dict[str, str]]:
        for minutes in self.seen.values():
            for name, *pairs in sorted({key for found in minutes.values() for key in found}):
                key = (name, *pairs)
                values = [self._value(minutes, minute, key) for minute in range(last + 1)]
                yield {"series": f"{name}{{{','.join(pairs)}}}", "values": " ".join(values)}

    def _value(
        self,
        minutes: Mapping[int, Mapping[tuple[str, ...], float]],
        minute: int,
        key: tuple[str, ...],
    ) -> str:
        if minute in self.gaps or minute not in minutes:
            return "_"
        value = minutes[minute].get(key)
        if value is not None:
            return f"{value:.6f}".rstrip("0").rstrip(".")
        return "stale" if key in minutes.get(minute - 1, ()) else "_"


def _key(name: str, labels: Labels) -> tuple[str, ...]:
    return (name, *(f'{label}="{text}"' for label, text in sorted(labels.items())))


def of_run(day: Day, minute: int, run: RunSnapshot, linger: float = 30.0) -> None:
    """A scrape of a run's own endpoint, which waits so many seconds for a last one."""
    at = minute * MINUTE
    gpus = Latest(builders.gpus_up(len(run.workers), at))
    registry = build_registry(Latest(run), gpus, process=False, linger=linger)
    day.scrape(minute, RUN, in_time(scraped(registry, RUN, at)))


def of_node(day: Day, minute: int, runs: Iterable[RunSnapshot] = ()) -> None:
    """A scrape of `serve`."""
    at = minute * MINUTE
    gpus = Latest(builders.gpus_up(2, at))
    registry = build_registry(None, gpus, process=False, runs=Latest((*runs,)))
    day.scrape(minute, NODE, in_time(scraped(registry, NODE, at)))


def in_time(lines: Iterable[Line]) -> Iterator[Line]:
    """What the rules ask for, with the health of collectors by the clock of the day."""
    for name, labels, value, at in lines:
        told = {COLLECTOR_SUCCESS.name: 1.0, COLLECTOR_LAST_SUCCESS.name: at}
        if name in ASKED_FOR:
            yield name, labels, told.get(name, value), at


class Played:
    """A run in virtual time.

    Args:
        files: The seconds that each file takes, by its name.
        watch: Called at each whole minute.
        begin: The minute at which it begins.
        startup: Seconds until a worker has loaded its model.
        reports: What the processor reports.
        name: What users call it.
        comings: Seconds after the begin at which workers join or leave.
        drains: Seconds after which it is told to end.
    """

    def __init__(
        self,
        files: Mapping[str, float],
        watch: Watch,
        *,
        begin: int = 1,
        startup: float = 20.0,
        reports: Reports = Reports.RESIDUES,
        name: str = "",
        comings: Iterable[tuple[float, ev.WorkerJoined | ev.WorkerLost]] = (),
        drains: float = float("inf"),
    ) -> None:
        self.now = begin * MINUTE
        self._watch, self._minute, self._drains_at = watch, begin, self.now + drains
        workers = VirtualWorkers(
            {gpu: VirtualGpu(SPEED, startup=startup) for gpu in "01"}, reports=reports
        )
        work = {path: int(seconds * SPEED) for path, seconds in files.items()}
        workers.add(work, {})
        for at, event in comings:
            workers.announce(at, event)
        clocked = VirtualPool(workers, lambda: self.now, self._sleep)
        self._coordinator = WorkStealingCoordinator(
            {"0": 1.0, "1": 1.0},
            names=dict(enumerate_gpus()),
            settings=SchedulerSettings(reports_progress=reports is not Reports.NONE),
            processor="test",
            name=name,
            clock=clocked.now,
            wall_clock=lambda: self.now,
        )
        self._runner = Runner(
            self._coordinator, clocked, ["0", "1"], NoResults(), None, lambda: self.now
        )
        self._runner.run([SequenceFile(path, n // 500, n) for path, n in work.items()])
        done = self._coordinator.snapshot().state is RunState.COMPLETED
        result = RunResult.COMPLETED if done else RunResult.INTERRUPTED
        self.end = replace(self._coordinator.conclude(result, 0), heartbeat_age=0.0)
        self.ended_at = int(self.now // MINUTE) + 1

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._drains_at:
            self._runner.drain()
        while self._minute * MINUTE <= self.now:
            self._watch(self._minute, self._coordinator.snapshot())
            self._minute += 1


def enumerate_gpus() -> Iterator[tuple[str, str]]:
    """The models of the two GPUs."""
    for index in range(2):
        yield str(index), builders.NAMES[index]


def usual(count: int = 40, seconds: float = 240.0) -> dict[str, float]:
    """Files of one size."""
    return {f"/data/{n:03}.fa": seconds for n in range(count)}


def of_a_run(day: Day, *, lingers: int = 1, **options: Any) -> Played:
    """A run with an endpoint of its own, which goes some minutes after its end."""
    files = options.pop("files", usual())
    linger = 30.0 if lingers else 0.0
    played = Played(files, lambda minute, run: of_run(day, minute, run, linger), **options)
    for minute in range(played.ended_at, played.ended_at + lingers):
        of_run(day, minute, played.end)
    for minute in range(played.ended_at + lingers, played.ended_at + lingers + AFTER):
        day.scrape(minute, RUN, ())
    return played


def model_load(day: Day) -> None:
    """The model loads for ten minutes."""
    of_a_run(day, startup=600.0)


def long_file(day: Day) -> None:
    """Files of two hours, of which progress is reported."""
    of_a_run(day, files=usual(2, 7200.0))


def long_silent_file(day: Day) -> None:
    """Files of two hours, by commands that report nothing and are seen to work."""
    of_a_run(day, files=usual(2, 7200.0), reports=Reports.NONE)


def drain(day: Day) -> None:
    """Told to end in the middle of files of forty minutes, which it finishes."""
    played = of_a_run(day, files=usual(8, 2400.0), drains=3000.0)
    assert played.end.files_queued > 0


def linger_0(day: Day) -> None:
    """Its endpoint goes with the run: no scrape sees its end."""
    of_a_run(day, lingers=0)


def prometheus_restarts(day: Day) -> None:
    """Prometheus was away for ten minutes."""
    day.gaps = frozenset(range(30, 40))
    of_a_run(day)


def serve_restarts(day: Day) -> None:
    """`serve` was away for two minutes, while a run that it shows went on."""

    def watch(minute: int, run: RunSnapshot) -> None:
        if minute in (30, 31):
            day.scrape(minute, NODE, ())
        else:
            of_node(day, minute, [run])

    played = Played(usual(), watch, name="gut")
    for minute in range(played.ended_at, played.ended_at + AFTER):
        of_node(day, minute, [played.end])


def resume(day: Day) -> None:
    """Interrupted, and resumed at the same address five minutes later."""
    first = of_a_run(day, files=usual(8, 2400.0), drains=1000.0)
    of_a_run(day, begin=first.ended_at + 5)


def two_runs(day: Day) -> None:
    """Two runs on one machine, the second while the first goes on, both shown by `serve`."""
    seen: dict[int, list[RunSnapshot]] = {}

    def watch(minute: int, run: RunSnapshot) -> None:
        seen.setdefault(minute, []).append(run)

    ends = [
        Played(usual(), watch, name="gut"),
        Played(usual(20), watch, name="soil", begin=20),
    ]
    for minute in range(1, max(played.ended_at for played in ends) + AFTER):
        over = [played.end for played in ends if played.ended_at <= minute]
        of_node(day, minute, [*seen.get(minute, ()), *over])


def join_and_leave(day: Day) -> None:
    """The node of one worker leaves a Dask cluster, and returns within two minutes."""
    worker = WorkerId("1")
    leaves = ev.WorkerLost(worker, "its node has left", ev.LossCause.LEFT_CLUSTER)
    joins = ev.WorkerJoined(worker, builders.NAMES[1], 1.0)
    of_a_run(day, comings=[(1000.0, leaves), (1100.0, joins)])


DAYS = (
    model_load,
    long_file,
    long_silent_file,
    drain,
    linger_0,
    prometheus_restarts,
    serve_restarts,
    resume,
    two_runs,
    join_and_leave,
)


@pytest.fixture(autouse=True)
def long_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool looks for signals every 20 seconds of the day: none comes, and there are many."""
    monkeypatch.setattr(pool, "_NAP_SECONDS", 20.0)


@pytest.mark.parametrize("happen", DAYS, ids=lambda happen: happen.__name__)
def test_nothing_fires_on_a_healthy_day(happen: Callable[[Day], object], tmp_path: Path) -> None:
    """From before the start until long after the end."""
    day = Day()
    happen(day)
    assert day.fired(tmp_path) == ""


def test_a_day_with_a_hang_is_no_healthy_day(tmp_path: Path) -> None:
    """The same way of testing sees an alert where there is one."""
    day = Day()
    of_a_run(day, files=usual(4, 7200.0), reports=Reports.NO_SIGN)
    assert "VirnucproGpuStalled" in day.fired(tmp_path)
