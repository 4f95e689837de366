"""Single decisions of the core, with the time given."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import events as said
from tests import facts
from tests.facts import everything
from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.assignment import assign_files_weighted
from virnucpro_exporter.scheduling.diagram import diagram
from virnucpro_exporter.scheduling.files import TRANSITIONS, SequenceFile
from virnucpro_exporter.scheduling.policy import NoStealing
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.scheduling.speed import Throughput
from virnucpro_exporter.scheduling.weights import get_gpu_weight, is_known_gpu
from virnucpro_exporter.simulation import VirtualGpu, VirtualRun, lower_bound, skewed_files


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("NVIDIA GeForce RTX 3090 Ti", 1.0),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 0.9),
        ("NVIDIA RTX A6000", 1.1),
        ("NVIDIA A100-SXM4-80GB", 1.2),
        ("NVIDIA H100 80GB HBM3", 2.5),
        ("Tesla V100-SXM2-16GB", 0.75),
        ("Tesla V100-SXM2-32GB-LS", 0.8),
        ("Tesla T4", 0.5),
        ("NVIDIA A10", 1.0),
        ("NVIDIA A10G", 0.85),
        ("NVIDIA A30", 0.9),
        ("NVIDIA L4", 1.0),
        ("NVIDIA L40", 1.5),
        ("NVIDIA L40S", 1.75),
        ("NVIDIA RTX 6000 Ada Generation", 1.8),
        ("NVIDIA GeForce RTX 5090", 1.85),
        ("NVIDIA GeForce RTX 5070 Ti", 1.25),
        ("NVIDIA GeForce RTX 5070", 1.05),
        ("NVIDIA H200", 2.75),
        ("NVIDIA GH200 480GB", 2.6),
        ("NVIDIA B200", 3.8),
    ],
)
def test_every_variant_of_a_model_finds_its_weight(name: str, weight: float) -> None:
    """The model part of the name decides."""
    assert get_gpu_weight(name) == weight


def test_an_unknown_model_counts_as_the_baseline() -> None:
    """It gets 1.0, and can be told apart from a known one."""
    for name in ("NVIDIA X1", "Quadro RTX 6000", "NVIDIA T400 4GB", "Tesla P4"):
        assert get_gpu_weight(name) == 1.0
        assert not is_known_gpu(name)


@given(
    costs=st.lists(st.integers(1, 10**9), max_size=60),
    weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=8),
)
def test_assignment_gives_each_file_once_and_never_a_worse_gpu(
    costs: list[int], weights: list[float]
) -> None:
    """All files are given out, largest first, and moving a GPU's last file helps nobody."""
    table = {str(i): weight for i, weight in enumerate(weights)}
    files = [SequenceFile(f"/{i}", None, cost) for i, cost in enumerate(costs)]
    assigned = assign_files_weighted(files, table)
    assert sorted(f.path for fs in assigned.values() for f in fs) == sorted(f.path for f in files)
    loads = {gpu: sum(f.residues for f in fs) for gpu, fs in assigned.items()}
    for gpu, mine in assigned.items():
        assert [f.residues for f in mine] == sorted((f.residues for f in mine), reverse=True)
        for other, weight in table.items():
            if mine and other != gpu:
                moved = (loads[other] + mine[-1].residues) / weight
                assert moved >= loads[gpu] / table[gpu] * (1 - 1e-9)


def test_throughput_is_that_of_the_last_minute_with_progress() -> None:
    """Whatever was before; a worker without work does nothing."""
    short = Throughput()
    assert short.sequences_per_second(0.0, is_busy=True) is None
    short.begin(0.0)
    for second in range(1, 121):
        short.add(20 if second > 60 else 5, 0, float(second))
        short.file_ended(float(second))
    assert short.sequences_per_second(120.0, is_busy=True) == pytest.approx(20.0)
    assert short.sequences_per_second(150.0, is_busy=False) == pytest.approx(10.0)
    assert short.sequences_per_second(200.0, is_busy=False) == pytest.approx(0.0)
    short.begin(1000.0)
    short.add(30, 0, 1010.0)
    assert short.sequences_per_second(1010.0, is_busy=True) == pytest.approx(0.5)


