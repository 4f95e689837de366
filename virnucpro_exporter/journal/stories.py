"""What happened to one file, in the order in which it happened: from the facts in the journal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virnucpro_exporter.errors import InputError, assert_never
from virnucpro_exporter.history import AttemptSpan, Outcome
from virnucpro_exporter.journal.history import outcome_of
from virnucpro_exporter.journal.ranges import Range, ranges_of, words_of
from virnucpro_exporter.journal.reader import read_journal, rows
from virnucpro_exporter.text import device_words


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a file.

    Attributes:
        time: When (Unix seconds).
        text: What, in words.
    """

    time: float
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """One file, and what happened to it.

    Attributes:
        path: The file.
        state: Its state.
        is_active: A run is going on now.
        error: Why it failed last, or empty.
        gpu: The worker that has it or had it last, or empty.
        since: When that attempt began (Unix seconds), or None.
        failures: Attempts that counted against the limit.
        limit: Failures after which the last run gives a file up, or None where that is not noted.
        waiting: Files that wait in all queues.
        larger: Those that are known to be larger, which go first; None where sizes are not known.
        processing: Files in process.
        parts: Its parts in order; none where it is or was done whole.
        moments: What happened, oldest first.
    """

    path: str
    state: str
    is_active: bool
    error: str
    gpu: str
    since: float | None
    failures: int
    limit: int | None
    waiting: int
    larger: int | None
    processing: int
    parts: tuple[Range, ...]
    moments: tuple[Moment, ...]


