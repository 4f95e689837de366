"""What is printed at the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import builders
from virnucpro_exporter.app.summary import summary_text
from virnucpro_exporter.snapshot import RunState, WorkerState


def test_totals_come_last_and_what_went_wrong_stands_beside_its_gpu() -> None:
    """A stalled and a lost GPU are named, for how long and how often."""
    run = builders.finished(2)
    stalled = replace(run.workers[0], stalls=2, stalled_seconds=96.0, restarts=1)
    stalled = replace(stalled, sequences_completed=9000)
    lost = replace(run.workers[1], state=WorkerState.LOST, lost_seconds=75.0)
    lines = summary_text(replace(run, workers=(stalled, lost))).splitlines()
    assert lines[0].endswith("busy  98%, stalled 2 times for 1m36s, 1 restart")
    assert lines[1].endswith("busy  98%, LOST for 1m15s")
    assert "files done" in lines[2]
    assert "9,000 sequences, 150 sequences/s" in lines[3]


def test_a_last_file_that_keeps_the_others_waiting_is_told() -> None:
    """In words, and only where it is worth one: a minute of an hour, or more, of a run."""
    run = builders.finished(8)
    ended = run.timestamp - 96.0
    early = tuple(replace(w, last_progress_time=ended) for w in run.workers[1:])
    last = replace(run.workers[0], last_progress_time=run.timestamp, attempts_moved=2)
    run = replace(run, workers=(last, *early), elapsed_seconds=900.0, state=RunState.COMPLETED)
    lines = summary_text(run).splitlines()
    assert lines[-1] == "the last file kept 7 of 8 GPUs waiting for 1m36s"
    assert lines[0].endswith("2 files taken back")
    assert "waiting" not in summary_text(replace(run, elapsed_seconds=9000.0))
    assert "waiting" not in summary_text(replace(run, state=RunState.FAILED))


def test_parts_are_told_beside_files() -> None:
    """Where a file was done in parts; its end, and no whole file, may have kept others waiting."""
    run = replace(builders.finished(2), parts_completed=5)
    ends = (run.timestamp, run.timestamp - 30.0)
    workers = tuple(
        replace(w, files_completed=1 - n, parts_completed=1 + 3 * n, last_progress_time=end)
        for n, (w, end) in enumerate(zip(run.workers, ends, strict=True))
    )
    lines = summary_text(replace(run, workers=workers)).splitlines()
    assert lines[0] == "  0             1 file,    1 part, busy  98%"
    assert lines[1] == "  1             0 files,  4 parts, busy  98%"
    assert lines[-1] == "the end of a file split into parts kept 1 of 2 GPUs waiting for 30s"


def test_residues_are_told_where_sequences_are_not_known() -> None:
    """A command that counts nothing has not done 0 sequences."""
    run = builders.finished(1)
    (worker,) = run.workers
    run = replace(run, workers=(replace(worker, sequences_completed=0, residues_processed=6000),))
    last = summary_text(run).splitlines()[-1]
    assert "6,000 residues, 100 residues/s" in last
    assert "sequences" not in last


@pytest.mark.parametrize(
    ("work", "busy", "ratio"),
    [
        ((1000, 1000), (60.0, 60.0), "1.00"),
        ((1000, 1000), (30.0, 60.0), "1.50"),
        ((1000, 0), (60.0, 0.0), "2.00"),
        ((1000, 0), (60.0, 60.0), "2.00"),
        ((0, 0), (60.0, 60.0), None),
    ],
)
def test_the_least_possible_counts_every_worker_and_is_never_more_than_it_took(
    work: tuple[int, int], busy: tuple[float, float], ratio: str | None
) -> None:
    """By what each did in a busy second; one that did nothing would have been as fast."""
    run = builders.finished(2)
    workers = tuple(
        replace(w, weight=1.0, residues_processed=done, busy_seconds=seconds)
        for w, done, seconds in zip(run.workers, work, busy, strict=True)
    )
    text = summary_text(replace(run, workers=workers, elapsed_seconds=60.0))
    found = None if "least" not in text else text.rpartition("; ")[2].split()[0]
    assert found == ratio


def test_a_slow_run_is_not_shown_as_idle() -> None:
    """Less than ten a second is shown in two digits, never as 0 where there was work."""
    run = builders.finished(1)
    (worker,) = run.workers
    run = replace(run, workers=(replace(worker, sequences_completed=1),), elapsed_seconds=3.2)
    assert "1 sequences, 0.31 sequences/s" in summary_text(run)


def test_the_time_of_a_stall_is_no_part_of_the_least_possible() -> None:
    """Two equal GPUs, one of which hung for half of the run, could have ended in 3/4 of it."""
    run = builders.finished(2)
    whole = replace(run.workers[0], residues_processed=2_000_000, busy_seconds=100.0)
    hung = replace(whole, residues_processed=1_000_000, stalls=1, stalled_seconds=50.0)
    run = replace(run, workers=(whole, hung), elapsed_seconds=100.0)
    assert "1.33 x the least possible (75.0 s)" in summary_text(run)
