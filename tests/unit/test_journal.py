from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import facts
from virnucpro_exporter.errors import JournalError, OutputError, VirnucproError
from virnucpro_exporter.files.lock import RunLock
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal import database, writer
from virnucpro_exporter.journal.earlier import InputFile, Resumed
from virnucpro_exporter.journal.results import is_result, result_names
from virnucpro_exporter.journal.schema import Committed
from virnucpro_exporter.journal.status import GpuTotals, RunStatus, read_status
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.facts import Fact
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.speed import DoneBefore

PATHS = ["in/a b.fa", "in/quo'te\".fa", "in/new\nline.fa", "in/caf\udce9.fa"]
SOURCES = [InputFile(path, 10 + i, 1_000 + i) for i, path in enumerate(PATHS)]


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = Outputs(tmp_path / "out ?#%41 caf\udce9")
    outputs.prepare()
    return outputs


@pytest.fixture
def journal(outputs: Outputs) -> Iterator[Journal]:
    with closing(Journal(outputs)) as journal:
        journal.begin("run 1", {"balancer": "stealing"}, now=50.0)
        yield journal


def start(journal: Journal, path: str, attempt: int) -> None:
    journal.record([facts.started("cpu0", attempt, SequenceFile(path))], now=100.0)


def committing(path: str, attempt: int, *names: str) -> Fact:
    return facts.completed("cpu0", attempt, SequenceFile(path), 2.5, names)


def write(outputs: Outputs, attempt: int, *names: str) -> None:
    outputs.attempt_folder(attempt).mkdir()
    for name in names:
        (outputs.attempt_folder(attempt) / name).write_text(repr(name))


def complete(journal: Journal, outputs: Outputs, path: str, attempt: int, *names: str) -> None:
    write(outputs, attempt, *names)
    start(journal, path, attempt)
    journal.record([committing(path, attempt, *names)], now=101.0)
    outputs.commit(attempt, names)
    journal.record([Committed(path)], now=102.0)


def resume(outputs: Outputs, sources: list[InputFile] = SOURCES) -> Resumed:
    with closing(Journal(outputs)) as journal:
        return journal.plan(sources)


def test_every_path_survives(journal: Journal, outputs: Outputs) -> None:
    """Paths of any bytes are found again as they were."""
    journal.plan(SOURCES)
    for attempt, path in enumerate(PATHS, 1):
        complete(journal, outputs, path, attempt, f"{Path(path).name}.out")
    resumed = resume(outputs)
    assert resumed.done == set(PATHS)
    assert resumed.counts == dict.fromkeys(PATHS, (3, 30))


@pytest.mark.parametrize(("processor", "is_known"), [("b 2", False), ("a 1", True)])
def test_what_files_cost_is_kept_for_the_same_processor(
    journal: Journal, outputs: Outputs, processor: str, *, is_known: bool
) -> None:
    """A run with another one learns nothing from it."""
    journal.agree("a 1", keep=True)
    journal.plan(SOURCES)
    complete(journal, outputs, PATHS[0], 1, "a.out")
    with closing(Journal(outputs)) as later:
        later.agree(processor, keep=True)
        assert later.done_before() == [DoneBefore("cpu0", 3, 30, 2.5)] * is_known


@pytest.mark.parametrize(
    ("source", "is_done"),
    [
        (SOURCES[0], True),
        (SOURCES[0]._replace(size=99), False),
        (SOURCES[0]._replace(mtime_ns=99), False),
    ],
)
def test_a_changed_input_is_done_again(
    journal: Journal, outputs: Outputs, source: InputFile, *, is_done: bool
) -> None:
    """A finished file counts as done, and its counts as known, only while it is unchanged."""
    journal.plan(SOURCES[:1])
    complete(journal, outputs, PATHS[0], 1, "a.out")
    resumed = resume(outputs, [source])
    assert (PATHS[0] in resumed.done) == (PATHS[0] in resumed.counts) == is_done


