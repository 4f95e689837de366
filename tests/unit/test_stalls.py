"""When silence is a stall, and what is done about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import events as said
from tests.facts import everything
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.snapshot import WorkerSnapshot, WorkerState

Decided = co.Command | fa.Fact

# A command of which nothing is known; 100 s are a stall where silence alone counts.
SETTINGS = SchedulerSettings(100.0, reports_progress=False, second_attempts=False)


class Run:
    """One worker with files of 1,000 residues."""

    def __init__(self, files: int = 3, settings: SchedulerSettings = SETTINGS) -> None:
        self.scheduler = Scheduler({"0": 1.0}, settings=settings)
        self.told: list[Decided] = []
        self.number = 0
        names = [SequenceFile(f"/{i}", None, 1000) for i in range(files)]
        self.tell(0.0, ev.FilesSubmitted(tuple(names)), said.loading("0"))

    def tell(self, now: float, *events: ev.Event) -> list[Decided]:
        """Let time go on, deadline by deadline, and then something happen."""
        before = len(self.told)
        self.now = now
        while (due := self.scheduler.next_deadline()) is not None and due < now:
            self._handle(ev.TimePassed(), due)
        for event in (*events, ev.TimePassed()):
            self._handle(event, now)
        return self.told[before:]

    def _handle(self, event: ev.Event, now: float) -> None:
        actions = everything(self.scheduler.handle(event, now))
        self.told += actions
        for action in actions:
            if isinstance(action, co.StartAttempt) and action.worker_id == "0":
                self.number = action.attempt

    def begin(self, now: float) -> None:
        """The worker is ready, and begins its first file."""
        self.tell(now, said.ready("0"), said.started("0", 1))

    def complete(self, now: float, seconds: float) -> None:
        """It ends its file, and begins the next one."""
        self.tell(now, said.completed("0", self.number, None, None, seconds))
        self.tell(now, said.started("0", self.number))

    def lives(self, now: float) -> list[Decided]:
        """Its processes work."""
        return self.tell(now, said.alive("0", self.number))

    @property
    def eta(self) -> float | None:
        """Seconds left, as shown."""
        return take_snapshot(self.scheduler, RunContext(), self.now).eta_seconds

    @property
    def worker(self) -> WorkerSnapshot:
        """What is shown of it."""
        return take_snapshot(self.scheduler, RunContext(), self.now).workers[0]


def stalls(actions: list[Decided]) -> list[float]:
    """After how long a silence the stalls began."""
    return [a.silent_seconds for a in actions if isinstance(a, fa.StallStarted)]


@pytest.mark.parametrize(("reports", "starts"), [(True, 2), (False, 1)])
def test_a_file_that_stalls_gets_a_second_attempt_where_the_work_reports(
    reports: bool,
    starts: int,
) -> None:
    """Left to itself, the silence of a command says too little to do its file twice."""
    settings = SchedulerSettings(100.0, reports_progress=reports)
    scheduler = Scheduler({"0": 1.0, "1": 1.0}, settings=settings)
    files = (SequenceFile("/0", None, 1000), *(SequenceFile(f"/{i}", None, 9) for i in range(1, 9)))
    facts = list(scheduler.turn([ev.FilesSubmitted(files)], 0.0).facts)
    facts += scheduler.turn([said.ready("0"), said.ready("1")], 0.0).facts
    for number in range(2, 6):
        done = said.completed("1", number, None, None, 90.0)
        facts += scheduler.turn([done], 90.0 * (number - 1)).facts
    assert sum(isinstance(f, fa.FileStarted) and f.file.path == "/0" for f in facts) == starts


def test_a_stall_ends_when_another_worker_shows_how_long_files_take() -> None:
    """Nothing is known before the first file is done; its file is not done twice then."""
    settings = replace(SETTINGS, on_stall=OnStall.RETRY)
    scheduler = Scheduler({"0": 1.0, "1": 1.0}, settings=settings)
    files = tuple(SequenceFile(f"/{i}", None, 1000) for i in range(4))
    facts = list(scheduler.handle(ev.FilesSubmitted(files), 0.0).facts)
    for gpu in ("0", "1"):
        facts += scheduler.turn([said.ready(gpu)], 0.0).facts
    facts += scheduler.turn([], 300.0).facts
    assert [type(f) for f in facts].count(fa.StallStarted) == 2
    done = scheduler.turn([said.completed("1", 2, None, None, 400.0)], 400.0).facts
    assert sum(isinstance(f, fa.StallEnded) for f in done) == 2
    assert [f.is_speculative for f in done if isinstance(f, fa.FileStarted)] == [False]


def test_a_processor_that_is_known_to_report_stalls_at_the_threshold() -> None:
    """Whatever its processes do."""
    run = Run(settings=replace(SETTINGS, reports_progress=True))
    run.begin(0.0)
    assert run.worker.stall_deadline_time == 100.0
    run.lives(99.0)
    assert stalls(run.tell(150.0)) == [100.0]


def test_a_command_of_which_nothing_is_known_gets_several_thresholds() -> None:
    """Without a sign of life it stalls after three of them, and not at twice the threshold."""
    run = Run()
    run.begin(0.0)
    assert run.worker.stall_deadline_time == 300.0
    assert stalls(run.tell(299.0)) == []
    assert stalls(run.tell(400.0)) == [300.0]


def test_a_command_that_never_reports_is_judged_by_what_its_file_should_take() -> None:
    """Three times as long as the file before it, and never less than the threshold."""
    run = Run()
    run.begin(0.0)
    run.complete(250.0, 250.0)
    assert run.worker.stall_deadline_time == 250.0 + 3 * 250.0
    quick = Run()
    quick.begin(0.0)
    quick.complete(1.0, 1.0)
    assert quick.worker.stall_deadline_time == 1.0 + 100.0


def test_signs_of_life_put_a_stall_off_and_end_one() -> None:
    """They are no progress: a healthy command of any length is neither stalled nor further."""
    run = Run()
    run.begin(0.0)
    for now in range(10, 5000, 90):
        assert stalls(run.lives(now)) == []
    assert run.worker.last_progress_time == 0.0
    last = run.now
    assert stalls(run.tell(last + 100.0)) == [last + 100.0]
    ended = [a for a in run.lives(last + 120.0) if isinstance(a, fa.StallEnded)]
    assert [a.stalled_seconds for a in ended] == [20.0]
    assert not run.worker.is_stalled


def test_a_command_that_reports_is_judged_by_its_own_silences() -> None:
    """The threshold, or three times the longest silence that ended well, counts for it."""
    run = Run()
    run.begin(0.0)
    run.tell(5.0, said.progress("0", 1, 1))
    assert run.worker.stall_deadline_time == 105.0
    run.tell(95.0, said.progress("0", 1, 2))
    assert run.worker.stall_deadline_time == 95.0 + 3 * 90.0
    run.lives(300.0)
    assert stalls(run.tell(400.0)) == [270.0]


@pytest.mark.parametrize(("alive_at", "killed_after"), [(0.0, 300.0), (250.0, 350.0)])
def test_restart_kills_what_never_reported_only_without_signs_of_life(
    alive_at: float, killed_after: float
) -> None:
    """Silence alone kills nothing."""
    run = Run(settings=replace(SETTINGS, on_stall=OnStall.RESTART))
    run.begin(0.0)
    run.lives(alive_at)
    told = run.tell(1000.0)
    assert stalls(told)[:1] == [killed_after]
    assert fa.WorkerRestarted(WorkerId("0"), f"no progress for {killed_after:.0f} s") in told


def test_restart_believes_a_worker_that_stopped_reporting_for_a_while_only() -> None:
    """A program that waits for a hung GPU uses processor time; its silence counts in the end."""
    run = Run(settings=replace(SETTINGS, on_stall=OnStall.RESTART))
    run.begin(0.0)
    run.tell(5.0, said.progress("0", 1, 1))
    told = [action for now in range(10, 500, 10) for action in run.lives(now)]
    assert stalls(told) == [100.0]
    assert [a.reason for a in told if isinstance(a, fa.WorkerRestarted)] == [
        "no progress for 300 s"
    ]


def test_loading_is_no_stall_and_has_a_limit_of_its_own() -> None:
    """It is a state; after the limit the process is replaced once, and then the worker given up."""
    run = Run(settings=replace(SETTINGS, setup_timeout=1800.0))
    shown = run.worker
    assert (shown.state, shown.is_alive) == (WorkerState.LOADING, True)
    told = run.tell(1799.0)
    assert told == []
    assert run.worker.stall_deadline_time == 1800.0
    reason = "the processor was not set up within 1800 s (--setup-timeout)"
    assert fa.WorkerRestarted(WorkerId("0"), reason) in run.tell(1800.0)
    shown = run.worker
    assert (shown.state, shown.is_alive) == (WorkerState.STARTING, False)
    run.tell(1801.0, said.loading("0"))
    assert fa.WorkerRetired(WorkerId("0"), reason) in run.tell(4000.0)
    shown = run.worker
    assert (shown.state, shown.is_alive) == (WorkerState.LOST, False)
    assert not stalls(run.told)


def test_a_worker_without_work_has_no_deadline() -> None:
    """Neither an idle one nor one that is lost; a stall of another attempt is not put off."""
    run = Run(files=1)
    run.begin(0.0)
    run.tell(250.0, said.alive("0", 99))
    deadline = run.worker.stall_deadline_time
    assert deadline == 300.0
    run.tell(260.0, said.completed("0", 1, None, None, 260.0))
    deadline = run.worker.stall_deadline_time
    assert deadline is None
    assert not stalls(run.tell(10_000.0))


def test_the_eta_is_absent_while_nothing_gets_further() -> None:
    """At the start, in a stall and after it; never 0 with work left, and 0 at the end."""
    run = Run(files=2, settings=replace(SETTINGS, reports_progress=True))
    run.begin(0.0)
    assert run.eta is None
    run.tell(10.0, said.progress("0", 1, 10, 500))
    assert run.eta == pytest.approx(30.0)
    run.tell(19.99, said.progress("0", 1, 19, 999))
    run.complete(20.0, 20.0)
    assert run.eta == pytest.approx(20.0, rel=0.01)
    run.tell(39.999, said.progress("0", 2, 20, 1000))
    etas = [run.eta]
    run.tell(140.0)
    etas.append(run.eta)
    assert etas == [1.0, None]
    run.tell(150.0, said.completed("0", 2, 20, 1000, 130.0))
    assert run.eta == 0.0


def test_the_throughput_of_a_stalled_worker_is_0_and_one_that_is_not_known_absent() -> None:
    """Unknown is never 0, and a worker that stands still does nothing."""
    run = Run(settings=replace(SETTINGS, reports_progress=True))
    run.begin(0.0)
    assert run.worker.throughput is None
    run.tell(10.0, said.progress("0", 1, 20, 500))
    assert run.worker.throughput == pytest.approx(2.0)
    run.tell(120.0)
    assert run.worker.throughput == 0.0


def test_residues_per_second_are_known_where_sequences_are_not() -> None:
    """A command that counts nothing shows how many residues it does, and no sequences."""
    run = Run()
    run.begin(0.0)
    run.complete(10.0, 10.0)
    shown = run.worker
    assert shown.throughput is None
    assert shown.residue_throughput == pytest.approx(100.0)
