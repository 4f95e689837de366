"""Workers that fail, stall, leave and join."""

from __future__ import annotations

from typing import TypeVar

import pytest

from tests import events as said
from tests import facts
from tests.facts import everything
from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.laws import check_invariants
from virnucpro_exporter.scheduling.policy import NoStealing, StealPolicy
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.snapshot import WorkerState

Decided = co.Command | fa.Fact
A = TypeVar("A", bound=Decided)


class Run:
    """A scheduler, its time and what it asked for."""

    def __init__(
        self,
        weights: dict[str, float],
        *costs: int,
        policy: StealPolicy | None = None,
        settings: SchedulerSettings | None = None,
    ) -> None:
        settings = settings or SchedulerSettings(second_attempts=False)
        self.scheduler = Scheduler(weights, policy=policy, settings=settings)
        self.state = self.scheduler.state
        self.now = 0.0
        self.running: dict[str, list[co.StartAttempt]] = {gpu: [] for gpu in weights}
        self.files = [SequenceFile(f"/{i}", 1, cost) for i, cost in enumerate(costs)]
        self.tell(ev.FilesSubmitted(tuple(self.files)))

    def tell(self, event: ev.Event, *, after: float = 0.0) -> list[Decided]:
        self.now += after
        actions = everything(self.scheduler.handle(event, self.now))
        for action in actions:
            if isinstance(action, co.StartAttempt):
                self.running.setdefault(action.worker_id, []).append(action)
            elif isinstance(action, co.RestartWorker | co.RetireWorker):
                self.running[action.worker_id].clear()
        check_invariants(self.scheduler)
        return actions

    def ready(self, *gpus: str) -> None:
        for gpu in gpus:
            self.tell(said.ready(gpu))

    def complete(self, gpu: str, seconds: float) -> list[Decided]:
        start = self.running[gpu].pop(0)
        residues = start.file.residues
        event = said.completed(gpu, start.attempt, 1, residues, seconds)
        return self.tell(event, after=seconds)

    def fail(self, gpu: str, error: str = "no") -> list[Decided]:
        return self.tell(said.failed(gpu, self.running[gpu].pop(0).attempt, error))

    def current(self, gpu: str) -> str:
        return self.running[gpu][0].file.path


