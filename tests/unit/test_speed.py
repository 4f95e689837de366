"""What is learned of speeds, and when an attempt is expected to end."""

from __future__ import annotations

import random

import pytest

from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.policy import EarliestFinish
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.speed import DoneBefore, Errors, FixedCost
from virnucpro_exporter.scheduling.state import State


class Held:
    """An attempt at a file of 60,000 residues, on a worker that does 100 a second."""

    def __init__(self) -> None:
        self.state = State(SchedulerSettings(), 1)
        self.worker = self.state.add_worker(WorkerId("0"), "", 1.0, 0.0)
        self.state.come_up(self.worker, 0.0)
        self.worker.learned.observe(100.0, 1.0, 0.0)
        self.worker.speed = 100.0
        self.state.submit(self.worker, [SequenceFile("/a", 100, 60_000)], 0.0)
        self.state.start(self.worker, self.state.take(self.worker), 0.0)
        (self.attempt,) = self.worker.running
        self.state.begin(self.attempt, 0.0)

    def report(self, residues: int, now: float) -> None:
        self.state.report(self.attempt, 0, residues, now)


def test_an_attempt_ends_when_the_speed_of_its_worker_says() -> None:
    """As long as its last minute does not say that it takes longer."""
    held = Held()
    assert held.attempt.remaining(0.0) == 600.0
    for second in range(10, 310, 10):
        held.report(100 * second, float(second))
    assert held.attempt.remaining(300.0) == pytest.approx(300.0, rel=0.01)


def test_a_gpu_that_is_throttled_within_a_file_is_noticed_in_two_minutes() -> None:
    """The last minute of the attempt counts, however fast its worker was before."""
    held = Held()
    for second in range(10, 310, 10):
        held.report(100 * second, float(second))
    for second in range(310, 430, 10):
        held.report(30_000 + 5 * (second - 300), float(second))
    assert held.attempt.remaining(420.0) > 5000.0


def test_a_worker_that_falls_silent_is_not_expected_to_end() -> None:
    """After a quarter of what its file takes, a minute at most, and twice its longest silence."""
    held = Held()
    for second in range(10, 110, 10):
        held.report(100 * second, float(second))
    assert held.attempt.remaining(155.0) < 500.0
    assert held.attempt.remaining(161.0) == float("inf")
    held.report(11_000, 165.0)
    assert held.attempt.remaining(200.0) < float("inf")


def test_a_worker_that_writes_its_results_may_be_silent_for_longer() -> None:
    """Twice as long, once it has done what its file was believed to hold."""
    held = Held()
    for second in range(10, 610, 10):
        held.report(100 * second, float(second))
    assert not held.attempt.left
    assert held.attempt.remaining(715.0) < float("inf")
    assert held.attempt.remaining(725.0) == float("inf")


def test_a_processor_that_never_reports_is_never_silent() -> None:
    """Overdue, it is expected to take as long again as it is overdue."""
    held = Held()
    assert held.attempt.remaining(400.0) == 200.0
    assert held.attempt.remaining(590.0) == pytest.approx(118.0)
    assert held.attempt.remaining(900.0) == 300.0


