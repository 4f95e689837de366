"""The coordinator as a pipeline with threads of its own uses it, on a clock that the test moves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.log_lines import PlanLines
from virnucpro_exporter.scheduling.facts import Moved, PlanChanged
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def coordinator(clock: Clock, gpus: tuple[str, ...] = ("0", "1")) -> WorkStealingCoordinator:
    return WorkStealingCoordinator(
        gpus, clock=clock, wall_clock=lambda: clock.now + 1_000_000, names={"0": "H100"}
    )


def files(*costs: int) -> list[SequenceFile]:
    return [SequenceFile(f"/in/{i}.fa", cost // 10, cost) for i, cost in enumerate(costs)]


def test_a_thief_gets_a_file_when_its_own_queue_is_empty() -> None:
    """The worker that is done first takes over, and the steal is told with its time."""
    clock = Clock()
    run = coordinator(clock)
    run.submit(files(1000, 900, 500, 400, 300))
    done = []
    for _ in range(4):
        file = run.next_file("1")
        assert file is not None
        run.record_file_start("1", file.path)
        clock.now += 1
        run.record_file_completion("1", file.path, 10, 1.0)
        done.append(file.name)
    steals = run.get_recent_steal_events()
    assert [(s.source_gpu, s.dest_gpu) for s in steals] == [("0", "1")] * len(steals)
    assert steals
    assert steals[-1].timestamp == pytest.approx(1_000_000 + clock.now - 1)
    assert len(set(done)) == 4
    metrics = run.get_gpu_metrics()["1"]
    assert metrics["files_completed"] == 4
    assert metrics["work_stolen_to"] == len(steals)
    assert metrics["throughput"] == pytest.approx(10.0)
    assert run.get_gpu_metrics()["0"]["device_name"] == "H100"
    assert run.get_gpu_metrics()["0"]["throughput"] is None


def test_a_stall_is_told_once_when_it_starts_and_once_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning after the threshold, one line when progress comes, and a flag between them."""
    clock = Clock()
    run = coordinator(clock, ("0",))
    caplog.set_level(logging.INFO)
    run.submit(files(100))
    file = run.next_file("0")
    assert file is not None
    run.record_file_start("0", file.path)
    clock.now += 299
    assert run.detect_stalled_workers() == []
    clock.now += 2
    assert run.detect_stalled_workers() == ["0"]
    assert run.detect_stalled_workers() == ["0"]
    assert run.snapshot().workers[0].is_stalled
    run.record_progress("0", 5)
    assert run.detect_stalled_workers() == []
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("GPU 0 stalled: no progress for 301 s")
    assert told[1].startswith("GPU 0 recovered from a stall")


def test_an_idle_worker_without_work_is_never_stalled() -> None:
    """Nothing to do is no stall, however long it lasts."""
    clock = Clock()
    run = coordinator(clock)
    assert run.next_file("0") is None
    clock.now += 10_000
    assert run.detect_stalled_workers() == []


def test_queue_depths_tell_imbalance() -> None:
    """Four files beside none are imbalanced; an equal share is not."""
    run = coordinator(Clock())
    run.submit(files(100, 100, 100, 100, 100, 100))
    assert not run.detect_load_imbalance()
    for _ in range(3):
        run.next_file("0")
    assert run.detect_load_imbalance()


def test_only_the_last_fifty_steals_are_kept() -> None:
    """The log of steals does not grow without end."""
    run = coordinator(Clock())
    run.submit(files(*range(1000, 800, -1)))
    while (file := run.next_file("0")) is not None:
        run.record_file_completion("0", file.path, 1, 0.1)
    assert len(run.get_recent_steal_events()) == 50
    assert run.get_gpu_metrics()["1"]["work_stolen_from"] == 100


