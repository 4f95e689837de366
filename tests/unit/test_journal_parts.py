"""What is told of a file that several workers shared: its parts, thefts, failures and the join."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import facts
from virnucpro_exporter.app.explain import explain_text
from virnucpro_exporter.app.status import status_json, status_text
from virnucpro_exporter.execution.log_lines import log_line
from virnucpro_exporter.files.lock import RunLock
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.history import AttemptSpan, Outcome
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.facts import Outcome as End
from virnucpro_exporter.scheduling.files import FilePart, SequenceFile
from virnucpro_exporter.scheduling.speed import DoneBefore

A, B = SequenceFile("in/a.fa", None, 100), SequenceFile("in/b.fa", None, 30)
SOURCES = [InputFile(A.path, 1000, 1), InputFile(B.path, 300, 1)]
FIRST, REST = FilePart(A.path, None, 51, None, 0, 510), FilePart(A.path, None, 49, None, 510, None)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    return outputs


@pytest.fixture
def journal(outputs: Outputs) -> Iterator[Journal]:
    """A run that goes on: one worker does a whole file, and then half of that of the other."""
    with closing(RunLock(outputs.lock)), closing(Journal(outputs)) as journal:
        journal.agree("this", keep=False)
        journal.plan(SOURCES)
        journal.begin("run 1", {}, now=50.0)
        journal.record([facts.started("0", 1, A), facts.started("1", 2, B)], 60.0)
        journal.record([facts.completed("1", 2, B, 5.0)], 65.0)
        journal.record([facts.split("0", 1, FIRST, REST, "1"), facts.started("1", 3, REST)], 66.0)
        ended = facts.ended("1", 3, REST, End.FAILED, "odd", started_at=66.0, is_charged=True)
        journal.record([ended, facts.queued("1", REST, "odd")], 70.0)
        yield journal


def go_on(journal: Journal) -> None:
    """The second half is tried again, and the first is done."""
    journal.record([facts.started("1", 4, REST)], 71.0)
    journal.record([facts.part_completed("0", 1, FIRST, 30.0)], 90.0)


def finish(journal: Journal) -> None:
    """The rest of it."""
    go_on(journal)
    journal.record([facts.part_completed("1", 4, REST, 25.0), facts.started("0", 5, A)], 96.0)
    done = facts.completed("0", 5, A, 2.0, sequences=6, residues=100, parts=2)
    journal.record([done], 98.0)


def test_a_file_in_process_says_who_does_which_range(journal: Journal, outputs: Outputs) -> None:
    """In the status and in its story, while parts wait and while they are in process."""
    folder = str(outputs.folder)
    waits = "in/a.fa: 1 failed attempt (last error: odd); 0 of 2 parts are done, GPU 0 processes "
    assert explain_text(folder, ["a.fa"]).startswith(f"{waits}0-51%, 1 part waits\n")
    assert "  in/a.fa: 0 of 2 parts done, 0 processes 0-51%\n" in status_text(folder)
    go_on(journal)
    assert "1 of 2 parts are done, GPU 1 processes 51-100%\n" in explain_text(folder, ["a.fa"])
    told = status_text(folder)
    assert "  in/a.fa: 1 of 2 parts done, 1 processes 51-100%\n" in told
    assert "  0: 0 files and 1 part, 3 sequences, 30.0 s\n" in told
    assert "  1: 1 file, 3 sequences, 5.0 s\n" in told
    assert json.loads(status_json(folder))["parts"] == {"completed": 1, "processing": 1}


def test_the_story_of_a_shared_file_is_told(journal: Journal, outputs: Outputs) -> None:
    """Ranges, attempts, thefts and the join, in the order in which they happened."""
    finish(journal)
    folder = str(outputs.folder)
    assert explain_text(folder, ["a.fa"]).splitlines() == [
        "in/a.fa: completed in 2 parts, joined on GPU 0",
        "  1970-01-01 00:01:00  GPU 0 began 0-51%",
        "  1970-01-01 00:01:06  GPU 0 gave 51-100% of it to GPU 1",
        "  1970-01-01 00:01:06  GPU 1 began 51-100%",
        "  1970-01-01 00:01:10  the attempt at 51-100% on GPU 1 failed: odd",
        "  1970-01-01 00:01:11  GPU 1 began 51-100%",
        "  1970-01-01 00:01:30  GPU 0 completed 0-51%",
        "  1970-01-01 00:01:36  GPU 1 completed 51-100%",
        "  1970-01-01 00:01:38  GPU 0 joined the results of 2 parts",
    ]
    told = status_text(folder)
    assert "  0: 1 file and 1 part, 3 sequences, 32.0 s\n" in told
    assert "  1: 1 file and 1 part, 6 sequences, 30.0 s\n" in told
    assert "in/a.fa" not in told


def test_attempts_at_parts_and_the_join_are_told_apart(journal: Journal, outputs: Outputs) -> None:
    """Each took its time; the join counts the file, the parts count its sequences."""
    finish(journal)
    done = Outcome.COMPLETED
    assert sorted(read_history(outputs.folder, now=200.0).attempts, key=lambda a: a.ended) == [
        AttemptSpan("1", B.path, 60.0, 65.0, done, 3, residues=30),
        AttemptSpan(
            *("1", A.path, 66.0, 70.0, Outcome.FAILED), error="odd", is_charged=True, is_part=True
        ),
        AttemptSpan("0", A.path, 60.0, 90.0, done, 3, residues=51, is_part=True),
        AttemptSpan("1", A.path, 71.0, 96.0, done, 3, residues=49, is_part=True),
        AttemptSpan("0", A.path, 96.0, 98.0, done, 0, residues=0, is_join=True),
    ]


def test_what_parts_cost_is_learned_and_not_what_joins_do(
    journal: Journal, outputs: Outputs
) -> None:
    """A join takes hardly any time for all the residues of its file."""
    finish(journal)
    with closing(Journal(outputs)) as later:
        later.agree("this", keep=False)
        assert sorted(later.done_before()) == [
            DoneBefore("0", 3, 51, 30.0),
            DoneBefore("1", 3, 30, 5.0),
            DoneBefore("1", 3, 49, 25.0),
        ]


def test_a_file_that_was_begun_is_in_process_for_the_next_run(
    journal: Journal, outputs: Outputs
) -> None:
    """Its parts that were in process when the run was killed are told to have been cut off."""
    go_on(journal)
    folder, attempt = str(outputs.folder), outputs.attempt_folder(1)
    attempt.mkdir()
    (attempt / "a").touch()
    with closing(Journal(outputs)) as later:
        later.plan(SOURCES)
        assert read_history(folder, now=200.0).counts == {"completed": 1, "processing": 1}
        later.record([facts.started("2", 5, REST)], 110.0)
        story = explain_text(folder, ["a.fa"])
    assert "1 of 2 parts are done, GPU 2 processes 51-100%\n" in story
    assert "the attempt at 51-100% on GPU 1 was cut off with the run" in story


@pytest.mark.parametrize(
    ("part", "is_left", "line"),
    [
        (FIRST, False, "GPU 0 gives 49% of 'in/a.fa' to GPU 1 (49 residues)"),
        (
            FilePart(A.path, None, 51, None, 5, 510),
            False,
            "GPU 0 gives 49% of its part of 'in/a.fa' to GPU 1 (49 residues)",
        ),
        (FIRST, True, "GPU 0 ends its part of 'in/a.fa'; 49% of it is left for the next run"),
    ],
)
def test_the_log_says_who_gives_what_to_whom(part: FilePart, line: str, *, is_left: bool) -> None:
    """A drain gives nothing to another worker."""
    _, text, values = log_line(facts.split("0", 1, part, REST, "1", is_left=is_left))
    assert text % values == line
    _, text, values = log_line(facts.completed("0", 5, A, 2.0, parts=2))
    assert text % values == "GPU 0 joined 2 parts of 'in/a.fa' in 2.0 s"


def test_what_was_given_is_told_as_it_was_then(journal: Journal, outputs: Outputs) -> None:
    """Later cuts do not change it, and a worker that goes on with a new part gives nothing."""
    folder = str(outputs.folder)
    journal.record([facts.started("1", 4, REST)], 71.0)
    second, third = (
        FilePart(A.path, None, 29, None, 510, 800),
        FilePart(A.path, None, 20, None, 800, None),
    )
    journal.record([facts.split("1", 4, second, third, "1"), facts.started("1", 5, third)], 80.0)
    told = explain_text(folder, ["a.fa"])
    assert "GPU 0 gave 51-100% of it to GPU 1" in told
    assert "GPU 1 began 51-80%" in told
    assert "GPU 1 began 80-100%" in told
    assert "to GPU 1\n" in told
    assert told.count(" gave ") == 1
