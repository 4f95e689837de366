"""What every pool promises, tried on each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import events as said
from tests.dask_cluster import DaskCluster
from tests.facts import number, start, worker
from tests.fakes import FakePool
from virnucpro_exporter.cluster.pool import DaskPool
from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import (
    AttemptCompleted,
    AttemptFailed,
    AttemptStarted,
    LossCause,
    Progress,
    WorkerEvent,
    WorkerLost,
    WorkerReady,
)
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.workers.pool import WorkerPool

DEADLINE = 100.0
Ended = (AttemptCompleted, AttemptFailed, WorkerLost)

MakePool = Callable[[dict[str, Any], Path], WorkerPool]


def make_local(spec: dict[str, Any], folder: Path) -> WorkerPool:
    """Processes of this machine."""
    return LocalPool(spec, "tests.processors_for_tests:scripted", folder, folder, {})


def make_fake(spec: dict[str, Any], folder: Path) -> WorkerPool:
    """No processes."""
    return FakePool(spec, folder)


@pytest.fixture(params=["fake", "local", "dask"])
def make(request: pytest.FixtureRequest) -> MakePool:
    if request.param == "dask":
        cluster: DaskCluster = request.getfixturevalue("cluster")
        return lambda spec, folder: renamed(cluster, spec, folder)
    return make_fake if request.param == "fake" else make_local


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with DaskCluster() as cluster:
        cluster.add_worker()
        cluster.add_worker()
        yield cluster


def renamed(cluster: DaskCluster, spec: dict[str, Any], folder: Path) -> WorkerPool:
    """Dask workers, as `a` and `b`."""
    pool = cluster.pool(spec, folder)
    return Renamed(pool, {"a": "here/cpu0", "b": "here/cpu1"})


class Renamed:
    """A pool whose workers are called otherwise."""

    def __init__(self, pool: DaskPool, names: dict[str, str]) -> None:
        self.pool = pool
        self.names = names
        self.back = {real: name for name, real in names.items()}
        joined: list[Any] = [*pool.wait_for_workers()]
        while {event.worker_id for event in joined} != set(self.back):
            joined += pool.poll(0.1)
        self.wake, self.want, self.drain = pool.wake, pool.want, pool.drain
        self.close_idle, self.close = pool.close_idle, pool.close

    def spawn(self, worker_id: str) -> None:
        self.pool.spawn(worker(self.names[worker_id]))

    def start(self, worker_id: str, actions: Sequence[StartAttempt]) -> None:
        self.pool.start(worker(self.names[worker_id]), actions)

    def shrink(self, action: ShrinkAttempt) -> None:
        known = worker(self.names[action.worker_id])
        self.pool.shrink(ShrinkAttempt(known, action.attempt, action.share))

    def cancel(self, worker_id: str, attempt: int) -> None:
        self.pool.cancel(worker(self.names[worker_id]), number(attempt))

    def kill(self, worker_id: str) -> None:
        self.pool.kill(worker(self.names[worker_id]))

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        told: list[Any] = self.pool.poll(timeout)
        return [replace(event, worker_id=self.back[event.worker_id]) for event in told]


class Driver:
    """Two workers, and what they told."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.heard: list[WorkerEvent] = []

    def spawn(self, *gpus: str) -> None:
        """Start workers, and wait until they are ready."""
        for gpu in gpus:
            self.pool.spawn(worker(gpu))
        waiting = set(gpus)
        while waiting:
            waiting.remove(self.wait(lambda event: isinstance(event, WorkerReady)).worker_id)

    def start(self, gpu: str, first: int, *names: str) -> None:
        """Hand files to a worker, the attempts numbered from `first`."""
        files = [start(gpu, n, SequenceFile(f"/x/{name}")) for n, name in enumerate(names, first)]
        self.pool.start(worker(gpu), files)

    def wait(self, wanted: Callable[[WorkerEvent], bool]) -> Any:
        """The first event heard that is wanted; it and those before it are forgotten."""
        end = time.monotonic() + DEADLINE
        while True:
            for index, event in enumerate(self.heard):
                if wanted(event):
                    del self.heard[: index + 1]
                    return event
            assert time.monotonic() < end, self.heard
            self.heard += self.pool.poll(0.1)

    def end(self) -> Any:
        """The next event that ends an attempt or a worker."""
        return self.wait(lambda event: isinstance(event, Ended))


