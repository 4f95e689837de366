"""The run loop beside storage that takes nothing for a while, pauses and failures."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests import events as said
from tests.fakes import FakePool
from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.execution import runner as loop
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.halting import parse_halt
from virnucpro_exporter.execution.runner import Runner, Terms
from virnucpro_exporter.journal.schema import Committed
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.commands import KeepOutputs, StartAttempt
from virnucpro_exporter.scheduling.events import WorkerEvent
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber


class Clock:
    """A clock that each look moves on by a moment."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


class Memory:
    """A journal and an output folder that refuse the first so many writes."""

    def __init__(self, refusals: int = 0, error: Exception | None = None) -> None:
        self.refusals = refusals
        self.error = error or sqlite3.OperationalError("database is locked")
        self.told: list[Any] = []
        self.kept: list[int] = []
        self.late: list[int] = []
        self.records = 0
        self.reserved = 0

    def reserve_attempts(self, number: int) -> None:
        self.reserved = max(self.reserved, number)

    def record(self, changes: Iterable[Any], now: float, offset: float) -> None:
        del now, offset
        self.records += 1
        if self.refusals:
            self.refusals -= 1
            raise JournalError(str(self.error)) from self.error
        self.told += changes

    def note_workers(self, run: object, now: float) -> None:
        del run, now

    def refusal(self, name: str, path: str) -> None:
        del name, path

    def claim(self, name: str, path: str) -> None:
        del name, path

    def provide(self, attempt: int) -> None:
        """Nothing is needed."""

    def commit(self, attempt: int, names: Iterable[str]) -> None:
        assert any(isinstance(f, fa.FileCompleted) and f.attempt == attempt for f in self.told)
        del names
        self.kept.append(attempt)

    def move(self, attempt: int, names: Iterable[str]) -> None:
        self.commit(attempt, names)
        self.late.append(attempt)

    def keep(self, attempt: int) -> None:
        del attempt

    def discard(self, attempt: int) -> None:
        del attempt

    def probe(self) -> None:
        if self.refusals:
            raise OutputError("full") from OSError(28, "full")


class StoragePool(FakePool):
    """Its workers meet a full disk at the first so many attempts."""

    def __init__(self, folder: Path, troubles: int) -> None:
        super().__init__({"outputs": True}, folder)
        self.troubles = troubles
        self.killed: list[str] = []

    def kill(self, worker_id: str) -> None:
        self.killed.append(worker_id)
        super().kill(worker_id)

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        return [self._spoilt(event) for event in super().poll(timeout)]

    def _spoilt(self, event: WorkerEvent) -> WorkerEvent:
        if self.troubles and getattr(event, "duration", None) is not None:
            self.troubles -= 1
            attempt = cast("Any", event).attempt
            return said.failed("0", attempt, "No space left on device", storage=True)
        return event


def runner(
    folder: Path, memory: Memory, *, troubles: int = 0, **terms: Any
) -> tuple[Runner, WorkStealingCoordinator, StoragePool]:
    pool, clock = StoragePool(folder, troubles), Clock()
    coordinator = WorkStealingCoordinator(["0"], clock=clock)
    made = Runner(
        coordinator, pool, ["0"], memory, cast("Journal", memory), lambda: 0.0, Terms(**terms)
    )
    return made, coordinator, pool


def files(*names: str) -> list[SequenceFile]:
    return [SequenceFile(f"/in/{name}", 1, 100) for name in names]


def test_journal_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    """No worker is killed, no output moves before it is on record, and all is told in order."""
    memory = Memory(refusals=3)
    run, coordinator, pool = runner(tmp_path, memory)
    run.run(files("a", "b", "c"))
    assert coordinator.snapshot().files_completed == 3
    assert memory.kept == [1, 2, 3]
    started = [fact.attempt for fact in memory.told if isinstance(fact, fa.FileStarted)]
    assert started == [1, 2, 3]
    assert not pool.killed


def test_the_pool_is_told_how_many_more_workers_would_have_a_file(tmp_path: Path) -> None:
    """At first two of three files wait, and in the end none."""
    run, _, pool = runner(tmp_path, Memory())
    run.run(files("a", "b", "c"))
    assert (pool.wanted[0], pool.wanted[-1]) == (2, 0)


def test_journal_that_is_broken_ends_the_run(tmp_path: Path) -> None:
    """It would not be better later."""
    run, _, _ = runner(tmp_path, Memory(1, sqlite3.DatabaseError("malformed")))
    with pytest.raises(JournalError, match="malformed"):
        run.run(files("a"))


