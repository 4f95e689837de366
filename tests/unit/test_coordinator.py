"""The coordinator as a pipeline with threads of its own uses it, on a clock that the test moves."""

from __future__ import annotations

import logging
import threading

import pytest

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.scheduling.files import SequenceFile


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
    assert told[0].startswith("GPU 0 has stalled: no progress for 301 s")
    assert told[1].startswith("GPU 0 is no longer stalled")


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
    with pytest.raises(SchedulingError, match=r"/in/0\.fa was not given to 0"):
        run.record_file_completion("0", "/in/0.fa", 1, 0.1)


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