def test_signs_of_life_do_not_make_an_attempt_younger() -> None:
    """Reports without residues leave the estimate where the time since its begin puts it."""
    held = Held()
    for second in range(10, 410, 10):
        held.state.report(held.attempt, second // 10, None, float(second))
    assert held.attempt.remaining(400.0) == 200.0
    assert held.attempt.likely_done(400.0) == 40_000


def test_sequences_alone_tell_how_far_a_file_is() -> None:
    """By those of the file; where they are not counted, by those of the completed files."""
    state = Held().state
    assert state.residues_of(SequenceFile("/b", 10, 5000), 4) == 2000
    unknown = SequenceFile("/c", None, 5000)
    assert state.residues_of(unknown, 4) is None
    worker = state.worker(WorkerId("0"))
    (attempt,) = worker.running
    state.finish_work(attempt, 100, 60_000, 600.0, 600.0)
    assert state.residues_of(unknown, 4) == 2400
    assert state.residues_of(unknown, 40) == 5000


@pytest.mark.parametrize("overhead", [0.0, 20.0])
def test_the_fixed_cost_of_files_is_learned_where_it_is_clear(overhead: float) -> None:
    """From two workers of different speeds, with contents that vary; without one it stays 0."""
    rng = random.Random(4)
    fixed = FixedCost()
    for number in range(60):
        worker, residues = number % 2, rng.lognormvariate(10.0, 1.0)
        work = residues / (500.0, 1200.0)[worker] * rng.uniform(0.8, 1.2)
        fixed.observe(str(worker), 1.0, residues, overhead + work)
    assert fixed.seconds == pytest.approx(overhead, rel=0.15)


def test_what_a_file_costs_is_known_from_an_earlier_run() -> None:
    """A resumed run expects the fixed cost before it has done any file, and knows sequences."""
    state = State(SchedulerSettings(), 1)
    worker = state.add_worker(WorkerId("0"), "", 1.0, 0.0)
    sizes = [1000 * (1 + number % 7) for number in range(40)]
    state.recall(DoneBefore("0", size // 100, size, 20.0 + size / 100.0) for size in sizes)
    assert worker.seconds(0) == pytest.approx(20.0)
    assert state.residues_of(SequenceFile("/a", None, 5000), 7) == 700
    assert state.residues_of(SequenceFile("/a", None, 5000, 25), 7) == 1400


def test_a_cost_that_is_not_clear_yet_is_not_believed() -> None:
    """Two large files say nothing about a small one."""
    fixed = FixedCost()
    fixed.observe("0", 1.0, 1_000_000, 1100.0)
    fixed.observe("0", 1.0, 800_000, 900.0)
    assert fixed.seconds == 0.0


def test_a_fixed_cost_that_attempts_report_is_believed_at_the_third() -> None:
    """No file is done by then. Where later ones differ too much it is not believed any more."""
    fixed = FixedCost()
    believed = []
    for seconds in (20.0, 21.0, 19.0):
        fixed.begun(seconds)
        believed.append(fixed.seconds)
    assert believed == [0.0, 0.0, pytest.approx(20.0)]
    fixed.begun(90.0)
    assert fixed.seconds == 0.0


@pytest.mark.parametrize("beginnings", [(0.0, 0.0, 30.0, 0.0), (-1e-12, 1e-12, 1e-12), (9.0, 9.0)])
def test_what_may_be_a_pause_is_no_fixed_cost(beginnings: tuple[float, ...]) -> None:
    """Nor are errors of rounding, and two attempts are too few."""
    fixed = FixedCost()
    for seconds in beginnings:
        fixed.begun(seconds)
    assert fixed.seconds == 0.0


def test_an_idle_worker_leaves_a_file_to_a_faster_one_that_is_about_to_be_ready() -> None:
    """But not for long: one that is overdue is expected to be late by as much again."""
    state = State(SchedulerSettings(), 1)
    slow, fast = (
        state.add_worker(WorkerId("0"), "", 1.0, 0.0),
        state.add_worker(WorkerId("1"), "", 2.5, 0.0),
    )
    state.submit(fast, [SequenceFile("/a", 1, 600)], 0.0)
    state.come_up(slow, 30.0)
    policy = EarliestFinish()
    assert policy.steal(slow, state.fleet, 30.0) is None
    assert policy.steal(slow, state.fleet, 60.0) is None
    assert policy.steal(slow, state.fleet, 500.0) is not None


def test_files_that_end_long_before_the_last_one_are_not_repeated() -> None:
    """They do not delay the run, and the attempt that loses may cost a process."""
    state = State(SchedulerSettings(), 1)
    idle = state.add_worker(WorkerId("0"), "", 10.0, 0.0)
    for number, residues in enumerate((1000, 100)):
        worker = state.add_worker(WorkerId(str(number + 1)), "", 1.0, 0.0)
        state.submit(worker, [SequenceFile(f"/{number}", 1, residues)], 0.0)
        state.start(worker, state.take(worker), 0.0)
    chosen = EarliestFinish().repeats([idle, state.worker(WorkerId("1"))], state.fleet, 0.0)
    assert [attempt.record.file.path for _, attempt in chosen] == ["/0"]


def test_files_without_residues_have_no_slope() -> None:
    """A worker that did nothing but such files tells what a file costs, and ends no run."""
    cost = FixedCost()
    cost.observe("0", 1.0, 0, 2.0)
    for residues in (100, 900, 400):
        cost.observe("1", 1.0, residues, 2.0 + residues / 100.0)
    assert 1.5 < cost.likely().seconds <= 2.0


@pytest.mark.parametrize(("startup", "repeated"), [(0.0, ["/0"]), (400.0, [])])
def test_a_file_is_not_repeated_for_less_than_a_new_process_takes(
    startup: float, repeated: list[str]
) -> None:
    """The attempt that loses may cost its worker the process."""
    state = State(SchedulerSettings(), 1)
    idle, holder = (state.add_worker(WorkerId(gpu), "", 1.0, 0.0) for gpu in ("0", "1"))
    idle.startup, idle.speed = startup, 2.0
    state.submit(holder, [SequenceFile("/0", 1, 700)], 0.0)
    state.start(holder, state.take(holder), 0.0)
    chosen = EarliestFinish().repeats([idle], state.fleet, 0.0)
    assert [attempt.record.file.path for _, attempt in chosen] == repeated


def test_what_may_go_wrong_is_learned_from_completed_files() -> None:
    """Exact estimates make the risk small, wrong ones do not make it larger than a bound."""
    exact, wrong = Errors(), Errors()
    for _ in range(50):
        exact.observe(1000, 1000, 10.0, 10.0)
        wrong.observe(1000, 3000, 10.0, 30.0)
    assert exact.risk < 0.2 < wrong.risk < 0.5
    assert exact.risk_of_size < exact.risk
    assert wrong.content.value > 0.5


def test_a_stall_that_heals_does_not_count_as_a_slow_worker() -> None:
    """The silent stretch is left out once; if it comes again, the worker is slow."""
    held = Held()
    for now in range(1, 121):
        held.report(100 * now, float(now))
    before, left = held.worker.speed, held.attempt.left
    held.state.stall(held.worker, 420.0)
    held.report(12_100, 520.0)
    assert held.worker.stalled_since is None
    assert held.worker.speed == before
    for now in range(521, 530):
        held.report(12_100 + 100 * (now - 520), float(now))
    assert held.attempt.remaining(529.0) == pytest.approx(held.attempt.left / before, rel=0.05)
    assert held.attempt.left < left
    held.state.stall(held.worker, 829.0)
    held.report(13_100, 929.0)
    assert held.worker.speed < 0.8 * before


def test_the_duration_of_a_healed_stall_is_no_fixed_cost_of_files() -> None:
    """What is learned of a file is what it took without the stall."""
    held = Held()
    for now in range(1, 301):
        held.report(100 * now, float(now))
    held.state.stall(held.worker, 600.0)
    held.report(30_001, 700.0)
    held.state.finish_work(held.attempt, 100, 60_000, 1000.0, 1000.0)
    assert held.worker.pace == pytest.approx(100.0, rel=0.01)
