"""What workers say, of plain values, as tests write it down."""

from __future__ import annotations

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId


def loading(worker_id: str) -> ev.WorkerLoading:
    """A process was started."""
    return ev.WorkerLoading(WorkerId(worker_id))


def ready(worker_id: str, *, can_split: bool = False, cuts_first: bool = False) -> ev.WorkerReady:
    """It can take files."""
    return ev.WorkerReady(WorkerId(worker_id), can_split, cuts_first)


def shrunk(
    worker_id: str, attempt: int, cut: tuple[int, int, int] | None, *, is_final: bool = False
) -> ev.AttemptShrunk:
    """It stops at the first, has read up to the second, and would have stopped at the third."""
    where = None if cut is None else ev.Cut(*cut)
    return ev.AttemptShrunk(WorkerId(worker_id), AttemptNumber(attempt), where, is_final)


def requested(worker_id: str) -> ev.WorkRequested:
    """A thread asks for a file."""
    return ev.WorkRequested(WorkerId(worker_id))


def started(worker_id: str, attempt: int) -> ev.AttemptStarted:
    """It began the file."""
    return ev.AttemptStarted(WorkerId(worker_id), AttemptNumber(attempt))


def progress(
    worker_id: str, attempt: int, sequences: int, residues: int | None = None
) -> ev.Progress:
    """It got further."""
    return ev.Progress(WorkerId(worker_id), AttemptNumber(attempt), sequences, residues)


def alive(worker_id: str, attempt: int) -> ev.SignOfLife:
    """Its processes work."""
    return ev.SignOfLife(WorkerId(worker_id), AttemptNumber(attempt))


def completed(
    worker_id: str,
    attempt: int,
    sequences: int | None,
    residues: int | None,
    duration: float,
    outputs: tuple[str, ...] = (),
) -> ev.AttemptCompleted:
    """It has done the file."""
    number = AttemptNumber(attempt)
    return ev.AttemptCompleted(WorkerId(worker_id), number, sequences, residues, duration, outputs)


def failed(
    worker_id: str, attempt: int, error: str, *, permanent: bool = False, storage: bool = False
) -> ev.AttemptFailed:
    """It could not do the file."""
    return ev.AttemptFailed(WorkerId(worker_id), AttemptNumber(attempt), error, permanent, storage)


def lost(
    worker_id: str,
    reason: str,
    cause: ev.LossCause = ev.LossCause.DIED_PROCESSING,
    running: int | None = None,
) -> ev.WorkerLost:
    """Its process is gone."""
    number = None if running is None else AttemptNumber(running)
    return ev.WorkerLost(WorkerId(worker_id), reason, cause, number)


def joined(worker_id: str, name: str = "", weight: float = 1.0) -> ev.WorkerJoined:
    """It was not there before."""
    return ev.WorkerJoined(WorkerId(worker_id), name, weight)