def test_a_removed_output_is_made_again(journal: Journal, outputs: Outputs) -> None:
    """A finished file one of whose outputs is gone is done again, without a new count."""
    journal.plan(SOURCES[:1])
    complete(journal, outputs, PATHS[0], 1, "a.out", "b.out")
    (outputs.folder / "b.out").unlink()
    resumed = resume(outputs)
    assert not resumed.done
    assert resumed.counts == {PATHS[0]: (3, 30)}


@pytest.mark.parametrize("moved", range(3))
def test_a_crash_within_a_commit_is_finished(
    journal: Journal, outputs: Outputs, moved: int
) -> None:
    """A file whose result was decided is never run again, wherever the moves stopped."""
    names = ("a.out", "b.out")
    journal.plan(SOURCES[:1])
    write(outputs, 1, *names)
    start(journal, PATHS[0], 1)
    journal.record([committing(PATHS[0], 1, *names)], now=101.0)
    for name in names[:moved]:
        (outputs.attempt_folder(1) / name).rename(outputs.folder / name)
    assert resume(outputs).done == {PATHS[0]}
    assert outputs.names() == {*names, ".virnucpro"}
    assert outputs.left_attempts() == set()


def test_a_crash_before_the_commit_repeats_the_file(journal: Journal, outputs: Outputs) -> None:
    """What an undecided attempt wrote is removed, and its number never used again."""
    journal.plan(SOURCES[:1])
    write(outputs, 5, "a.out")
    start(journal, PATHS[0], 5)
    resumed = resume(outputs)
    assert not resumed.done
    assert resumed.interrupted == {PATHS[0]}
    assert outputs.left_attempts() == set()
    with closing(Journal(outputs, fresh=True)) as fresh:
        assert fresh.next_attempt() == 6


