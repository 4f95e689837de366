"""Files that become known while the run goes on."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import events as said
from tests.fakes import FakePool
from virnucpro_exporter.app.listing import PATIENCE, Listing, Looked, done_before, looked_at
from virnucpro_exporter.errors import JournalError
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.inputs import Input
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.status import read_status
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.events import FilesSubmitted
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.snapshot import RunState

ENDS = ("completed", "completed", "failed", "completed")  # of the files of an earlier run


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Parts:
    """Gives a part of what is known when it is told to."""

    def __init__(self, *parts: Sequence[Looked]) -> None:
        self._parts = parts
        self._steps = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Sequence[Looked]]:
        for part in self._parts:
            assert self._steps.acquire(timeout=60)
            yield part

    def give(self) -> None:
        """Let the next part be known."""
        self._steps.release()


def looked(name: str, *, is_done: bool = False) -> Looked:
    return Looked(InputFile(name, 1, 1, f"/{name}"), SequenceFile(name, 1, 10), is_done)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    outputs = Outputs(tmp_path)
    outputs.prepare()
    journal = Journal(outputs)
    journal.begin("run 1", {}, now=0.0)
    yield journal
    journal.close()


def listing(
    journal: Journal, parts: Parts | list[list[Looked]], total: int, clock: Clock
) -> Listing:
    journal.begin_plan([(name, f"/{name}") for name in "abcd"[:total]])
    return Listing(journal, parts, total, "on 1 worker", clock.now, clock)


def join() -> None:
    """Wait until all files were looked at."""
    for thread in threading.enumerate():
        if thread.name == "listing":
            thread.join(timeout=60)


def test_few_files_are_handed_over_together(journal: Journal) -> None:
    """So that the plan is made of all of them."""
    made = listing(journal, [[looked("a")], [looked("b", is_done=True)]], 2, Clock())
    made.start(lambda: None)
    join()
    event = made.take()
    assert event is not None
    assert [file.path for file in event.files] == ["a"]
    assert [file.path for file in event.skipped] == ["b"]
    assert event.awaited == made.awaited == 0
    assert made.take() is None


def test_work_begins_when_the_search_takes_long(journal: Journal, tmp_path: Path) -> None:
    """What is known by then is handed over, and every view knows of all files."""
    clock, told = Clock(), threading.Semaphore(0)
    parts = Parts([looked("a")], [looked("b")])
    made = listing(journal, parts, 2, clock)
    made.start(told.release)
    parts.give()
    assert told.acquire(timeout=60)
    assert made.has_work
    assert made.take() is None  # the second may be the largest
    clock.now += PATIENCE
    first = made.take()
    assert first is not None
    assert ([file.path for file in first.files], first.awaited) == (["a"], 1)
    assert read_status(tmp_path).counts == {"queued": 2}
    parts.give()
    join()
    second = made.take()
    assert second is not None
    assert ([file.path for file in second.files], second.awaited) == (["b"], 0)
    assert read_status(tmp_path).counts == {"queued": 2}


def test_run_that_ends_while_files_are_looked_at_knows_the_others_next_time(
    journal: Journal, tmp_path: Path
) -> None:
    """They are queued until then, and new to the next run."""
    sources = [looked(name).source for name in "abc"]
    inputs = [(file.path, file.real) for file in sources]
    journal.begin_plan(inputs)
    journal.plan_more(sources[:1])
    assert read_status(tmp_path).counts == {"queued": 3}
    earlier = journal.begin_plan(inputs)
    assert [earlier.state_of(f"/{name}")[0] for name in "abc"] == ["queued", None, None]
    assert read_status(tmp_path).counts == {"queued": 3}
    assert not any(earlier.standing(file)[0] for file in sources)
    journal.plan_more(sources)
    assert read_status(tmp_path).counts == {"queued": 3}


def test_nothing_is_lost_when_the_journal_takes_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files are handed over when it does again."""
    made = listing(journal, [[looked("a"), looked("b")]], 2, Clock())
    made.start(lambda: None)
    join()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "plan_more", lambda _: (_ for _ in ()).throw(JournalError("full")))
        with pytest.raises(JournalError):
            made.take()
    event = made.take()
    assert event is not None
    assert [file.path for file in event.files] == ["a", "b"]