def test_journal_that_stays_locked_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is drained, and says what was in the way."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    run, _, pool = runner(tmp_path, Memory(10**6), patience=5.0)
    with pytest.raises(JournalError, match="locked"):
        run.run(files("a", "b", "c"))
    assert "locked" in run.storage_failure
    assert not pool.killed


def test_full_disk_charges_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is met: the file waits, and is done when there is room."""
    run, coordinator, _ = runner(tmp_path, Memory(), troubles=5)
    run.run(files("a", "b"))
    snapshot = coordinator.snapshot()
    assert (snapshot.files_completed, snapshot.files_failed, snapshot.retries) == (2, 0, 0)
    told = [record.getMessage() for record in caplog.records]
    assert sum("no file is started" in line for line in told) == 1


def test_failures_end_the_run_as_the_rule_says(tmp_path: Path) -> None:
    """The rest is left, and the reason is kept."""
    run, coordinator, _ = runner(tmp_path, Memory(), halt=parse_halt("soon,fail=1"))
    run.run(files("raise", "a", "b"))
    assert run.halted == "--halt: 1 file failed"
    assert coordinator.snapshot().files_failed == 1


def test_what_waited_during_a_pause_is_read_before_deadlines_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the run leaves the pause out."""
    clock = Clock()
    run, coordinator, pool = runner(tmp_path, Memory(), clock=clock)
    polls = 0
    real = pool.poll

    def poll(timeout: float | None) -> list[WorkerEvent]:
        nonlocal polls
        polls += 1
        if polls == 2:
            clock.now += 3600
        return real(timeout)

    monkeypatch.setattr(pool, "poll", poll)
    excused: list[float] = []
    monkeypatch.setattr(coordinator, "excuse", excused.append)
    run.run(files("a", "b", "c"))
    assert len(excused) == 1
    assert excused[0] == pytest.approx(3600, abs=1)
    assert loop._LATE_SECONDS < 1


class CarefulPool(FakePool):
    """Is never given many attempts whose numbers a later run might use again."""

    def __init__(self, folder: Path, memory: Memory) -> None:
        super().__init__({"outputs": True}, folder)
        self.memory = memory
        self.largest = 0

    def start(self, worker_id: str, actions: Sequence[StartAttempt]) -> None:
        if len(actions) >= loop._MANY_CHANGES:
            assert max(action.attempt for action in actions) <= self.memory.reserved
        self.largest = max(self.largest, len(actions))
        super().start(worker_id, actions)


def test_very_short_files_share_transactions(tmp_path: Path) -> None:
    """Numbers are kept before files start, and results are on record before they are moved."""
    memory = Memory()
    pool = CarefulPool(tmp_path, memory)
    coordinator = WorkStealingCoordinator(["cpu0"])
    runner = Runner(coordinator, pool, ["cpu0"], memory, cast("Journal", memory))
    files = [SequenceFile(f"{number}.fa") for number in range(1000)]
    runner.run(files)
    assert pool.largest >= loop._MANY_CHANGES
    assert len(memory.kept) == len(set(memory.kept)) == 1000
    assert sum(isinstance(change, Committed) for change in memory.told) == 1000
    assert memory.records < 200


class MovingPool(CarefulPool):
    """Its worker moves outputs, but not each of them."""

    def __init__(self, folder: Path, memory: Memory, share: int) -> None:
        super().__init__(folder, memory)
        self.share = share
        self.done: list[AttemptNumber] = []
        self.told = 0

    def move(self, worker_id: str, moves: Sequence[KeepOutputs]) -> bool:
        assert worker_id == "cpu0"
        for move in moves:
            assert move.outputs
            if self.share and not move.attempt % self.share:
                self.memory.commit(move.attempt, move.outputs)
                self.done.append(move.attempt)
        return bool(self.share)

    def moved(self) -> list[AttemptNumber]:
        moved = self.done[self.told :]
        self.told = len(self.done)
        return moved


@pytest.mark.parametrize(("share", "is_late"), [(1, False), (2, True), (2000, True), (0, False)])
def test_workers_move_the_outputs_of_very_short_files(
    tmp_path: Path, share: int, is_late: bool
) -> None:
    """What is on record is moved, once: by its worker, or in a while by the run itself."""
    memory = Memory()
    pool = MovingPool(tmp_path, memory, share)
    coordinator = WorkStealingCoordinator(["cpu0"], clock=Clock())
    runner = Runner(coordinator, pool, ["cpu0"], memory, cast("Journal", memory), movers=pool)
    runner.run([SequenceFile(f"{number}.fa") for number in range(1000)])
    assert sorted(memory.kept) == list(range(1, 1001))
    assert bool(memory.late) == is_late
    assert sum(isinstance(change, Committed) for change in memory.told) == 1000