def test_a_file_that_was_not_given_out_cannot_end() -> None:
    """A report about a file that the worker does not have is refused, with the file's name."""
    run = coordinator(Clock())
    run.submit(files(100))
    with pytest.raises(SchedulingError, match=r"/in/0\.fa is not in process on 0"):
        run.record_file_completion("0", "/in/0.fa", 1, 0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.next_file("9"),
        lambda run: run.record_file_start("9", "/in/0.fa"),
        lambda run: run.record_progress("9", 5),
        lambda run: run.record_file_completion("9", "/in/0.fa", 1, 0.1),
        lambda run: run.record_file_failure("9", "/in/0.fa", "no"),
    ],
)
def test_a_gpu_that_is_not_known_is_refused(
    call: Callable[[WorkStealingCoordinator], object],
) -> None:
    """Whatever is told about it, the error says that it does not exist."""
    run = coordinator(Clock())
    run.submit(files(100))
    with pytest.raises(SchedulingError, match="there is no worker 9"):
        call(run)


def test_own_files_come_first_then_a_steal_then_none() -> None:
    """Largest first from the own queue; the steal is counted on both sides; then there is None."""
    run = coordinator(Clock())
    run.submit(files(400, 390, 300, 290))
    own = [run.next_file("0"), run.next_file("0")]
    assert [file.residues for file in own if file] == [400, 290]
    assert run.get_recent_steal_events() == []
    stolen = run.next_file("0")
    assert stolen is not None
    assert stolen.residues == 390
    assert [s.file_name for s in run.get_recent_steal_events()] == [stolen.name]
    metrics = run.get_gpu_metrics()
    assert metrics["1"]["work_stolen_from"] == metrics["0"]["work_stolen_to"] == 1
    assert run.next_file("1") is not None
    assert run.next_file("1") is None


def test_a_failed_file_is_given_out_again_until_it_is_given_up() -> None:
    """Three attempts by default, on another GPU where there is one; then it is reported."""
    run = coordinator(Clock())
    run.submit(files(100))
    gpus = []
    for attempt in range(3):
        gpu = next(gpu for gpu in ("0", "1", "0") if run.next_file(gpu) is not None)
        gpus.append(gpu)
        run.record_file_failure(gpu, "/in/0.fa", f"error {attempt}")
        with pytest.raises(SchedulingError, match=r"/in/0\.fa is not in process on"):
            run.record_file_completion(gpu, "/in/0.fa", 1, 0.1)
    assert gpus[:2] == ["0", "1"]
    assert run.next_file("0") is run.next_file("1") is None
    assert run.snapshot().failures == (("/in/0.fa", "error 2"),)
    assert run.snapshot().retries == 2


def test_the_threshold_of_the_question_counts() -> None:
    """A caller may ask with another threshold than that of the run's own warnings."""
    clock = Clock()
    run = coordinator(clock)
    run.submit(files(100))
    file = run.next_file("0")
    assert file is not None
    run.record_file_start("0", file.path)
    clock.now += 61
    assert run.detect_stalled_workers(stall_threshold=60) == ["0"]
    assert run.detect_stalled_workers(stall_threshold=62) == []
    assert not run.snapshot().workers[0].is_stalled


def test_progress_within_a_file_is_activity_and_throughput() -> None:
    """Progress moves the time of the last activity and counts before the file ends."""
    clock = Clock()
    run = coordinator(clock)
    run.submit([SequenceFile("/in/long.fa", 1000, 100_000)])
    run.next_file("0")
    run.record_file_start("0", "/in/long.fa")
    clock.now += 10
    run.record_progress("0", 500)
    clock.now += 2
    metrics = run.get_gpu_metrics()["0"]
    assert metrics["last_activity_time"] == pytest.approx(clock.now - 2 + 1_000_000)
    assert metrics["timestamp"] == pytest.approx(clock.now + 1_000_000)
    assert metrics["throughput"] == pytest.approx(500 / 10)  # of the time up to the report
    assert run.snapshot().residues_done == 50_000
    with pytest.raises(SchedulingError, match="1 has no file in process"):
        run.record_progress("1", 5)