def only(kind: type[A], actions: list[Decided]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def test_a_failed_file_goes_to_an_idle_worker_at_once() -> None:
    """Nobody waits for a deadline, and the worker on which it failed is the last choice."""
    run = Run({"0": 1.0, "1": 1.0}, 100)
    run.ready("0", "1")
    assert run.current("0") == "/0"
    assert [start.worker_id for start in only(co.StartAttempt, run.fail("0"))] == ["1"]


def test_a_file_that_failed_everywhere_may_be_tried_anywhere() -> None:
    """When the only worker that has not failed on a file leaves, the others may try again."""
    run = Run({"0": 1.0, "1": 1.0}, 100, 90)
    run.ready("0", "1")
    run.fail("1")
    assert run.running["1"] == []
    actions = run.tell(said.lost("0", "gone", ev.LossCause.LEFT_CLUSTER))
    assert [(f.worker_id, f.reason) for f in only(fa.WorkerRetired, actions)] == [("0", "gone")]
    assert len(only(co.RetireWorker, actions)) == 1
    assert only(co.RestartWorker, actions) == []
    run.complete("1", 1.0)
    assert fa.RunFinished() in run.complete("1", 1.0)
    assert run.state.completed_files == 2


@pytest.mark.parametrize("cause", ev.LossCause)
def test_a_worker_that_leaves_hands_everything_to_the_others(cause: ev.LossCause) -> None:
    """Its file is charged with an attempt or not, as the loss says; its queue is done by others."""
    run = Run({"0": 1.0, "1": 1.0}, *range(100, 92, -1))
    run.ready("0", "1")
    lost = run.state.files[run.current("0")]
    run.tell(said.lost("0", "the node left", cause))
    assert lost.failures == cause.is_charged
    while not run.scheduler.is_finished:
        run.complete("1", 1.0)
    assert run.state.completed_files == 8
    assert run.state.workers["1"].counters.completed == 8
    assert run.state.retries == cause.is_charged


def test_the_static_balancer_takes_over_from_workers_that_are_gone() -> None:
    """Without stealing, only what a lost worker leaves is done by others, and at once."""
    run = Run({"0": 1.0, "1": 1.0}, 100, 90, 80, 70, policy=NoStealing())
    run.ready("1")
    run.complete("1", 1.0)
    run.complete("1", 1.0)
    assert run.running["1"] == []
    actions = run.tell(said.lost("0", "setup failed", ev.LossCause.SETUP_FAILED))
    assert [start.worker_id for start in only(co.StartAttempt, actions)] == ["1"]


def test_a_worker_that_joins_is_believed_as_fast_as_it_declares() -> None:
    """Its speed is its weight beside those whose speed is known, and it steals when it is ready."""
    run = Run({"0": 1.0}, *[1000] * 8)
    run.ready("0")
    run.complete("0", 10.0)
    assert only(co.StartAttempt, run.tell(said.joined("node-2", "H100", 2.5))) == []
    worker = run.state.workers["node-2"]
    assert worker.speed == pytest.approx(250.0)
    actions = run.tell(said.ready("node-2"))
    assert [(s.victim, s.thief) for s in only(fa.FileStolen, actions)] == [("0", "node-2")]
    assert worker.name == "H100"
    with pytest.raises(SchedulingError, match="worker node-2 is there already"):
        run.tell(said.joined("node-2"))


def test_a_worker_that_was_given_up_may_come_back() -> None:
    """Its file went elsewhere without blame; when its node is back, it takes its queue up again."""
    run = Run({"0": 1.0, "1": 1.0}, 40, 30, 20, 10)
    run.ready("0", "1")
    run.tell(said.lost("0", "node gone", ev.LossCause.LEFT_CLUSTER))
    assert [worker.id for worker in run.state.usable()] == ["1"]
    assert run.state.files["/0"].failures == 0
    run.tell(said.joined("0", "", 1.0))
    assert [worker.id for worker in run.state.usable()] == ["0", "1"]
    run.tell(said.ready("0"))
    assert run.current("0") == "/0"


def test_files_that_come_later_are_spread_over_those_who_joined() -> None:
    """The assignment knows every worker that is there, and none that is gone."""
    run = Run({"0": 1.0, "1": 1.0}, 10)
    run.tell(said.joined("2", "", 1.0))
    run.tell(said.lost("1", "gone", ev.LossCause.SETUP_FAILED))
    run.tell(ev.FilesSubmitted(tuple(SequenceFile(f"/more{i}", 1, 100) for i in range(6))))
    # Worker 1 left one file of its own, which nobody has asked for yet.
    assert [len(worker.queue) for worker in run.state.fleet] == [3 + 1, 0, 3]


def test_only_the_file_in_process_is_charged_when_a_batch_is_lost() -> None:
    """A worker that held several short files was busy with the one it names."""
    run = Run({"0": 1.0}, *[10] * 200)
    run.ready("0")
    for _ in range(120):
        run.complete("0", 0.001)
    held = [start.attempt for start in run.running["0"]]
    assert len(held) > 2
    guilty = run.running["0"][1].file.path
    run.tell(said.lost("0", "killed", running=held[1]))
    charged = {path for path, record in run.state.files.items() if record.failures}
    assert charged == {guilty}
    assert run.state.queued_files == 200 - 120


def test_the_file_of_a_stalled_worker_gets_a_second_attempt_at_once() -> None:
    """With `retry` an idle worker repeats it; the first to complete wins, the other stops."""
    settings = SchedulerSettings(30.0, OnStall.RETRY, second_attempts=False)
    run = Run({"0": 1.0, "1": 1.0}, 100, 99, settings=settings)
    run.ready("0", "1")
    path = run.current("0")
    run.complete("1", 1.0)
    actions = run.tell(ev.TimePassed(), after=29.5)
    assert only(fa.StallStarted, actions) == [facts.stall("0", path, 30.5)]
    assert [(s.worker_id, s.file.path) for s in only(co.StartAttempt, actions)] == [("1", path)]
    assert only(co.CancelAttempt, actions) == []
    actions = run.complete("1", 1.0)
    assert only(co.CancelAttempt, actions) == [facts.cancel("0", 1)]
    assert run.state.workers["1"].counters.speculative_won == 1


def test_a_slow_worker_leaves_the_last_large_file_to_a_fast_one() -> None:
    """It declines what its victim would end sooner, and takes what it would end sooner itself."""
    run = Run({"0": 10.0, "1": 1.0}, 100, 100)
    run.ready("0", "1")
    slow = run.state.workers["1"]
    assert run.running["1"] == []
    assert (slow.counters.steals_declined, slow.counters.stolen_to) == (1, 0)
    run.tell(ev.FilesSubmitted((SequenceFile("/small", 1, 5),)))
    run.tell(ev.FilesSubmitted(tuple(SequenceFile(f"/{i}/more", 1, 5) for i in range(60))))
    assert run.current("1").endswith(("small", "more"))


def test_busy_time_ends_with_the_last_file() -> None:
    """A worker without a file is not busy, however long the run goes on."""
    run = Run({"0": 1.0}, 100, 90)
    run.ready("0")
    run.complete("0", 4.0)
    run.complete("0", 6.0)
    assert run.state.workers["0"].busy_since is None
    assert run.state.workers["0"].counters.busy_seconds == pytest.approx(10.0)


def test_a_worker_that_never_gives_a_file_back_is_busy_until_the_end_of_the_run() -> None:
    """Another one has done its file; what it does after that is no work of the run."""
    settings = SchedulerSettings(30.0, OnStall.RETRY, second_attempts=False)
    run = Run({"0": 1.0, "1": 1.0}, 100, 99, settings=settings)
    run.ready("0", "1")
    run.complete("1", 1.0)
    run.tell(ev.TimePassed(), after=30.0)
    assert fa.RunFinished() in run.complete("1", 9.0)
    worker, _ = take_snapshot(run.scheduler, RunContext(), run.now + 60.0).workers
    assert (worker.busy_seconds, worker.stalled_seconds) == (40.0, 9.0)


def test_a_process_on_which_file_after_file_fails_is_replaced() -> None:
    """Three different files in a row: its GPU context may be gone."""
    run = Run({"0": 1.0, "1": 1.0}, *range(100, 80, -1))
    run.ready("0")
    assert only(co.RestartWorker, [*run.fail("0"), *run.fail("0")]) == []
    actions = run.fail("0", "CUDA error")
    assert only(co.RestartWorker, actions) == [facts.restart("0")]
    assert [fact.reason for fact in only(fa.WorkerRestarted, actions)] == ["CUDA error"]


def test_a_worker_that_never_gets_well_is_given_up_while_another_is_left() -> None:
    """It takes six different files in a row; each of them is done by the other worker."""
    settings = SchedulerSettings(second_attempts=False, max_attempts=10)
    run = Run({"0": 1.0, "1": 1.0}, *range(100, 60, -1), settings=settings)
    run.ready("1")
    for _ in range(5):
        run.ready("0")
        assert only(co.RestartWorker, run.tell(said.lost("0", "killed")))
    run.ready("0")
    assert only(co.RetireWorker, run.tell(said.lost("0", "killed")))
    while not run.scheduler.is_finished:
        run.complete("1", 1.0)
    assert run.state.completed_files == 40


def test_nothing_is_expected_of_workers_that_are_gone_or_stalled() -> None:
    """No file is left to them because they would be free first."""
    run = Run({"0": 1.0, "1": 1.0}, 100, 90)
    gone = run.state.workers["0"]
    assert gone.would_end(10, 5.0) < float("inf")
    run.tell(said.lost("0", "gone", ev.LossCause.SETUP_FAILED))
    assert gone.free_at(5.0) == gone.would_end(10, 5.0) == float("inf")


@pytest.mark.parametrize(("slow", "starts"), [(1.0, 1), (2.0, 0)])
def test_a_second_attempt_saves_half_a_second_or_is_not_made(slow: float, starts: int) -> None:
    """Who would end a file a moment sooner leaves it: a lost attempt may cost a process."""
    settings = SchedulerSettings(second_attempts=True)
    run = Run({"slow": slow, "fast": 8.0}, 1, settings=settings)  # 1 or 0.5 s beside 0.125 s
    run.tell(said.ready("slow"))  # the first to come takes the file
    actions = run.tell(said.ready("fast"))
    assert sum(isinstance(action, co.StartAttempt) for action in actions) == starts


def test_a_run_without_workers_goes_on_when_one_joins() -> None:
    """Files that nobody could do are done by whoever joins, and the run ends then."""
    run = Run({"0": 1.0}, settings=SchedulerSettings())
    run.tell(said.lost("0", "gone", ev.LossCause.LEFT_CLUSTER))
    file = SequenceFile("/late", 1, 1)
    assert fa.RunFinished() in run.tell(ev.FilesSubmitted((file,)))
    run.tell(said.joined("1"))
    assert not run.state.is_finished
    (start,) = [a for a in run.tell(said.ready("1")) if isinstance(a, co.StartAttempt)]
    check_invariants(run.scheduler)
    done = run.tell(said.completed("1", start.attempt, 1, 1, 1.0))
    assert fa.RunFinished() in done
    check_invariants(run.scheduler)


def test_a_worker_that_stalls_for_ever_has_a_speed() -> None:
    """Nothing is divided by zero, however often it is doubted."""
    run = Run({"0": 1.0}, 100, 90)
    run.ready("0")
    run.complete("0", 1.0)
    worker = run.state.workers["0"]
    for _ in range(2000):
        run.state.doubt(worker)
    assert 0 < worker.speed < 1
    assert worker.would_end(10**9, run.now) < float("inf")


def test_work_that_is_held_is_started_later() -> None:
    """Meanwhile files in process go on, and nothing that waits stalls."""
    run = Run({"0": 1.0, "1": 1.0}, 100, 90, 80, 70)
    run.ready("0", "1")
    run.tell(ev.WorkHeld())
    assert not only(co.StartAttempt, run.complete("0", 1.0))
    actions = run.tell(ev.TimePassed(), after=200.0)
    assert not only(fa.StallStarted, actions)
    assert not only(co.StartAttempt, run.complete("1", 1.0))
    actions = run.tell(ev.TimePassed(), after=10_000.0)
    assert not only(fa.StallStarted, actions)
    starts = only(co.StartAttempt, run.tell(ev.WorkReleased()))
    assert [start.worker_id for start in starts] == ["0", "1"]
    assert not only(fa.StallStarted, run.tell(ev.TimePassed(), after=1.0))


def test_a_full_disk_charges_no_file() -> None:
    """The file waits again, as often as it takes."""
    run = Run({"0": 1.0}, 100)
    run.ready("0")
    for _ in range(10):
        attempt = run.running["0"].pop(0).attempt
        run.tell(said.failed("0", attempt, "No space left on device", storage=True))
    assert run.state.files["/0"].failures == 0
    assert run.state.retries == 0
    run.complete("0", 1.0)
    assert run.state.completed_files == 1


def test_no_worker_is_replaced_while_draining() -> None:
    """There would be nothing for it to do."""
    run = Run({"0": 1.0, "1": 1.0}, 100, 90, 80)
    run.ready("0", "1")
    run.tell(ev.DrainRequested())
    actions = run.tell(said.lost("0", "killed"))
    assert not only(co.RestartWorker, actions)
    assert not only(fa.WorkerRestarted, actions)
    run.complete("1", 1.0)
    assert run.scheduler.is_finished


def test_more_workers_are_wanted_for_files_that_those_there_cannot_take_at_once() -> None:
    """Those that wait, come up, or hold a file are counted; none are wanted in a drain."""
    run = Run({"0": 1.0, "1": 1.0}, 500, 400, 300, 200, 100)
    assert run.state.wanted_workers == 3
    run.ready("0", "1")
    assert run.state.wanted_workers == 3
    run.tell(said.joined("2"))
    assert run.state.wanted_workers == 2
    run.tell(ev.WorkerLeaving(facts.worker("0"), "its Dask worker is about to leave"))
    assert run.state.wanted_workers == 2
    run.tell(ev.DrainRequested())
    assert run.state.wanted_workers == 0


def test_a_worker_that_leaves_ends_what_it_holds_and_gets_nothing_more() -> None:
    """Its queue is open to the others, and it is retired when its hands are empty."""
    run = Run({"0": 1.0, "1": 1.0}, 500, 400, 300, 200)
    run.ready("0", "1")
    held = run.current("0")
    asked = run.tell(ev.WorkerLeaving(facts.worker("0"), "its node goes"))
    assert not only(co.RetireWorker, asked)
    assert run.current("0") == held
    ended = run.complete("0", 10.0)
    assert only(co.RetireWorker, ended) == [co.RetireWorker(facts.worker("0"))]
    assert not [start for start in only(co.StartAttempt, ended) if start.worker_id == "0"]
    run.tell(said.lost("0", "gone", ev.LossCause.LEFT_CLUSTER))
    for _ in range(3):
        run.complete("1", 10.0)
    assert run.state.is_finished
    assert run.state.completed_files == 4
    assert run.state.retries == 0


@pytest.mark.parametrize("in_order", [True, False])
def test_only_a_worker_that_did_not_leave_in_order_is_lost(in_order: bool) -> None:
    """A worker that has left is neither up nor down, and no time is lost; it may join again."""
    run = Run({"0": 1.0, "1": 1.0}, 500, 400)
    run.ready("0", "1")
    if in_order:
        run.tell(ev.WorkerLeaving(facts.worker("0"), "its node goes"))
    lost = run.tell(said.lost("0", "gone", ev.LossCause.LEFT_CLUSTER))
    assert only(fa.WorkerRetired, lost) == [fa.WorkerRetired(facts.worker("0"), "gone", in_order)]

    def seen() -> tuple[WorkerState, bool | None, float]:
        worker, _ = take_snapshot(run.scheduler, RunContext(), run.now + 60.0).workers
        return worker.state, worker.is_alive, worker.lost_seconds

    left = WorkerState.LEFT, None, 0.0
    assert seen() == (left if in_order else (WorkerState.LOST, False, 60.0))
    run.tell(ev.WorkerJoined(facts.worker("0")))
    run.ready("0")
    assert seen()[1:] == (True, 0.0)


def test_a_lone_worker_that_leaves_keeps_the_files_for_the_next_one() -> None:
    """The run goes on with whoever joins; a process that ends meanwhile is not started again."""
    run = Run({"0": 1.0}, 500, 400)
    run.ready("0")
    run.tell(ev.WorkerLeaving(facts.worker("0"), "its node goes"))
    died = run.tell(said.lost("0", "killed"))
    assert not only(co.RestartWorker, died)
    assert len(only(co.RetireWorker, died)) == 1
    run.tell(ev.WorkerJoined(facts.worker("1")))
    run.tell(said.lost("0", "gone", ev.LossCause.LEFT_CLUSTER))
    run.ready("1")
    run.complete("1", 10.0)
    run.complete("1", 10.0)
    assert run.state.is_finished
    assert run.state.completed_files == 2