def test_throughput_of_long_files_without_reports_is_steady() -> None:
    """What is told at the end of a file was done since its start; silence takes nothing away."""
    long = Throughput()
    long.begin(0.0)
    for file in range(1, 31):
        long.add(200 if file > 20 else 100, 0, file * 100.0)
        long.file_ended(file * 100.0)
        if file in (10, 30):
            rate = 1.0 if file == 10 else 2.0
            for later in (0.0, 30.0, 60.0, 61.0, 99.0):
                found = long.sequences_per_second(file * 100.0 + later, is_busy=True)
                assert found == pytest.approx(rate), (file, later)


def test_throughput_of_a_silent_file_is_that_of_the_last_ten() -> None:
    """After a minute without a report, the last ten files and what was reported since count."""
    long = Throughput()
    long.begin(0.0)
    for file in range(1, 21):
        long.add(100, 0, file * 10.0)
        long.file_ended(file * 10.0)
    long.add(30, 0, 230.0)
    for silent in (0.0, 10.0, 59.0, 60.0):
        found = long.sequences_per_second(230.0 + silent, is_busy=True)
        assert found == pytest.approx((30 + 100 * 3) / 60), silent
    assert long.sequences_per_second(300.0, is_busy=True) == pytest.approx(1030 / 130)


def run_virtually(
    count: int, gpus: dict[str, VirtualGpu], *, declared: list[float], on_stall: OnStall
) -> float:
    files, work = skewed_files(count, random.Random(7))
    weights = dict(zip(gpus, declared, strict=True))
    scheduler = Scheduler(weights, settings=SchedulerSettings(on_stall=on_stall))
    outcome = VirtualRun(scheduler, gpus, work).run(files)
    assert outcome.failed == ()
    assert set(outcome.completed.values()) == {1}
    assert len(outcome.completed) == count
    alive = [gpu.speed for gpu in gpus.values() if gpu.freezes_at == float("inf")]
    return outcome.makespan / lower_bound(work, alive)


def test_a_slow_gpu_hardly_delays_the_run() -> None:
    """One GPU at 0.3x its declared speed costs a few per cent, not a multiple."""
    gpus = {str(i): VirtualGpu(300.0 if i == 0 else 1000.0) for i in range(8)}
    ratio = run_virtually(60, gpus, declared=[1.0] * 8, on_stall=OnStall.REPORT)
    assert ratio < 1.15


@pytest.mark.parametrize("on_stall", list(OnStall))
def test_a_frozen_gpu_loses_no_file(on_stall: OnStall) -> None:
    """Whatever is done about the stall, every file gets its one result."""
    gpus = {str(i): VirtualGpu(1000.0, 5000.0 if i == 0 else float("inf")) for i in range(4)}
    assert run_virtually(40, gpus, declared=[1.0] * 4, on_stall=on_stall) < 1.5


def test_the_static_balancer_never_steals() -> None:
    """The control keeps its initial assignment."""
    files, work = skewed_files(50, random.Random(3))
    scheduler = Scheduler({"0": 1.0, "1": 1.0}, policy=NoStealing())
    VirtualRun(scheduler, {"0": VirtualGpu(100.0), "1": VirtualGpu(900.0)}, work).run(files)
    assert scheduler.state.steals == {}


def test_a_poison_file_is_given_up_and_the_others_are_done() -> None:
    """A file that kills every worker fails after its attempts; a lone worker goes on."""
    scheduler = Scheduler({"0": 1.0}, settings=SchedulerSettings(max_attempts=2))
    files = (SequenceFile("/poison", 1, 100), SequenceFile("/good", 1, 10))
    pending = everything(scheduler.handle(ev.FilesSubmitted(files), 0.0))
    pending += everything(scheduler.handle(said.ready("0"), 0.0))
    given_up = []
    while not scheduler.is_finished:
        action = pending.pop(0)
        if isinstance(action, co.RestartWorker):
            pending += everything(scheduler.handle(said.ready("0"), 1.0))
        elif isinstance(action, fa.FileFailed):
            given_up.append((action.file.path, action.failures, action.limit, action.error))
        elif isinstance(action, co.StartAttempt):
            if action.file.path == "/poison":
                lost = said.lost("0", "was killed by SIGKILL")
                pending += everything(scheduler.handle(lost, 1.0))
            else:
                event = said.completed("0", action.attempt, 1, 10, 0.5)
                pending += everything(scheduler.handle(event, 1.0))
    assert given_up == [("/poison", 2, 2, "was killed by SIGKILL")]
    assert scheduler.state.completed_files == 1