def test_threads_share_all_files_and_none_twice() -> None:
    """Eight threads on one coordinator process each of 400 files exactly once."""
    gpus = tuple(str(i) for i in range(8))
    run = WorkStealingCoordinator(gpus)
    run.submit(files(*(1 + i * 37 % 1000 for i in range(400))))
    seen: list[str] = []

    def work(gpu: str) -> None:
        while (file := run.next_file(gpu)) is not None:
            run.record_file_start(gpu, file.path)
            seen.append(file.path)
            run.record_file_completion(gpu, file.path, 1, 0.001)

    threads = [threading.Thread(target=work, args=(gpu,)) for gpu in gpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread may leave while the last file is declined to it; whoever holds the queue ends it.
    work("0")
    assert sorted(seen) == sorted({f"/in/{i}.fa" for i in range(400)})
    assert run.snapshot().files_completed == 400


def test_a_caller_that_was_given_up_may_report_late() -> None:
    """Its thread cannot be killed: what it reports of a file that went elsewhere is dropped."""
    clock = Clock()
    settings = SchedulerSettings(on_stall=OnStall.RESTART, second_attempts=False)
    run = WorkStealingCoordinator(("0", "1"), clock=clock, settings=settings)
    run.submit(files(100))
    file = run.next_file("0")
    assert file is not None
    run.record_file_start("0", file.path)
    clock.now += 301
    run.detect_stalled_workers()
    assert run.next_file("1") == file
    run.record_file_completion("0", file.path, 10, 301.0)
    assert run.snapshot().late_results == 1
    with pytest.raises(SchedulingError, match="is not in process on 0"):
        run.record_file_completion("0", file.path, 10, 301.0)
    run.record_file_completion("1", file.path, 10, 1.0)
    assert run.snapshot().files_completed == 1


def test_changes_of_the_plan_take_one_line_a_minute() -> None:
    """The first at once; those of the next minute are told together after it."""
    file = SequenceFile("/a", 1, 1)
    change = PlanChanged((Moved(file, WorkerId("0"), WorkerId("1")),))
    lines = PlanLines()
    told = [lines.join(change, float(now)) for now in range(0, 130, 10)]
    joined = [change for change in told if change is not None]
    assert [len(change.moves) for change in joined] == [1, 6, 6]
    assert told.index(joined[1]) == 6


def test_a_loop_over_a_worker_notes_starts_and_ends() -> None:
    """A file is completed when the next one is asked for, unless the loop has recorded its end."""
    run = WorkStealingCoordinator(["0"])
    run.submit(files(30, 20, 10))
    for number, file in enumerate(run.worker("0")):
        if number == 1:
            run.record_file_failure("0", file.path, "not this time")
    snapshot = run.snapshot()
    assert (snapshot.files_completed, snapshot.retries) == (3, 1)
    assert repr(run) == (
        "<WorkStealingCoordinator of 1 worker, completed: 0 files queued, 0 in process, "
        "3 completed, 0 failed>"
    )


def test_a_loop_that_is_left_has_failed_at_its_file() -> None:
    """Whatever the exception, no file stays in process; another worker gets it, which waited."""
    run = WorkStealingCoordinator(["0", "1"])
    run.submit(files(10))
    begun = threading.Event()
    done: list[str] = []

    def other() -> None:
        begun.wait()
        done.extend(file.path for file in run.worker("1"))

    thread = threading.Thread(target=other)
    thread.start()

    def fail() -> None:
        for _ in run.worker("0"):
            begun.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    thread.join()
    assert done == [files(10)[0].path]
    assert run.snapshot().files_completed == 1
    assert "left before the file was done" in run.story(done[0])


def test_all_loops_end_when_the_last_file_is_given_up() -> None:
    """After the last attempt nothing is waited for."""
    run = WorkStealingCoordinator(["0"])
    run.submit(files(10))
    for _ in range(3):
        for _file in run.worker("0"):
            break
    assert run.snapshot().files_failed == 1
    assert list(run.worker("0")) == []
