"""What happens to large files when a worker turns out to be slow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests import events as said
from tests.facts import everything
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.laws import check_invariants
from virnucpro_exporter.scheduling.rebalancing import MOST_MOVES, slow_workers
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.speed import Errors, FixedCost
from virnucpro_exporter.scheduling.workers import Worker

LARGE = "/large"


class Run:
    """Workers of equal declared speed with one large file and many small ones."""

    def __init__(
        self,
        sizes: Sequence[tuple[str, int]] = (),
        workers: int = 3,
        *,
        startup: float = 0.0,
        second_attempts: bool = True,
    ):
        self.scheduler = Scheduler(
            {str(i): 1.0 for i in range(workers)},
            settings=SchedulerSettings(second_attempts=second_attempts),
        )
        some = [(LARGE, 1000), *((f"/{i}", 100 + i) for i in range(4 * workers))]
        files = [SequenceFile(path, 1, residues) for path, residues in sizes or some]
        self.attempts: dict[str, int] = {}
        self.actions: list[co.Command | fa.Fact] = []
        self.now = startup
        self.tell(ev.FilesSubmitted(tuple(files)), at=0.0)
        for i in range(workers):
            self.tell(said.ready(str(i)))

    def tell(self, event: ev.Event, at: float | None = None) -> None:
        self.actions += everything(self.scheduler.handle(event, self.now if at is None else at))
        for action in self.actions:
            if isinstance(action, co.StartAttempt):
                self.attempts[action.worker_id] = action.attempt
        check_invariants(self.scheduler)

    def progress(self, *residues: int) -> None:
        """What each worker has done of its file by now."""
        for gpu, done in enumerate(residues):
            self.tell(said.progress(str(gpu), self.attempts[str(gpu)], 0, done))
        deadline = self.scheduler.next_deadline()
        assert deadline is not None
        self.now = max(self.now, deadline)
        self.tell(ev.TimePassed())

    def taken_back(self) -> list[str]:
        return [a.file.path for a in self.actions if isinstance(a, fa.FileQueued)]

    def starts_of_large(self) -> list[str]:
        starts = [a for a in self.actions if isinstance(a, co.StartAttempt)]
        return [a.worker_id for a in starts if a.file.path == LARGE]


def test_a_large_file_that_has_hardly_begun_on_a_slow_worker_is_moved() -> None:
    """It is taken back at the first reports, and another worker does it next."""
    run = Run()
    assert run.starts_of_large() == ["0"]
    run.now = 95.0
    run.progress(20, 95, 95)
    assert run.taken_back()[0] == LARGE
    for gpu in ("1", "2"):  # it waits for one of them
        run.tell(said.completed(gpu, run.attempts[gpu], 1, 111, 11.0))
    assert run.starts_of_large()[-1] != "0"
    assert any(isinstance(a, fa.PlanChanged) for a in run.actions)


def test_the_large_file_of_a_far_slower_worker_takes_the_place_of_one_that_has_begun() -> None:
    """Behind the files that the others have begun it would end late."""
    run = Run([(LARGE, 1000), ("/1", 600), ("/2", 600)])
    run.now = 65.0
    run.progress(6, 65, 65)
    run.now = 110.0
    run.progress(11, 110, 110)
    assert set(run.taken_back()) > {LARGE}


def fall_silent(run: Run) -> None:
    """Worker 0 reports for 100 s and never again; the others go on."""
    for second in range(10, 101, 10):
        run.now = float(second)
        run.progress(second, second, second)
    for second in range(110, 201, 10):
        run.now = float(second)
        for gpu in ("1", "2"):
            run.tell(said.progress(gpu, run.attempts[gpu], 0, second))


def test_what_waits_for_a_silent_worker_goes_to_the_others() -> None:
    """Large files of a worker that does not get to them are not left until all others are done."""
    sizes = [(LARGE, 1000), ("/1", 900), ("/2", 800), *((f"/{i}", 700 - i) for i in range(3, 12))]
    run = Run(sizes)
    assert run.scheduler.state.workers["0"].queue
    fall_silent(run)
    assert not run.scheduler.state.workers["0"].queue
    assert run.taken_back() == []


def test_the_file_of_a_silent_worker_takes_the_place_of_one_that_has_begun() -> None:
    """Repeated only when another worker is free, it would end late."""
    run = Run([(LARGE, 10_000), ("/1", 9_000), ("/2", 8_000)])
    fall_silent(run)
    assert run.taken_back() == ["/2"]
    assert run.starts_of_large() == ["0"]
    run.tell(said.lost("2", "cancelled", cause=ev.LossCause.CANCELLED))
    run.tell(said.ready("2"))
    assert run.starts_of_large() == ["0", "2"]


def test_workers_that_are_as_fast_as_declared_keep_their_files() -> None:
    """Speeds that differ a little are no reason to move anything."""
    run = Run()
    run.now = 10.0
    run.progress(100, 105, 95)
    run.now = 12.0
    run.progress(118, 127, 115)
    assert run.taken_back() == []
    assert not any(isinstance(a, fa.PlanChanged | co.CancelAttempt) for a in run.actions)


def test_a_file_that_is_mostly_done_is_not_taken_back() -> None:
    """What a worker has done of a file is not thrown away; another may repeat the file."""
    run = Run()
    run.now = 10.0
    run.progress(600, 100, 100)
    run.now = 20.0
    run.progress(601, 101, 101)
    run.now = 1000.0
    run.progress(602, 105, 106)
    assert run.taken_back() == []


def test_a_worker_is_watched_for_as_long_as_a_new_process_takes() -> None:
    """A hasty judgement would cost a start, so it is not made before that time has passed."""
    run = Run(startup=30.0)
    run.now = 40.0
    run.progress(3, 10, 10)
    assert run.taken_back() == []
    run.now = 125.0
    run.progress(20, 95, 95)
    assert LARGE in run.taken_back()


def test_callers_that_come_and_ask_are_never_interrupted() -> None:
    """A pipeline with threads of its own cannot be told to stop."""
    run = Run(second_attempts=False)
    run.now = 50.0
    run.progress(10, 50, 50)
    run.now = 95.0
    run.progress(20, 95, 95)
    assert run.taken_back() == []


def test_a_file_is_not_moved_again_and_again() -> None:
    """However bad its workers seem, it stays in the end, so that the run ends."""
    run = Run()
    run.scheduler.state.files[LARGE].moves = MOST_MOVES
    run.now = 50.0
    run.progress(10, 50, 50)
    run.now = 95.0
    run.progress(20, 95, 95)
    assert LARGE not in run.taken_back()


def test_content_that_is_slow_is_no_reason_to_take_a_file_back() -> None:
    """A worker must be at most two thirds as fast as the others, for its declared speed."""
    run = Run()
    run.now = 5.0
    run.progress(7, 10, 10)
    for second in range(2, 40):
        run.now = max(run.now, 5.0 * second)
        run.progress(7 * second, 10 * second, 10 * second)
    assert run.taken_back() == []


def slow(*speeds: float, content: Sequence[float] = ()) -> list[int]:
    """Which workers are slow, where consecutive files took so many times as long as each other."""
    errors = Errors()
    for ratio in content:
        errors.observe(100, 100, ratio, 1.0)
    workers = []
    for index, speed in enumerate(speeds):
        worker = Worker(WorkerId(str(index)), "", 2.0, index, 0.0, FixedCost(), errors)
        worker.learned.observe(speed, 1.0, 1.0)
        workers.append(worker)
    return sorted(worker.index for worker in slow_workers(workers))


def test_how_much_the_content_of_files_varies_is_learned() -> None:
    """One file says all where contents are alike, and little where they are not."""
    assert slow(65.0, 100.0, 100.0) == []
    assert slow(65.0, 100.0, 100.0, content=[1.0] * 10) == [0]
    assert slow(45.0, 100.0, 100.0) == [0]
    assert slow(45.0, 100.0, 100.0, content=[0.6, 1.7] * 5) == []


def test_the_slow_ones_are_found_beside_the_median_of_the_others() -> None:
    """One slow worker of three is found, one of two, and none where most are as slow."""
    assert slow(100.0, 30.0, 105.0) == [1]
    assert slow(45.0, 100.0) == [0]
    assert slow(60.0, 100.0) == []  # it may be the content of the one file that was seen
    assert slow(100.0, 70.0, 105.0) == []
    assert slow(50.0, 50.0, 50.0, 100.0) == []
    assert slow(60.0) == []


def test_a_file_never_goes_back_to_the_worker_it_was_taken_from() -> None:
    """Neither by a new plan nor by a steal."""
    run = Run(workers=2)
    run.now = 50.0
    run.progress(10, 50)
    run.now = 95.0
    run.progress(20, 95)
    assert run.taken_back()
    record = run.scheduler.state.files[run.taken_back()[0]]
    assert record.avoid == {"0"}
    run.tell(said.lost("0", "cancelled", ev.LossCause.CANCELLED))
    run.tell(said.ready("0"))
    starts = [a for a in run.actions if isinstance(a, co.StartAttempt)]
    assert [a.worker_id for a in starts if a.file is record.file][1:] in ([], ["1"])


@pytest.mark.parametrize("is_content", [True, False])
def test_a_second_attempt_shows_whether_the_worker_is_slow_or_the_file(is_content: bool) -> None:
    """The attempt that will end later is stopped, as long as files wait."""
    files = [(LARGE, 60_000), *((f"/{i}", 20_000) for i in range(20))]
    run = Run(files)
    run.now = 100.0
    run.progress(620, 1000, 1000)
    assert run.taken_back() == []  # one file alone is no evidence
    first = run.attempts["0"]
    run.now = 2000.0
    run.tell(said.completed("1", run.attempts["1"], 1, 20_000, 2000.0))
    run.tell(said.completed("2", run.attempts["2"], 1, 20_000, 2000.0))
    assert run.starts_of_large() == ["0", "1"]
    second = run.attempts["1"]
    for step in range(1, 5):
        run.now = 2000.0 + 50.0 * step
        pace = 6.2 if is_content else 10.0
        run.tell(said.progress("0", first, 0, round(12_400 + 6.2 * 50.0 * step)))
        run.tell(said.progress("1", second, 0, round(pace * 50.0 * step)))
        run.tell(ev.TimePassed())
    stopped = [a.attempt for a in run.actions if isinstance(a, co.CancelAttempt)]
    assert stopped == [second if is_content else first]


def test_a_file_that_is_critical_no_more_gets_no_speculative_attempt() -> None:
    """What looked critical in a pause is judged anew with the next news."""
    run = Run()
    state = run.scheduler.state
    (attempt,) = state.worker(WorkerId("0")).running
    state.urge(attempt)
    run.now = 10.0
    run.progress(100, 100, 100)
    assert state.still_urgent() == []


@pytest.mark.parametrize("is_content", [True, False])
def test_a_file_goes_to_a_far_better_worker_though_most_are_slow(is_content: bool) -> None:
    """Where speeds differ by more than content, none is slow beside the median, yet one is better.

    Where only the worker of the large file is slower, it may be the content.
    """
    files = [(LARGE, 60_000), *((f"/{i}", 20_000) for i in range(25))]
    run = Run(files, workers=6)
    others = (10, 10, 10, 10, 10) if is_content else (5, 6, 7, 15, 16)
    for seconds in range(100, 400, 20):
        run.now = float(seconds)
        own = 7 if is_content else 5
        run.progress(own * seconds, *(speed * seconds for speed in others))
        if run.taken_back():
            break
    assert (LARGE in run.taken_back()) is not is_content


def test_a_late_file_takes_the_place_of_one_that_a_fast_worker_has_just_begun() -> None:
    """Behind the file that the only fast worker has begun it would end late."""
    run = Run([(LARGE, 60_000), *((f"/{i}", 12_000 - i) for i in range(5))], workers=6)
    for seconds in range(100, 400, 20):
        run.now = float(seconds)
        run.progress(*(speed * seconds for speed in (5, 6, 7, 8, 9, 16)))
        if run.taken_back():
            break
    assert set(run.taken_back()) == {LARGE, "/4"}