def test_the_picture_of_the_states_is_current() -> None:
    """docs/states.svg is what the table of transitions gives, with every cause in it."""
    picture = Path(__file__).parents[2] / "docs" / "states.svg"
    assert picture.read_text(encoding="utf-8") == diagram()
    for _, cause in TRANSITIONS:
        assert re.search(rf"[> ]{cause.value}[,<]", diagram())


def test_a_worker_that_stalls_again_is_noticed_again() -> None:
    """After the end of a stall, the next one has its own deadline, start and end."""
    scheduler = Scheduler({"0": 1.0})
    scheduler.handle(ev.FilesSubmitted((SequenceFile("/a", 1, 100),)), 0.0)
    scheduler.handle(said.ready("0"), 0.0)
    told: list[fa.Fact] = []
    for now in (300.0, 310.0, 610.0):
        event = said.progress("0", 1, 0, 1) if now == 310.0 else ev.TimePassed()
        told += scheduler.handle(event, now).facts
        deadline = scheduler.next_deadline()
        assert deadline is None or deadline > now
    assert told == [
        facts.stall("0", "/a", 300.0),
        facts.stall_ended("0", 10.0),
        facts.stall("0", "/a", 300.0),
    ]
    assert scheduler.state.workers["0"].counters.stalls == 2


def test_the_limit_for_a_file_holds_on_a_stalled_worker() -> None:
    """A worker that is only reported as stalled loses its file when the time for it is over."""
    limits = SchedulerSettings(stall_threshold=30.0, file_timeout=100.0, max_attempts=1)
    scheduler = Scheduler({"0": 1.0}, settings=limits)
    scheduler.handle(ev.FilesSubmitted((SequenceFile("/a", 1, 100),)), 0.0)
    scheduler.handle(said.ready("0"), 0.0)
    scheduler.handle(said.started("0", 1), 0.0)
    told: list[co.Command | fa.Fact] = []
    while (deadline := scheduler.next_deadline()) is not None:
        told += everything(scheduler.handle(ev.TimePassed(), deadline))
    assert facts.stall("0", "/a", 30.0) in told
    assert facts.cancel("0", 1) in told
    file, error = SequenceFile("/a", 1, 100), "took longer than the limit of 100 s"
    assert facts.ended("0", 1, file, fa.Outcome.TIMED_OUT, error, is_charged=True) in told
    assert facts.failed("0", file, error) in told


def test_nobody_is_starved_after_a_drain() -> None:
    """A file that comes back after a drain is not waited for."""
    settings = SchedulerSettings(second_attempts=False)
    scheduler = Scheduler({"0": 1.0, "1": 1.0, "2": 1.0}, settings=settings)
    files = (SequenceFile("/a", 1, 100), SequenceFile("/b", 1, 99))
    scheduler.handle(ev.FilesSubmitted(files), 0.0)
    for gpu in ("0", "1", "2"):
        scheduler.handle(said.ready(gpu), 0.0)
    scheduler.handle(ev.DrainRequested(), 6.0)
    scheduler.handle(said.failed("0", 1, "no"), 7.0)
    state = scheduler.state
    assert state.queued_files == 1
    assert not scheduler.is_finished
    assert state.starved_now(state.workers["2"], 40.0) == 0.0