def test_defect_of_the_search_is_heard(journal: Journal) -> None:
    """It ends the run, which would wait for files otherwise."""

    class Broken(Parts):
        def __iter__(self) -> Iterator[Sequence[Looked]]:
            raise ZeroDivisionError

    made = listing(journal, Broken(), 1, Clock())
    made.start(lambda: None)
    join()
    with pytest.raises(ZeroDivisionError):
        made.take()


class Pool(FakePool):
    """Notes which workers were started."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder)
        self.spawned: list[str] = []

    def spawn(self, worker_id: str) -> None:
        self.spawned.append(worker_id)
        super().spawn(worker_id)


@pytest.mark.parametrize("is_done", [False, True])
def test_workers_are_started_for_work_alone(
    journal: Journal, tmp_path: Path, *, is_done: bool
) -> None:
    """A run with nothing to do starts none; else the files of all parts are done."""
    pool, coordinator = Pool(tmp_path), WorkStealingCoordinator(["0"])
    parts = [[looked(name, is_done=is_done)] for name in "abc"]
    runner = Runner(coordinator, pool, ["0"], Outputs(tmp_path), journal)
    runner.run(feed=listing(journal, parts, 3, Clock()))
    assert pool.spawned == ([] if is_done else ["0"])
    snapshot = coordinator.snapshot()
    assert (snapshot.files_completed, snapshot.files_skipped) == (3, 3 * is_done)


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_run_that_is_ended_at_its_start_says_what_was_done_before(
    journal: Journal, tmp_path: Path, how: str
) -> None:
    """Also of files that it has not looked at; one that failed waits for the next run."""
    names = "abcd"
    files = [Input(name, f"/{name}", f"/{name}") for name in names]
    inputs = [(file.path, file.real) for file in files]
    journal.begin_plan(inputs)
    journal.plan_more([looked(name).source for name in names])
    states = [(state, name.encode()) for state, name in zip(ENDS, names, strict=True)]
    with sqlite3.connect(tmp_path / ".virnucpro" / "journal.sqlite") as database:
        database.executemany("UPDATE files SET state = ? WHERE path = ?", states)
    database.close()
    earlier = journal.begin_plan(inputs)
    parts = itertools.chain([[looked("a", is_done=True)]], itertools.repeat([]))  # never gets on
    made = Listing(
        *(journal, parts, len(names), "", 0.0, Clock()),
        done_after=lambda seen: done_before(files[seen:], earlier),
    )
    coordinator, pool = WorkStealingCoordinator(["0"]), Pool(tmp_path)
    runner = Runner(coordinator, pool, ["0"], Outputs(tmp_path), journal)
    getattr(runner, how)()
    runner.run(feed=made)
    snapshot = coordinator.snapshot()
    assert (snapshot.files_skipped, snapshot.files_queued) == (3, 1)
    assert read_status(tmp_path).counts == {"completed": 3, "queued": 1}
    assert not pool.spawned


def test_run_does_not_end_before_all_files_are_known() -> None:
    """Though all that are known have their results."""
    coordinator = WorkStealingCoordinator(["0", "1"], settings=SchedulerSettings())
    file = SequenceFile("/a", 1, 1000)
    coordinator.handle([FilesSubmitted((file,), awaited=1), said.ready("0"), said.ready("1")])
    coordinator.handle([said.completed("0", 1, 1, 1000, 1.0)])
    assert coordinator.snapshot().files_completed == 1
    assert coordinator.snapshot().state is RunState.RUNNING


def test_exact_counts_are_made_beforehand_and_kept(journal: Journal, tmp_path: Path) -> None:
    """The next run need not count again."""
    path = tmp_path / "x.fa"
    path.write_text(">a\nACGT\n")
    file = Input(str(path), str(path), str(path))
    earlier = journal.begin_plan([(file.path, file.real)])
    parts = looked_at([file], earlier, "exact")
    assert isinstance(parts, list)
    made = Listing(journal, parts, 1, "", 0.0)
    made.start(lambda: None)
    join()
    event = made.take()
    assert event is not None
    assert event.files == (SequenceFile(str(path), 1, 4),)
    known = journal.begin_plan([(file.path, file.real)])
    ((again,),) = looked_at([file], known, "exact")
    assert again.file == SequenceFile(str(path), 1, 4)
    assert not again.is_counted