@pytest.fixture
def drive(make: MakePool, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    pools: list[WorkerPool] = []

    def start(**spec: Any) -> Driver:
        pools.append(make(spec, tmp_path))
        return Driver(pools[-1])

    yield start
    for pool in pools:
        pool.close()


def test_files_complete_in_order_with_their_outputs(
    drive: Callable[..., Driver], tmp_path: Path
) -> None:
    """Each file is announced, and its result lies in its attempt's folder when it completes."""
    driver = drive(outputs=True)
    driver.spawn("a")
    driver.start("a", 7, "first")
    assert driver.wait(lambda event: isinstance(event, AttemptStarted)) == said.started("a", 7)
    done = driver.end()
    assert (done.worker_id, done.attempt, done.sequences, done.residues) == ("a", 7, 1, 5)
    assert done.outputs == ("first.out",)
    assert (tmp_path / "7" / "first.out").exists()
    driver.start("a", 8, "second", "third")
    assert [driver.end().attempt for _ in range(2)] == [8, 9]


def test_a_failed_attempt_leaves_its_worker_well(drive: Callable[..., Driver]) -> None:
    """An error is one line; one of the content is told to be permanent; the next file is done."""
    driver = drive()
    driver.spawn("a")
    driver.start("a", 1, "raise", "permanent", "fine")
    assert driver.end() == said.failed("a", 1, "RuntimeError: bad luck")
    reason = "This file cannot be processed: it is empty"
    assert driver.end() == said.failed("a", 2, reason, permanent=True)
    assert driver.end().attempt == 3


def test_a_lost_worker_names_the_file_that_it_died_of(drive: Callable[..., Driver]) -> None:
    """Files behind it are not processed, and a new worker can take its place."""
    driver = drive()
    driver.spawn("a")
    driver.start("a", 1, "fine")
    assert driver.end().attempt == 1
    driver.start("a", 2, "exit", "never")
    assert driver.end() == said.lost("a", "exited with status 3", running=2)
    driver.start("a", 4, "nobody there")
    driver.spawn("a")
    driver.start("a", 5, "fine")
    assert driver.end().attempt == 5


def test_a_setup_that_fails_is_not_worth_a_restart(drive: Callable[..., Driver]) -> None:
    """A processor that cannot be set up is told, with the reason."""
    driver = drive(setup="raise")
    driver.pool.spawn(worker("a"))
    reason = "processor setup failed: ValueError: no model here"
    assert driver.end() == said.lost("a", reason, LossCause.SETUP_FAILED)


def test_one_worker_does_not_hold_up_another(drive: Callable[..., Driver]) -> None:
    """While a worker hangs in a file, having told how far it got, the other one goes on."""
    driver = drive()
    driver.spawn("a", "b")
    driver.start("a", 1, "hang")
    progress = driver.wait(lambda event: isinstance(event, Progress))
    assert progress == said.progress("a", 1, 1, 10)
    driver.start("b", 2, "fine")
    assert driver.end().worker_id == "b"


def test_a_cancelled_attempt_ends_without_blame(drive: Callable[..., Driver]) -> None:
    """The attempt, or its worker, is told to have ended; nothing else is heard of it."""
    driver = drive()
    driver.spawn("a")
    driver.start("a", 1, "hang")
    driver.wait(lambda event: isinstance(event, AttemptStarted))
    driver.pool.cancel(worker("a"), number(1))
    ended = driver.end()
    assert ended in (
        said.lost("a", "cancelled", LossCause.CANCELLED),
        said.failed("a", 1, "cancelled"),
    )
    if isinstance(ended, WorkerLost):
        driver.spawn("a")
    driver.start("a", 2, "fine")
    assert driver.end().attempt == 2


def test_nothing_is_heard_of_a_killed_worker(drive: Callable[..., Driver]) -> None:
    """Not even how its attempt ended, which was about to be told; its successor is heard."""
    driver = drive()
    driver.spawn("a", "b")
    driver.start("a", 1, "hang")
    driver.wait(lambda event: isinstance(event, AttemptStarted))
    driver.pool.cancel(worker("a"), number(1))
    driver.pool.kill(worker("a"))
    driver.pool.kill(worker("a"))
    driver.start("b", 2, "fine")
    assert driver.end().worker_id == "b"
    driver.spawn("a")
    driver.start("a", 3, "fine")
    assert driver.end().attempt == 3


def test_closing_ends_idle_workers_first(drive: Callable[..., Driver]) -> None:
    """Idle workers leave, and are not told to be lost; the one at work goes on until `close`."""
    driver = drive()
    driver.spawn("a", "b")
    driver.start("a", 1, "hang")
    driver.wait(lambda event: isinstance(event, Progress))
    driver.pool.close_idle(DEADLINE)
    driver.pool.cancel(worker("a"), number(1))
    assert driver.end().worker_id == "a"