@pytest.mark.parametrize(("seconds", "in_hand"), [(0.1, 2), (0.02, 12), (0.2, 1)])
def test_short_files_wait_at_the_worker(seconds: float, in_hand: int) -> None:
    """Once files were short for a while, the worker holds the next ones already; before, just one.

    Whoever hands over more at first could block files behind a large one; whoever never does has
    the worker wait for each.
    """
    scheduler = Scheduler({"0": 1.0}, settings=SchedulerSettings(batch_seconds=0.25))
    files = tuple(SequenceFile(f"/{n}", 1, 100) for n in range(100))
    scheduler.handle(ev.FilesSubmitted(files), 0.0)
    started = scheduler.handle(said.ready("0"), 0.0).commands
    held = []
    for number in range(1, 60):
        done = said.completed("0", number, 1, 100, seconds)
        started += scheduler.handle(done, number * seconds).commands
        held.append(sum(isinstance(action, co.StartAttempt) for action in started) - number)
    assert set(held[:5]) == {1}
    assert max(held[40:]) == in_hand


def test_an_unknown_worker_is_refused() -> None:
    """An event of a worker that does not exist raises with its name."""
    with pytest.raises(SchedulingError, match="there is no worker 9"):
        Scheduler({"0": 1.0}).handle(said.ready("9"), 0.0)


def test_workers_with_nothing_left_are_even_beside_those_that_are_down() -> None:
    """A snapshot is made while all that waits belongs to workers that are not up."""
    scheduler = Scheduler({"0": 1.0, "1": 1.0, "2": 1.0}, policy=NoStealing())
    scheduler.handle(ev.FilesSubmitted(tuple(SequenceFile(f"/{i}", 1, 9) for i in range(3))), 0.0)
    for gpu in ("1", "2"):
        scheduler.handle(said.ready(gpu), 0.0)
        (number,) = scheduler.state.workers[gpu].inflight
        scheduler.handle(said.completed(gpu, number, 1, 9, 1.0), 1.0)
    shown = take_snapshot(scheduler, RunContext(), 1.0)
    assert shown.files_queued == 1
    assert not shown.work_imbalanced


@pytest.mark.parametrize(("believed", "is_imbalanced"), [(10.0, False), (1.0, True)])
def test_work_is_imbalanced_by_time_and_not_by_files(believed: float, is_imbalanced: bool) -> None:
    """A GPU ten times as fast, with ten times as many files, is even; with as many it is not."""
    scheduler = Scheduler({"slow": 1.0, "fast": believed}, policy=NoStealing())
    paths = tuple(SequenceFile(f"/{i}", 10, 100) for i in range(110))
    scheduler.handle(ev.FilesSubmitted(paths), 0.0)
    for gpu, seconds in (("slow", 100.0), ("fast", 10.0)):
        scheduler.handle(said.ready(gpu), 0.0)
        (number,) = scheduler.state.workers[gpu].inflight
        scheduler.handle(said.completed(gpu, number, 10, 100, seconds), 100.0)
    shown = take_snapshot(scheduler, RunContext(), 100.0)
    assert shown.work_imbalanced is is_imbalanced
    assert shown.load_imbalanced is not is_imbalanced


def test_of_many_workers_that_run_dry_at_once_each_gets_its_second_attempt_soon() -> None:
    """What is in process is looked at once for all of them, and not once for each."""
    count = 100
    scheduler = Scheduler({str(i): 1.0 for i in range(count)})
    files = [SequenceFile(f"/{i}", 1, 1000 if i < count // 2 else 100) for i in range(count)]
    scheduler.handle(ev.FilesSubmitted(tuple(files)), 0.0)
    started = {}
    for i in range(count):
        for command in scheduler.handle(said.ready(str(i)), 0.0).commands:
            assert isinstance(command, co.StartAttempt)
            started[command.worker_id] = command
    at_once, soon = [], []
    for place, start in enumerate(s for s in started.values() if s.file.residues == 100):
        event = said.completed(start.worker_id, start.attempt, 1, 100, 0.01)
        at_once += scheduler.handle(event, 1.0 + place * 1e-4).commands
    assert sum(isinstance(command, co.StartAttempt) for command in at_once) == 1
    while (deadline := scheduler.next_deadline()) is not None and deadline < 1.1:
        soon += scheduler.handle(ev.TimePassed(), deadline).commands
    large = [c for c in soon if isinstance(c, co.StartAttempt) and c.file.residues == 1000]
    assert len({c.worker_id for c in large}) == len({c.file.path for c in large}) == 49
