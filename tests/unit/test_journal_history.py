from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders, facts
from virnucpro_exporter.files.lock import RunLock
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.history import AttemptSpan, Outcome, RunPeriod, StallSpan, WorkerTotals
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.files_table import read_files
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.facts import Outcome as End
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.snapshot import StealEvent

PATHS = ["in/a.fa", "in/b.fa", "in/caf\udce9.fa"]
SOURCES = [InputFile(path, 10, 1_000) for path in PATHS]
A, B, C = map(SequenceFile, PATHS)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    return outputs


@pytest.fixture
def journal(outputs: Outputs) -> Iterator[Journal]:
    """A run that began at 50 s."""
    with closing(Journal(outputs)) as journal:
        journal.plan(SOURCES)
        journal.begin("run 1", {}, now=50.0)
        yield journal


def complete(journal: Journal, file: SequenceFile, attempt: int, now: float) -> None:
    journal.record([facts.completed("0", attempt, file, 2.5)], now)


def test_everything_that_took_time_is_remembered(journal: Journal, outputs: Outputs) -> None:
    """The winner has its own start; the other attempts, steals, stalls and totals are all there."""
    journal.record([facts.stolen(A, "1", "0"), facts.started("0", 1, A)], 60.0)
    journal.record([facts.started("1", 2, A)], 69.0)  # a second attempt, which comes too late
    complete(journal, A, 1, now=70.0)
    journal.record(
        [
            facts.ended("1", 2, A, End.SUPERSEDED, "0 was first", started_at=9.0),
            facts.ended("1", 3, C, End.FAILED, "odd caf\udce9", started_at=10.0, is_charged=True),
            facts.ended("1", 4, B, End.WORKER_LOST, "gone", started_at=None),
            facts.stall("1", C.path, 5.0),
            facts.stall("0", None, 5.0),
        ],
        75.0,
        offset=60.0,
    )
    journal.record([facts.stall_ended("1", 5.0)], 80.0)
    worker = replace(builders.worker(0), starved_seconds=6.0, restarts=2)
    journal.note_workers(replace(builders.running(), workers=(worker,)), 70.0)
    journal.note_workers(replace(builders.running(), workers=(worker,)), 90.0)
    journal.finish("completed", 95.0)
    _, files = read_files(outputs.folder)  # the attempt at B was lost before it began
    assert {file.path: file.failures for file in files} == dict(zip(PATHS, (0, 0, 1), strict=True))
    found = read_history(outputs.folder, now=1000.0)
    assert found.runs == (RunPeriod("run 1", "completed", 50.0, 95.0),)
    assert set(found.attempts) == {
        AttemptSpan("0", A.path, 67.5, 70.0, Outcome.COMPLETED, 3, residues=30),
        AttemptSpan(
            "1", A.path, 69.0, 75.0, Outcome.SUPERSEDED, error="0 was first", is_charged=False
        ),
        AttemptSpan(
            "1", C.path, 70.0, 75.0, Outcome.FAILED, error="odd caf\\udce9", is_charged=True
        ),
    }
    assert found.steals == (StealEvent(60.0, "1", "0", "a.fa"),)
    assert set(found.stalls) == {StallSpan("1", 75.0, 80.0), StallSpan("0", 75.0, 95.0)}
    assert found.workers == (WorkerTotals("run 1", "0", "NVIDIA A100-SXM4-80GB", 6.0, 2),)
    assert found.counts == {"completed": 1, "queued": 2}


def test_a_run_that_goes_on_lasts_until_now(journal: Journal, outputs: Outputs) -> None:
    """A file in process takes until now while the run holds the lock."""
    journal.record([facts.started("0", 1, A)], 60.0)
    with closing(RunLock(outputs.lock)):
        found = read_history(outputs.folder, now=100.0)
    assert found.runs == (RunPeriod("run 1", "running", 50.0, 100.0),)
    assert found.attempts == (AttemptSpan("0", A.path, 60.0, 100.0, Outcome.RUNNING),)


def test_a_killed_run_ends_where_it_was_last_heard_of(journal: Journal, outputs: Outputs) -> None:
    """The files of a killed run were cut off, before and after it is resumed."""
    journal.record([facts.started("0", 1, A)], 60.0)
    journal.note_workers(builders.running(1), 65.0)
    cut = AttemptSpan("0", A.path, 60.0, 65.0, Outcome.INTERRUPTED)
    killed = RunPeriod("run 1", "interrupted", 50.0, 65.0)
    found = read_history(outputs.folder, now=1000.0)
    assert (found.runs, found.attempts) == ((killed,), (cut,))
    with closing(Journal(outputs)) as second:
        second.plan(SOURCES)
        second.begin("run 2", {"metrics_log": "m.csv"}, now=500.0)
        second.record([facts.started("1", 2, A)], 505.0)
        complete(second, A, 2, now=510.0)
        second.finish("completed", 520.0)
    found = read_history(outputs.folder, now=1000.0)
    assert found.runs == (killed, RunPeriod("run 2", "completed", 500.0, 520.0))
    assert set(found.attempts) == {
        cut,
        AttemptSpan("0", A.path, 507.5, 510.0, Outcome.COMPLETED, 3, residues=30),
    }
    assert found.settings == {"metrics_log": "m.csv"}


def test_fresh_forgets_the_history(journal: Journal, outputs: Outputs) -> None:
    """After a fresh start only the new run is told of."""
    journal.record([facts.started("0", 1, A), facts.stall("0", A.path, 5.0)], 60.0)
    journal.note_workers(builders.running(1), 65.0)
    with closing(Journal(outputs, fresh=True)) as fresh:
        fresh.plan(SOURCES)
        fresh.begin("run 2", {}, now=500.0)
    found = read_history(outputs.folder, now=1000.0)
    assert [run.run_id for run in found.runs] == ["run 2"]
    assert (found.attempts, found.stalls, found.workers) == ((), (), ())


def test_the_journal_of_an_older_version_is_read_and_taken_over(
    journal: Journal, outputs: Outputs
) -> None:
    """Schema 1 has no history of attempts: it is read without, and a run adds the tables."""
    journal.record([facts.started("0", 1, A)], 60.0)
    complete(journal, A, 1, now=70.0)
    journal.finish("completed", 71.0)
    with closing(sqlite3.connect(outputs.journal)) as database, database:
        for table in ("attempts", "stalls", "workers"):
            database.execute(f"DROP TABLE {table}")
        database.execute("UPDATE meta SET value = 1 WHERE key = 'schema'")
    found = read_history(outputs.folder, now=1000.0)
    assert (len(found.attempts), found.stalls, found.workers) == (1, (), ())
    with closing(Journal(outputs)) as newer:
        source = SOURCES[0]._replace(real=os.path.realpath(A.path))
        assert newer.plan([source]).done == {A.path}
        newer.note_workers(builders.running(1), 80.0)
    with closing(sqlite3.connect(outputs.journal)) as database:
        assert database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (5,)


def test_a_run_that_goes_on_ends_at_its_own_last_moment(journal: Journal, outputs: Outputs) -> None:
    """A reader whose clock is behind loses nothing of it."""
    journal.record([facts.started("0", 1, A)], 60.0)
    complete(journal, A, 1, now=80.0)
    with closing(RunLock(outputs.lock)):
        (run,) = read_history(outputs.folder, now=70.0).runs
    assert (run.state, run.ended) == ("running", 80.0)
