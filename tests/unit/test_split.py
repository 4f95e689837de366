"""Parts of files: every record once and in order, whatever workers do while they share a file."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import events as said
from tests.facts import everything, number, worker
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import FilePart, SequenceFile
from virnucpro_exporter.scheduling.laws import check_invariants
from virnucpro_exporter.scheduling.parts import BegunFile, PartResult, cut_at
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.simulation.virtual_run import VirtualRun
from virnucpro_exporter.simulation.workers import Outage, VirtualGpu, VirtualWorkers
from virnucpro_exporter.snapshot import WHOLE, RunSnapshot

SIZE = 10_000_000  # of every file, in its own coordinates and in residues
SPEED = 100_000.0  # residues per second


class Attempt:
    """One attempt as its worker knows it."""

    def __init__(self, start: co.StartAttempt, now: float) -> None:
        file = start.file
        self.number = start.attempt
        self.path = file.path
        self.joins = start.joins
        self.begin, stop = (file.start, file.stop) if isinstance(file, FilePart) else (0, None)
        self.stop = SIZE if stop is None else stop
        self.begun_at = now

    def position(self, now: float) -> int:
        """How far it has read."""
        return min(self.begin + int((now - self.begun_at) * SPEED), self.stop - 1)


class Play:
    """Workers that start, report, answer, fail and die as chance has it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.now = 0.0
        self.cuts_first = rng.random() < 0.3
        self.gpus = [str(n) for n in range(rng.randint(1, 5))]
        self.scheduler = Scheduler(
            dict.fromkeys(self.gpus, 1.0),
            settings=SchedulerSettings(
                stall_threshold=50.0,
                max_attempts=rng.randint(1, 3),
                on_stall=rng.choice(list(OnStall)),
            ),
        )
        self.held: dict[str, list[Attempt]] = {gpu: [] for gpu in self.gpus}
        self.done: dict[int, Attempt] = {}
        self.asked: list[tuple[str, co.ShrinkAttempt]] = []
        self.given: list[ev.AttemptShrunk] = []  # before attempts began
        self.depth = 0
        self.results: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def tell(self, event: ev.Event) -> None:
        self.depth += 1
        self.carry_out(event)
        while self.given and self.depth == 1:
            told = self.given.pop(0)
            if told.attempt in [attempt.number for attempt in self.held[told.worker_id]]:
                self.tell(told)
        self.depth -= 1

    def carry_out(self, event: ev.Event) -> None:
        for action in everything(self.scheduler.handle(event, self.now)):
            self.seen[type(action).__name__] += 1
            if isinstance(action, co.StartAttempt):
                self.start(action)
            elif isinstance(action, co.ShrinkAttempt):
                self.asked.append((action.worker_id, action))
            elif isinstance(action, co.CancelAttempt):
                self.die(action.worker_id, ev.LossCause.CANCELLED)
            elif isinstance(action, co.RestartWorker):
                self.held[action.worker_id].clear()
                self.come_up(action.worker_id)
            elif isinstance(action, co.RetireWorker):
                self.held[action.worker_id].clear()
            elif isinstance(action, fa.PartCompleted):
                own, file = self.done[action.attempt], action.file
                stop = SIZE if file.stop is None else file.stop
                assert (own.path, own.begin, own.stop) == (file.path, file.start, stop)
            elif isinstance(action, fa.FileCompleted | fa.FileFailed):
                self.results[action.file.path] += 1
        check_invariants(self.scheduler)

    def come_up(self, gpu: str) -> None:
        self.tell(said.ready(gpu, can_split=not self.cuts_first, cuts_first=self.cuts_first))

    def start(self, action: co.StartAttempt) -> None:
        attempt = Attempt(action, self.now)
        self.held[action.worker_id].append(attempt)
        if action.share < 1.0 and self.rng.random() < 0.8:  # a file may be one that cannot be cut
            at = attempt.begin + max(1, int(action.share * (attempt.stop - attempt.begin)))
            cut = (at, attempt.begin, attempt.stop)
            attempt.stop = at
            self.given.append(said.shrunk(action.worker_id, attempt.number, cut))
        if attempt.joins:
            parts = [self.done[number] for number in attempt.joins]
            ends = [0, *(part.stop for part in parts)]
            assert [part.begin for part in parts] == ends[:-1], "every record once, in order"
            assert ends[-1] == SIZE
            assert {part.path for part in parts} == {attempt.path}

    def die(self, gpu: str, cause: ev.LossCause = ev.LossCause.DIED_PROCESSING) -> None:
        self.held[gpu].clear()
        self.tell(said.lost(gpu, "killed", cause))

    def step(self) -> None:
        rng = self.rng
        self.now += rng.choice([0.0, 0.1, 1.0, 10.0])
        busy = [gpu for gpu in self.gpus if self.held[gpu]]
        self.tell(ev.TimePassed())
        if self.asked and rng.random() < 0.7:
            self.answer(*self.asked.pop(rng.randrange(len(self.asked))))
            return
        if not busy:
            return
        gpu = rng.choice(busy)
        if not self.held[gpu]:
            return
        attempt = self.held[gpu][0]
        match rng.choice(["go", "go", "go", "go", "done", "fail", "die"]):
            case "go":
                self.tell(said.started(gpu, attempt.number))
                done = attempt.position(self.now) - attempt.begin
                self.tell(said.progress(gpu, attempt.number, done // 10, done))
            case "done":
                self.finish(gpu)
            case "fail" if rng.random() < 0.3:
                self.held[gpu].pop(0)
                self.tell(said.failed(gpu, attempt.number, "no", permanent=rng.random() < 0.1))
            case "die" if rng.random() < 0.3:
                self.die(gpu)

    def finish(self, gpu: str) -> None:
        attempt = self.held[gpu].pop(0)
        self.done[attempt.number] = attempt
        size = attempt.stop - attempt.begin
        self.tell(said.completed(gpu, attempt.number, size // 10, size, 1.0, ("a.out",)))

    def answer(self, gpu: str, asked: co.ShrinkAttempt) -> None:
        """Late answers come, too, and those of attempts that are over do not."""
        attempt = next((a for a in self.held[gpu] if a.number == asked.attempt), None)
        if attempt is None:
            return
        position = attempt.position(self.now)
        at = max(position + 1, attempt.stop - int(asked.share * (attempt.stop - position)))
        if at >= attempt.stop or self.rng.random() < 0.2:
            final = self.rng.random() < 0.3
            self.tell(said.shrunk(gpu, attempt.number, None, is_final=final))
            return
        cut = (at, position, attempt.stop)
        attempt.stop = at
        self.tell(said.shrunk(gpu, attempt.number, cut))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1_000_000), files=st.integers(1, 4))
def test_every_record_is_in_one_part(seed: int, files: int) -> None:
    """Random thefts, failures and deaths: each file has one result, of all its records in order."""
    play = Play(seed)
    names = [SequenceFile(f"/{n}.fa", SIZE // 10, SIZE) for n in range(files)]
    play.tell(ev.FilesSubmitted(tuple(names)))
    for gpu in play.gpus:
        play.come_up(gpu)
    for _ in range(150):
        play.step()
        snapshot = take_snapshot(play.scheduler, RunContext(), play.now)
        assert snapshot.files_total == files
        assert snapshot.residues_total is not None
        assert 0 <= snapshot.residues_done <= snapshot.residues_total
        check_ranges(snapshot)
    for _ in range(1000):
        if play.scheduler.is_finished:
            break
        play.asked.clear()  # they answer no more
        play.now += 1.0
        play.tell(ev.TimePassed())
        for gpu in play.gpus:
            if play.held[gpu]:
                play.finish(gpu)
    assert play.scheduler.is_finished
    assert set(play.results.values()) <= {1}
    assert len(play.results) == files or all(w.is_retired for w in play.scheduler.state.fleet)


def check_ranges(run: RunSnapshot) -> None:
    """What is shown of parts: ranges of one file do not overlap, and their number adds up."""
    held = [w for w in run.workers if w.current_part is not None]
    ranges = {w.gpu: (w.current_file, w.current_part) for w in held}
    assert len(set(ranges.values())) <= run.parts_processing <= len(held)
    distinct = sorted({(file or "", *part) for file, part in ranges.values() if part is not None})
    for (file, begin, end), (other, after, _) in itertools.pairwise(distinct):
        assert 0.0 <= begin < end <= 1.0
        assert file != other or end <= after
    assert run.parts_completed <= run.parts_total
    assert sum(w.parts_completed for w in run.workers) == run.parts_completed
    for w in run.workers:
        assert not w.is_joining or w.current_range == WHOLE


def test_random_plays_split_files() -> None:
    """The histories of the test above hold what it is about."""
    seen: Counter[str] = Counter()
    for seed in range(60):
        play = Play(seed)
        play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
        for gpu in play.gpus:
            play.come_up(gpu)
        for _ in range(100):
            play.step()
        seen += play.seen
        seen[f"cuts first: {play.cuts_first}"] += play.seen["FileSplit"]
    assert min(seen[name] for name in ("FileSplit", "PartCompleted", "FileQueued")) > 3
    assert min(seen[f"cuts first: {answer}"] for answer in (True, False)) > 3
    assert seen["FileCompleted"] > 0


def virtual(
    sizes: dict[str, int],
    speeds: dict[str, float],
    *,
    can_split: bool = True,
    cuts_first: bool = False,
    overhead: float = 0.0,
    outage: tuple[str, Outage] | None = None,
) -> tuple[float, int]:
    """Makespan over the least possible, and how many parts were done."""
    gpus = {gpu: VirtualGpu(speed) for gpu, speed in speeds.items()}
    workers = VirtualWorkers(
        gpus, 1.0, overhead=overhead, can_split=can_split and not cuts_first, cuts_first=cuts_first
    )
    if outage is not None:
        workers.plan(*outage)
    scheduler = Scheduler(speeds, settings=SchedulerSettings(on_stall=OnStall.RESTART))
    files = [SequenceFile(path, None, size) for path, size in sizes.items()]
    outcome = VirtualRun(scheduler, gpus, sizes, workers=workers).run(files)
    assert outcome.completed == dict.fromkeys(sizes, 1)
    least = sum(sizes.values()) / sum(speeds.values())
    return outcome.makespan / least, scheduler.state.parts_completed


EIGHT = {str(n): 1e6 * speed for n, speed in enumerate((1, 1, 1.5, 1.5, 0.9, 2.5, 1.2, 0.75))}


@pytest.mark.parametrize("overhead", [0.1, 1.0])
def test_one_file_keeps_all_gpus_busy(overhead: float) -> None:
    """A file of an hour on eight GPUs of mixed speeds takes as long as they all need together."""
    size = int(3600 * sum(EIGHT.values()))
    ratio, parts = virtual({"/a": size}, EIGHT, overhead=overhead)
    assert ratio <= 1.005
    assert 8 * len(EIGHT) <= parts <= 40 * len(EIGHT)


def test_a_kill_costs_little_of_a_file() -> None:
    """A part that would last longer ends after a small share of the run, and its worker goes on."""
    play = Play(1)
    play.cuts_first = False
    play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
    for gpu in play.gpus:
        play.come_up(gpu)
    gpu = next(gpu for gpu in play.gpus if play.held[gpu])
    play.tell(said.started(gpu, 1))
    while not play.asked:
        play.now += 0.1
        position = play.held[gpu][0].position(play.now)
        play.tell(said.progress(gpu, 1, position // 10, position))
    seconds = SIZE / SPEED / len(play.gpus)
    assert play.now == pytest.approx(seconds / 32, rel=0.5)
    ((_, asked),) = play.asked
    assert (asked.share, asked.least_seconds) == (1.0, 0.0)
    attempt = play.held[gpu][0]
    cut = (attempt.position(play.now) + 1, attempt.position(play.now), SIZE)
    attempt.stop = cut[0]
    play.tell(said.shrunk(gpu, 1, cut))
    play.finish(gpu)
    assert play.held[gpu][0].begin == cut[0]


@pytest.mark.parametrize("overhead", [0.1, 10.0])
def test_a_file_is_shared_by_workers_that_cannot_stop(overhead: float) -> None:
    """Workers that give shares away only before they begin take smaller ones towards the end."""
    size = int(3600 * sum(EIGHT.values()))
    ratio, parts = virtual({"/a": size}, EIGHT, overhead=overhead, cuts_first=True)
    assert ratio <= 1.1
    assert parts <= 8 * len(EIGHT)
    sizes = {f"/{n}": size // 1000 for n in range(1000)}
    assert virtual(sizes, EIGHT, overhead=overhead, cuts_first=True)[1] <= 6 * len(EIGHT)


def test_workers_that_report_nothing_share_a_file() -> None:
    """A holder of unknown speed is asked all the same, once it has worked for a moment."""
    play = next(play for play in map(Play, range(100)) if len(play.gpus) == 2)
    play.cuts_first = False
    play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
    play.come_up("0")
    play.tell(said.started("0", 1))
    play.come_up("1")
    assert not play.asked
    play.now = 3.0
    play.tell(ev.TimePassed())
    ((gpu, asked),) = play.asked
    assert (gpu, asked.attempt, asked.share) == ("0", 1, 0.5)
    assert asked.least_seconds > 0.0


def test_whole_files_stay_whole_while_others_wait() -> None:
    """Nothing is split where the end is even, nor what the processor takes as a whole only."""
    sizes = {f"/{n}": 10_000_000 for n in range(64)}
    even = dict.fromkeys("01", 1e6)
    assert virtual(sizes, even)[1] == 0
    ratio, parts = virtual({"/a": 1_000_000_000}, even, can_split=False)
    assert (round(ratio, 3), parts) == (2.0, 0)


def test_a_range_on_a_frozen_gpu_is_done_again_by_others() -> None:
    """A holder that does not answer keeps its range until it is lost, and then others do it."""
    size = int(3600 * sum(EIGHT.values()))
    ratio, _ = virtual({"/a": size}, EIGHT, outage=("5", Outage(1800.0, death="died")))
    assert ratio < 1.5


def test_a_file_that_was_begun_goes_on_with_what_is_left() -> None:
    """Parts that are done are not done again, and are joined with the others in order."""
    play = Play(1)
    whole = SequenceFile("/a.fa", None, SIZE)
    first, rest = cut_at(whole, 6000, SIZE)
    result = PartResult(number(7), 600, 6000, ("a.out",))
    done = Attempt(co.StartAttempt(worker("0"), result.attempt, first), 0.0)
    play.done[7] = done
    play.tell(ev.FilesSubmitted((), begun=(BegunFile(whole, ((first, result), (rest, None))),)))
    assert play.scheduler.state.residues_done == 6000
    play.tell(said.ready("0", can_split=True))
    (attempt,) = play.held["0"]
    assert (attempt.begin, attempt.stop) == (6000, SIZE)
    play.finish("0")
    assert play.held["0"][0].joins == (7, attempt.number)
    play.finish("0")
    assert play.results == {"/a.fa": 1}
    assert play.scheduler.is_finished


def test_a_file_is_shared_as_soon_as_anything_is_known_of_its_speed() -> None:
    """The first report of its worker is enough: idle workers are not looked at a second later."""
    play = Play(3)
    play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
    for gpu in play.gpus:
        play.tell(said.ready(gpu, can_split=True))
    assert len(play.gpus) > 1
    assert not play.asked
    (holder,) = (gpu for gpu in play.gpus if play.held[gpu])
    play.now = 0.1
    play.tell(said.progress(holder, 1, 1, 10))
    assert [gpu for gpu, _ in play.asked] == [holder]


def test_nothing_is_taken_of_a_range_that_is_all_done() -> None:
    """A worker that has just reported its last residues is about to end, not to be divided."""
    play = Play(3)
    play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
    for gpu in play.gpus:
        play.tell(said.ready(gpu, can_split=True))
    (holder,) = (gpu for gpu in play.gpus if play.held[gpu])
    play.now = 100.0
    play.tell(said.progress(holder, 1, 1000, SIZE))
    assert not play.asked


def test_a_worker_that_was_asked_too_early_to_stop_is_asked_again() -> None:
    """A drain that comes before the worker has opened its range does not let it do all of it."""
    play = Play(1)
    play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
    play.tell(said.ready("0", can_split=True))
    play.tell(ev.DrainRequested())
    assert len(play.asked) == 1
    play.tell(said.shrunk("0", 1, None))
    play.now = 1.0
    play.tell(said.started("0", 1))
    play.now = 2.0
    play.tell(said.progress("0", 1, 10, 100))
    assert len(play.asked) == 2
    play.tell(said.progress("0", 1, 20, 200))
    assert len(play.asked) == 2, "as long as it has not answered"


def test_a_drain_keeps_what_is_done_of_a_range() -> None:
    """Each worker is asked to stop at the next record; the rest waits for the next run."""
    play = Play(1)
    play.tell(ev.FilesSubmitted((SequenceFile("/a.fa", 1000, SIZE),)))
    play.tell(said.ready("0", can_split=True))
    play.tell(said.started("0", 1))
    play.now = 10.0
    play.tell(said.progress("0", 1, 100, 1000))
    play.tell(ev.DrainRequested())
    ((gpu, asked),) = play.asked
    assert (asked.share, asked.least_seconds) == (1.0, 0.0)
    play.asked.clear()
    attempt = play.held[gpu][0]
    attempt.stop = 1001
    play.tell(said.shrunk(gpu, 1, (1001, 1000, SIZE)))
    play.finish(gpu)
    assert play.seen["PartCompleted"] == 1
    assert play.scheduler.is_finished
    assert not play.results
