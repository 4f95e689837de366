"""Commands and facts of plain values, as tests write them down."""

from __future__ import annotations

from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import FilePart, SequenceFile
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.scheduler import Decisions


def worker(worker_id: str) -> WorkerId:
    """An id."""
    return WorkerId(worker_id)


def number(attempt: int) -> AttemptNumber:
    """The number of an attempt."""
    return AttemptNumber(attempt)


def everything(decisions: Decisions) -> list[co.Command | fa.Fact]:
    """All that came of a turn."""
    return [*decisions.commands, *decisions.facts]


def start(worker_id: str, number: int, file: SequenceFile) -> co.StartAttempt:
    """The command."""
    return co.StartAttempt(WorkerId(worker_id), AttemptNumber(number), file)


def cancel(worker_id: str, number: int) -> co.CancelAttempt:
    """The command."""
    return co.CancelAttempt(WorkerId(worker_id), AttemptNumber(number))


def restart(worker_id: str) -> co.RestartWorker:
    """The command."""
    return co.RestartWorker(WorkerId(worker_id))


def started(worker_id: str, number: int, file: SequenceFile, *, second: bool = False) -> fa.Fact:
    """A file was handed to a worker."""
    return fa.FileStarted(file, WorkerId(worker_id), AttemptNumber(number), second)


def ended(
    worker_id: str,
    number: int,
    file: SequenceFile,
    outcome: fa.Outcome,
    reason: str = "",
    *,
    started_at: float | None = 0.0,
    is_charged: bool = False,
) -> fa.Fact:
    """An attempt is over."""
    attempt = AttemptNumber(number)
    return fa.AttemptEnded(
        attempt, WorkerId(worker_id), file, outcome, reason, started_at, (), is_charged
    )


def completed(
    worker_id: str,
    number: int,
    file: SequenceFile,
    duration: float,
    outputs: tuple[str, ...] = (),
    *,
    sequences: int | None = 3,
    residues: int = 30,
    parts: int = 0,
) -> fa.Fact:
    """A file has its result."""
    attempt = AttemptNumber(number)
    return fa.FileCompleted(
        file, WorkerId(worker_id), attempt, 1, duration, sequences, residues, outputs, parts
    )


def split(
    worker_id: str,
    number: int,
    part: FilePart,
    rest: FilePart,
    target: str,
    *,
    is_left: bool = False,
) -> fa.Fact:
    """A worker gave the end of its range away."""
    attempt, taker = AttemptNumber(number), WorkerId(target)
    return fa.FileSplit(part, rest, WorkerId(worker_id), attempt, taker, is_left)


def part_completed(worker_id: str, number: int, part: FilePart, duration: float) -> fa.Fact:
    """A part is done."""
    attempt, residues = AttemptNumber(number), part.residues
    return fa.PartCompleted(part, WorkerId(worker_id), attempt, 1, duration, 3, residues, ("a",))


def queued(
    worker_id: str,
    file: SequenceFile,
    reason: str,
    *,
    cause: fa.Outcome = fa.Outcome.FAILED,
    is_charged: bool = True,
) -> fa.Fact:
    """A file waits again after its first attempt."""
    return fa.FileQueued(
        file, WorkerId(worker_id), cause, reason, WorkerId(worker_id), 1, is_charged
    )


def failed(worker_id: str, file: SequenceFile, error: str, failures: int = 1) -> fa.FileFailed:
    """A file is given up."""
    return fa.FileFailed(file, WorkerId(worker_id), failures, failures, failures, error)


def stolen(file: SequenceFile, victim: str, thief: str) -> fa.Fact:
    """A file went to a thief."""
    return fa.FileStolen(file, WorkerId(victim), WorkerId(thief))


def stall(worker_id: str, path: str | None, silent: float) -> fa.Fact:
    """A worker stalls."""
    return fa.StallStarted(WorkerId(worker_id), path, silent)


def stall_ended(worker_id: str, seconds: float) -> fa.Fact:
    """A worker stalls no more."""
    return fa.StallEnded(WorkerId(worker_id), seconds)