def test_room_is_made_before_anything_is_written(
    journal: Journal, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a dead run left is removed although the disk is full; what it was keeping stays."""
    journal.plan(SOURCES[:1])
    write(outputs, 1, "a.out")
    write(outputs, 2, "b.out")
    start(journal, PATHS[0], 1)
    journal.record([committing(PATHS[0], 1, "a.out")], now=101.0)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(writer, "take_over", full)
    with pytest.raises(JournalError, match="disk is full"):
        Journal(outputs)
    assert outputs.left_attempts() == {1}


def test_the_journal_is_private(journal: Journal, outputs: Outputs) -> None:
    """Only the owner can read it, since it holds the arguments of commands; old ones as well."""
    files = list(outputs.hidden.glob("journal*"))
    assert len(files) == 3
    for file in files:
        file.chmod(0o644)
    journal.close()
    with closing(Journal(outputs)):
        assert {file.stat().st_mode & 0o777 for file in outputs.hidden.glob("journal*")} == {0o600}


def test_a_file_system_without_shared_memory(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the journal is locked by the run alone, and can be read all the same."""
    real = database._open

    def refusing(outputs: Outputs, *, is_exclusive: bool) -> sqlite3.Connection:
        if not is_exclusive:
            raise sqlite3.OperationalError("disk I/O error")
        return real(outputs, is_exclusive=True)

    monkeypatch.setattr(database, "_open", refusing)
    with closing(RunLock(outputs.lock)), closing(Journal(outputs)) as journal:
        journal.begin("run 1", {}, now=50.0)
        journal.plan(SOURCES)
        assert not outputs.journal.with_name("journal.sqlite-shm").exists()
        assert read_status(outputs.folder).counts == {"queued": 4}


HERE = InputFile("in/a.fa", 1, 1, "/home/in/a.fa")


def test_a_file_is_the_same_however_its_path_is_spelled(journal: Journal, outputs: Outputs) -> None:
    """It stays done, and is shown as the last run called it; another file may take the old path."""
    journal.plan([HERE])
    complete(journal, outputs, HERE.path, 1, "a.out")
    linked = HERE._replace(path="/link/a.fa")
    assert resume(outputs, [linked]).done == {"/link/a.fa"}
    elsewhere = InputFile(HERE.path, 1, 1, "/elsewhere/in/a.fa")
    assert resume(outputs, [elsewhere, linked]).done == {"/link/a.fa"}
    swapped = [elsewhere._replace(path="/link/a.fa"), HERE]
    assert resume(outputs, swapped).done == {HERE.path}
    paths = "SELECT path FROM files ORDER BY path"
    with closing(sqlite3.connect(outputs.journal)) as database:
        assert [row[0] for row in database.execute(paths)] == [b"/link/a.fa", b"in/a.fa"]


def test_a_result_of_another_input_is_never_replaced(journal: Journal, outputs: Outputs) -> None:
    """A name belongs to its input, also while that is done again, until the result is removed."""
    journal.plan([HERE])
    complete(journal, outputs, HERE.path, 1, "a.out")
    other = InputFile("d2/a.fa", 5, 5, "/home/d2/a.fa")
    with pytest.raises(OutputError, match=r"a.out' is the result of '/home/in/a.fa'.*'d2/a.fa'"):
        journal.plan([other], lambda _: ["a.out"])
    journal.plan([HERE._replace(size=2), other])
    assert journal.refusal("a.out", HERE.path) is None
    assert (
        journal.refusal("a.out", other.path) == "'a.out' is already the result of '/home/in/a.fa'"
    )
    (outputs.folder / "a.out").unlink()
    assert journal.refusal("a.out", other.path) is None
    complete(journal, outputs, other.path, 2, "a.out")
    assert resume(outputs, [HERE, other]).done == {other.path}


def test_an_input_of_an_earlier_run_is_never_replaced(journal: Journal, outputs: Outputs) -> None:
    """A result may not take the name of a file that lies in the output folder and was an input."""
    (outputs.folder / "a.fa").touch()
    inside = InputFile("a.fa", 1, 1, str(outputs.folder / "a.fa"))
    journal.plan([inside])
    with pytest.raises(OutputError, match="would overwrite the input"):
        journal.plan([InputFile("b.fa", 1, 1)], lambda _: ["a.fa"])


def test_a_run_that_is_refused_changes_nothing(journal: Journal, outputs: Outputs) -> None:
    """What failed before is still known as failed, and what was in process as that."""
    failed, begun = (InputFile(f"{name}.fa", 1, 1, f"/{name}.fa") for name in ("b", "c"))
    journal.plan([HERE, failed, begun])
    complete(journal, outputs, HERE.path, 1, "a.out")
    start(journal, failed.path, 2)
    journal.record([facts.failed("cpu0", SequenceFile(failed.path), "odd")], now=101.0)
    start(journal, begun.path, 3)
    before = read_status(outputs.folder)
    again = [(file.path, file.real) for file in (failed, begun)]
    with pytest.raises(OutputError, match="is the result of"):
        journal.begin_plan(again, lambda _: ["a.out"])
    assert read_status(outputs.folder) == before
    assert before.counts == {"completed": 1, "failed": 1, "processing": 1}


def test_inputs_that_are_gone_are_no_failures(
    journal: Journal, outputs: Outputs, tmp_path: Path
) -> None:
    """A file that failed and was removed since no longer counts as failed; another one does."""
    here = tmp_path / "here.fa"
    here.touch()
    journal.plan([InputFile("gone.fa", 1, 1, "/gone.fa"), InputFile(str(here), 1, 1)])
    for number, path in enumerate(("gone.fa", str(here)), 1):
        start(journal, path, number)
        journal.record([facts.failed("cpu0", SequenceFile(path), "odd")], now=101.0)
    journal.plan([HERE])
    assert read_status(outputs.folder).counts == {"failed": 1, "gone": 1, "queued": 1}


def test_an_old_journal_is_taken_over(
    journal: Journal, outputs: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its paths are followed; where two inputs shared a result, the later one is done."""
    monkeypatch.chdir(tmp_path)
    sources = [InputFile(path, 1, 1) for path in ("d1/a.fa", "d2/a.fa", "./d3/a.fa")]
    journal.plan(sources)
    for number, source in enumerate(sources, 1):
        complete(journal, outputs, source.path, number, "b.out" if number == 3 else "a.out")
    with closing(sqlite3.connect(outputs.journal)) as database, database:
        database.executescript(
            "UPDATE files SET started = attempt; DROP TABLE results; DROP INDEX files_by_real;"
            "ALTER TABLE files DROP COLUMN real; UPDATE meta SET value = 2 WHERE key = 'schema'"
        )
    assert result_names(outputs.folder) == {"a.out", "b.out"}
    now = [s._replace(path=f"/x/{s.path}", real=os.path.realpath(s.path)) for s in sources]
    assert resume(outputs, now).done == {"/x/d2/a.fa", "/x/./d3/a.fa"}


def test_results_stay_known_when_files_are_forgotten(journal: Journal, outputs: Outputs) -> None:
    """After --fresh a result may be replaced by any input, and is never taken for an input."""
    journal.plan([HERE])
    complete(journal, outputs, HERE.path, 1, "a.out")
    with closing(Journal(outputs, fresh=True)) as fresh:
        fresh.plan([InputFile("d2/a.fa", 5, 5)], lambda _: ["a.out"])
    assert result_names(outputs.folder) == {"a.out"}
    assert is_result(outputs.folder / "a.out")
    assert not is_result(outputs.folder / "mine.fa")


def test_fresh_forgets_files_but_keeps_outputs(journal: Journal, outputs: Outputs) -> None:
    """A fresh run does every file again; what is there stays until it is replaced."""
    journal.plan(SOURCES[:1])
    complete(journal, outputs, PATHS[0], 1, "a.out")
    with closing(Journal(outputs, fresh=True)) as fresh:
        assert not fresh.plan(SOURCES[:1]).done
    assert (outputs.folder / "a.out").exists()


def test_counts_survive_without_a_result(journal: Journal, outputs: Outputs) -> None:
    """Exact counts are known to the next run even of files that were never started."""
    journal.plan(SOURCES)
    journal.add_counts({PATHS[3]: (2, 20)})
    assert resume(outputs).counts == {PATHS[3]: (2, 20)}


def test_status_of_a_dead_run(journal: Journal, outputs: Outputs) -> None:
    """The status shows every state, error, steal and total, and leaves no trace."""
    journal.plan(SOURCES)
    complete(journal, outputs, PATHS[0], 1, "a.out")
    bad = SequenceFile(PATHS[3])
    journal.record(
        [
            facts.started("cpu1", 2, bad),
            facts.queued("cpu1", bad, "odd"),
            facts.stolen(bad, "cpu1", "cpu0"),
            facts.started("cpu0", 3, bad),
            facts.failed("cpu0", bad, "bytes caf\udce9", 2),
            facts.started("cpu0", 4, SequenceFile(PATHS[1])),
        ],
        now=103.0,
    )
    before = {path.name: path.read_bytes() for path in outputs.hidden.glob("journal*")}
    assert read_status(outputs.folder) == RunStatus(
        is_active=False,
        run_id="run 1",
        state="interrupted",
        started=50.0,
        ended=None,
        settings={"balancer": "stealing"},
        counts={"completed": 1, "failed": 1, "processing": 1, "queued": 1},
        failed=((PATHS[3], "bytes caf\\udce9"),),
        gpus=(GpuTotals("cpu0", 1, 3, 2.5, 30),),
        steals=1,
        was_killed=True,
    )
    assert {path.name: path.read_bytes() for path in outputs.hidden.glob("journal*")} == before


def test_status_of_a_run_that_is_going_on(journal: Journal, outputs: Outputs) -> None:
    """A run that holds the lock is shown as active, with what it last wrote."""
    with closing(RunLock(outputs.lock)):
        journal.plan(SOURCES)
        start(journal, PATHS[2], 1)
        status = read_status(outputs.folder)
    assert (status.is_active, status.state) == (True, "running")
    assert status.counts == {"processing": 1, "queued": 3}


def test_a_run_of_another_machine(
    journal: Journal, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal is only copied, since SQLite shares memory with it; a second run names it."""
    uname = os.uname()
    there = os.uname_result((uname.sysname, "there", *uname[2:]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: there)
        lock = RunLock(outputs.lock)
    with closing(lock):
        journal.plan(SOURCES)
        before = {path.name: path.read_bytes() for path in outputs.hidden.glob("journal*")}
        assert read_status(outputs.folder).is_active
        with pytest.raises(OutputError, match=rf"process {os.getpid()} on there"):
            RunLock(outputs.lock)
        after = {path.name: path.read_bytes() for path in outputs.hidden.glob("journal*")}
    assert after == before


def test_a_file_system_without_locks(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to do, as on Lustre without the mount option."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="without file locks"):
        RunLock(outputs.lock)


def test_a_vanished_folder_is_one_clear_line(journal: Journal, outputs: Outputs) -> None:
    """A run whose output folder was removed says so."""
    outputs.folder.rename(outputs.folder.with_name("elsewhere"))
    with pytest.raises(VirnucproError, match=r"\A[^\n]*out[^\n]*\Z"):
        journal.plan(SOURCES)


def test_status_of_a_finished_run(outputs: Outputs) -> None:
    """The end of a run is shown with its time."""
    with closing(Journal(outputs)) as journal:
        journal.begin("run 1", {}, now=50.0)
        journal.finish("finished", now=60.0)
    status = read_status(outputs.folder)
    assert (status.state, status.ended) == ("finished", 60.0)


def test_status_without_a_journal(tmp_path: Path) -> None:
    """A folder that no run has used is one clear line."""
    with pytest.raises(OutputError, match="no run has used"):
        read_status(tmp_path)


def test_a_journal_is_made_whole_or_not_at_all(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends while it makes its journal leaves no table, and readers call it unused."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "take_over", end)
        with pytest.raises(KeyboardInterrupt):
            Journal(outputs)
    with closing(sqlite3.connect(outputs.journal)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
    with pytest.raises(OutputError, match="no run has used"):
        read_status(outputs.folder)
    Journal(outputs).close()  # and ends again, before it has begun
    with pytest.raises(OutputError, match="no run has used"):
        read_status(outputs.folder)


def test_a_newer_journal_is_refused(outputs: Outputs) -> None:
    """Neither a run nor a status touches the journal of a newer version."""
    Journal(outputs).close()
    with closing(sqlite3.connect(outputs.journal)) as database, database:
        database.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    for use in (lambda: Journal(outputs), lambda: read_status(outputs.folder)):
        with pytest.raises(OutputError, match="schema 99"):
            use()


def test_a_corrupt_journal_is_one_clear_line(outputs: Outputs) -> None:
    """A file that is not a journal is named, with what to do about it."""
    outputs.journal.write_bytes(b"not a database" * 1000)
    for use in (lambda: Journal(outputs), lambda: read_status(outputs.folder)):
        with pytest.raises(OutputError, match=r"\A[^\n]*not a database; delete it[^\n]*\Z"):
            use()


def test_numbers_of_attempts_are_kept_before_they_start(outputs: Outputs) -> None:
    """A run that was killed before a start was on record leaves no number to be given twice."""
    with closing(Journal(outputs)) as journal:
        journal.reserve_attempts(7)
    with closing(Journal(outputs)) as journal:
        assert journal.next_attempt() > 7


def test_a_start_and_a_result_in_one_transaction(journal: Journal, outputs: Outputs) -> None:
    """What is on record is the same as if each had been written on its own."""
    journal.plan(SOURCES[:2])
    one, two = (SequenceFile(path) for path in PATHS[:2])
    journal.record(
        [
            facts.started("cpu0", 4, one),
            facts.started("cpu0", 5, two),
            facts.completed("cpu0", 4, one, 2.5, ("a.out",)),
        ],
        now=100.0,
    )
    write(outputs, 4, "a.out")
    assert journal.plan(SOURCES[:2]) == Resumed(
        frozenset(PATHS[:1]), frozenset(PATHS[1:2]), {PATHS[0]: (3, 30)}
    )
    assert journal.next_attempt() == 6