def read_stories(folder: str | os.PathLike[str], files: Sequence[str]) -> list[Story]:
    """The history of these files in the journal of an output folder.

    Args:
        folder: The output folder.
        files: Paths as they were given to the run or as they lead there, or names without folder.

    Raises:
        InputError: The journal has no such file, or several of this name.
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    return read_journal(
        folder,
        lambda database, is_active: [
            _story(database, _find(database, name), is_active=is_active) for name in files
        ],
    )


def _find(database: sqlite3.Connection, name: str) -> bytes:
    for spelled in (name, os.path.abspath(name)):  # noqa: PTH100 - bytes that are no text stay
        wanted = "WHERE path = ? OR real = ?"
        values = (os.fsencode(spelled), os.fsencode(os.path.realpath(spelled)))
        if _has_real(database):
            found = database.execute(f"SELECT path FROM files {wanted}", values).fetchone()  # noqa: S608 - our own
        else:
            found = database.execute("SELECT path FROM files WHERE path = ?", values[:1]).fetchone()
        if found:
            path: bytes = found[0]
            return path
    ending, paths = b"/" + os.fsencode(name), database.execute("SELECT path FROM files")
    named: list[bytes] = [p for (p,) in paths if (b"/" + p).endswith(ending)]
    if not named:
        raise InputError(f"{name!r} was not an input of any run into this folder")
    if len(named) > 1:
        shown = ", ".join(repr(os.fsdecode(path)) for path in sorted(named)[:3])
        raise InputError(f"{len(named)} files are named {name!r} ({shown}): give the path")
    return named[0]


def _has_real(database: sqlite3.Connection) -> bool:
    return any(row[1] == "real" for row in database.execute("PRAGMA table_info(files)"))


def _story(database: sqlite3.Connection, path: bytes, *, is_active: bool) -> Story:
    state, gpu, started, residues, error = database.execute(
        "SELECT state, gpu, started, residues, error FROM files WHERE path = ?", (path,)
    ).fetchone()
    counts = dict(database.execute("SELECT state, count(*) FROM files GROUP BY state"))
    larger = None
    if residues is not None:
        (larger,) = database.execute(
            "SELECT count(*) FROM files WHERE state = 'queued' AND residues > ?", (residues,)
        ).fetchone()
    parts = ranges_of(database, _real(database, path))
    attempts = list(_attempts(database, path, parts))
    settings = database.execute("SELECT settings FROM runs ORDER BY rowid DESC LIMIT 1").fetchone()
    (limit,) = database.execute(
        "SELECT json_extract(?, '$.max_attempts')", (settings[0] if settings else "{}",)
    ).fetchone()
    return Story(
        path=os.fsdecode(path),
        state=state,
        is_active=is_active,
        error=error or next((a.error for a, _ in reversed(attempts) if a.is_failure), ""),
        gpu=gpu or "",
        since=started,
        failures=sum(attempt.is_failure for attempt, _ in attempts),
        limit=limit,
        waiting=counts.get("queued", 0),
        larger=larger,
        processing=counts.get("processing", 0),
        parts=parts,
        moments=tuple(sorted(_moments(database, path, attempts, parts), key=lambda m: m.time)),
    )


def _real(database: sqlite3.Connection, path: bytes) -> bytes:
    """Where the path of a file leads, the key of its parts."""
    if not _has_real(database):
        return path
    found = database.execute("SELECT coalesce(real, path) FROM files WHERE path = ?", (path,))
    real: bytes = found.fetchone()[0]
    return real


# An attempt, and what to call that of which it was one: the file (`it`), or a part of the file.
_Told = tuple[AttemptSpan, str]


def _attempts(database: sqlite3.Connection, path: bytes, parts: Sequence[Range]) -> Iterator[_Told]:
    for gpu, started, ended, outcome, error, charged, start, stop in rows(
        database,
        "attempts",
        "gpu, started, ended, outcome, error, charged, start, stop",
        "WHERE path = ?",
        (path,),
    ):
        span = AttemptSpan(
            gpu,
            os.fsdecode(path),
            started,
            started if ended is None else ended,
            outcome_of(outcome),
            error=error or "",
            is_charged=None if charged is None else bool(charged),
            is_part=start is not None,
        )
        yield span, "it" if start is None else words_of(parts, start, stop) or "a part of it"


def _moments(
    database: sqlite3.Connection, path: bytes, attempts: Sequence[_Told], parts: Sequence[Range]
) -> Iterator[Moment]:
    yield from _given(parts)
    held = [(a.gpu, a.started, a.ended) for a, _ in attempts]
    for attempt, what in attempts:
        where, why = device_words(attempt.gpu), f": {attempt.error}" if attempt.error else ""
        at = "its attempt" if what == "it" else f"the attempt at {what}"
        yield Moment(attempt.started, f"{where} began {what}")
        yield Moment(attempt.ended, f"{at} on {where} {_end(attempt)}{why}")
    if parts:
        yield from _of_parts(database, path, parts)
        held += [
            (p.gpu, p.started, p.started + p.duration)
            for p in parts
            if p.started is not None and p.duration is not None
        ]
    else:
        gpu, started, duration, state = _row(database, path)
        if state in ("processing", "committing", "completed") and started is not None:
            yield Moment(started, f"{device_words(gpu)} began it")
            held.append((gpu, started, started + (duration or 0.0)))
            if state != "processing":
                yield Moment(started + (duration or 0.0), f"{device_words(gpu)} completed it")
    for time, victim, thief in rows(
        database, "steals", "time, victim, thief", "WHERE path = ?", (path,)
    ):
        yield Moment(
            time,
            f"{device_words(thief)} was idle and stole it from {device_words(victim)}",
        )
    for time, source, target in rows(
        database, "moves", "time, source, target", "WHERE path = ?", (path,)
    ):
        yield Moment(time, f"rebalanced from {device_words(source)} to {device_words(target)}")
    for where, begin, end in held:
        for (time,) in rows(
            database, "stalls", "started", "WHERE gpu = ? AND started BETWEEN ? AND ?",
            (where, begin, end),
        ):  # fmt: skip
            yield Moment(time, f"{device_words(where)} stalled")


def _row(database: sqlite3.Connection, path: bytes) -> tuple[str, float, float, str]:
    """The worker, the start, the duration and the state of a file."""
    row: tuple[str, float, float, str] = database.execute(
        "SELECT gpu, started, duration, state FROM files WHERE path = ?", (path,)
    ).fetchone()
    return row


def _given(parts: Sequence[Range]) -> Iterator[Moment]:
    """When workers gave parts away, as they were then; not when they only began new ones."""
    for part in parts:
        if part.given is not None and part.taker != part.giver:
            giver = device_words(part.giver)
            words = words_of(parts, part.start, part.given_stop) or part.words
            if part.taker:
                yield Moment(
                    part.given, f"{giver} gave {words} of it to {device_words(part.taker)}"
                )
            else:
                yield Moment(part.given, f"{giver} left {words} of it for the next run")


def _of_parts(
    database: sqlite3.Connection, path: bytes, parts: Sequence[Range]
) -> Iterator[Moment]:
    """What happened to the parts of a file, and when their results were joined."""
    for part in parts:
        if part.started is None or part.state == "queued":
            continue
        where = device_words(part.gpu)
        yield Moment(part.started, f"{where} began {part.words}")
        if part.duration is not None and part.state == "completed":
            yield Moment(part.started + part.duration, f"{where} completed {part.words}")
    gpu, started, duration, state = _row(database, path)
    if state in ("committing", "completed"):
        joined = f"{device_words(gpu)} joined the results of {len(parts)} parts"
        yield Moment(started + (duration or 0.0), joined)


def _end(attempt: AttemptSpan) -> str:  # noqa: PLR0911, RET503 - one line for each outcome
    match attempt.outcome:
        case Outcome.SUPERSEDED:
            return "was superseded by another"
        case Outcome.MOVED:
            return "was taken back"
        case Outcome.WORKER_LOST:
            return "was lost with its worker"
        case Outcome.INTERRUPTED:
            return "was cut off with the run"
        case Outcome.CANCELLED:
            return "was cancelled"
        case Outcome.FAILED:
            return "failed"
        case Outcome.TIMED_OUT:
            return "timed out"
        case Outcome.COMPLETED | Outcome.RUNNING:  # the journal keeps these with the file
            return "ended"
        case _:
            assert_never(attempt.outcome)
