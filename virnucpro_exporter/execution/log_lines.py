"""The log line of each fact."""

from __future__ import annotations

from logging import DEBUG, ERROR, INFO, WARNING
from typing import NamedTuple

from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.text import counted
from virnucpro_exporter.text import device_words as _at


class Line(NamedTuple):
    """One log line as arguments of `logging.log`, which formats it only if its level is enabled."""

    level: int
    text: str
    values: tuple[object, ...] = ()


# Facts of every file: logged at level DEBUG.
ROUTINE = (fa.FileStarted, fa.AttemptEnded, fa.PartCompleted, fa.FileCompleted)

# Seconds between two lines about changes of the plan.
_PLAN_SECONDS = 60.0


class PlanLines:
    """Merges changes of the plan within a minute into one line."""

    def __init__(self) -> None:
        self._moves: tuple[fa.Moved, ...] = ()
        self._told_at = float("-inf")

    def join(self, change: fa.PlanChanged, now: float) -> fa.PlanChanged | None:
        """The change to log now, merged with those held back; None if this one is held back.

        Args:
            change: The change.
            now: Monotonic seconds.
        """
        self._moves += change.moves
        if now - self._told_at < _PLAN_SECONDS:
            return None
        self._told_at = now
        moves, self._moves = self._moves, ()
        return fa.PlanChanged(moves)


def log_line(fact: fa.Fact) -> Line:  # noqa: C901, PLR0911, PLR0912, RET503 - one line for each kind of fact
    """The line for a fact."""
    match fact:
        case fa.FileStarted(file, worker_id, attempt):
            return Line(DEBUG, "%s starts %r (attempt %d)", (_at(worker_id), file.path, attempt))
        case fa.AttemptEnded(attempt, worker_id, file, outcome, reason):
            values = (attempt, file.path, _at(worker_id), outcome.value, reason)
            return Line(DEBUG, "attempt %d at %r on %s: %s: %s", values)
        case fa.FileCompleted(file, worker_id, duration=duration, parts=parts) if parts:
            joined = _at(worker_id), parts, file.path, duration
            return Line(DEBUG, "%s joined %d parts of %r in %.1f s", joined)
        case fa.FileCompleted(file, worker_id, duration=duration):
            return Line(DEBUG, "%s completed %r in %.1f s", (_at(worker_id), file.path, duration))
        case fa.FileSplit():
            return _split(fact)
        case fa.PartCompleted(file, worker_id, duration=duration, residues=residues):
            done = _at(worker_id), residues, file.path, duration
            return Line(DEBUG, "%s completed %d residues of %r in %.1f s", done)
        case fa.FileQueued():
            return _queued(fact)
        case fa.FileFailed(file, failures=failures, error=error):
            times = counted(failures, "failed attempt")
            return Line(ERROR, "%r is given up after %s: %s", (file.path, times, error))
        case fa.FileStolen(file, victim, thief):
            return Line(DEBUG, "%s stole %r from %s", (_at(thief), file.path, _at(victim)))
        case fa.PlanChanged(moves):
            files = counted(len(moves), "file")
            return Line(INFO, "plan changed: %s moved to other workers", (files,))
        case fa.StallStarted(worker_id, path, silent_seconds):
            where = f" in {path!r}" if path else ""
            silence = f"no progress for {silent_seconds:.0f} s{where}"
            return Line(WARNING, "%s stalled: %s", (_at(worker_id), silence))
        case fa.StallEnded(worker_id, seconds):
            return Line(INFO, "%s recovered from a stall after %.0f s", (_at(worker_id), seconds))
        case fa.WorkerRestarted(worker_id, reason):
            return Line(WARNING, "%s: worker restarted: %s", (_at(worker_id), reason))
        case fa.WorkerRetired(worker_id, has_left=True):
            return Line(INFO, "%s left the run", (_at(worker_id),))
        case fa.WorkerRetired(worker_id, reason):
            return Line(ERROR, "%s is given up: %s", (_at(worker_id), reason))
        case fa.MemoryRanShort(worker_id, times):
            text = "%s ran out of memory (%s so far) and reduces its batch size"
            return Line(WARNING, text, (_at(worker_id), counted(times, "time")))
        case fa.RunFinished():
            return Line(DEBUG, "all files are done")
        case _:
            assert_never(fact)


def _split(fact: fa.FileSplit) -> Line:
    """The line for a part given to another worker, kept, or left to the next run."""
    total = fact.rest.residues + fact.part.residues
    given = f"{100 * fact.rest.residues / total:.0f}%"
    giver, path = _at(fact.worker_id), fact.part.path
    if fact.is_left:
        left = giver, path, given
        return Line(INFO, "%s ends its part of %r; %s of it is left for the next run", left)
    if fact.target == fact.worker_id:
        rest = giver, path, fact.rest.residues
        return Line(DEBUG, "%s ends its part of %r and continues with the rest (%d residues)", rest)
    where = "its part of " if fact.part.start or fact.rest.stop is not None else ""
    values = giver, given, where, path, _at(fact.target), fact.rest.residues
    return Line(INFO, "%s gives %s of %s%r to %s (%d residues)", values)


def _queued(fact: fa.FileQueued) -> Line:
    """A failed attempt is a warning; a moved file or a lost worker is not."""
    path, source = fact.file.path, _at(fact.ended_on)
    if fact.cause is fa.Outcome.MOVED:
        values = (path, source, _at(fact.worker_id), fact.reason)
        return Line(INFO, "%r moved from %s to %s: %s", values)
    if fact.is_charged:
        return Line(WARNING, "%r will be retried: %s: %s", (path, source, fact.reason))
    return Line(INFO, "%r is queued again: %s: %s", (path, source, fact.reason))
