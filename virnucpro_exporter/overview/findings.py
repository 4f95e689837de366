"""What is wrong with a run, and what is worth knowing, in words."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.overview.rows import OVER, WRONG, Row
from virnucpro_exporter.snapshot import RunSnapshot, RunState
from virnucpro_exporter.text import counted, device_noun, format_duration

STALE_SECONDS = 15.0  # a snapshot older than this is marked as old
MAX_NAMED, NAMED_WIDTH = 8, 40  # GPUs in one warning, and about how many characters they take


def warnings(run: RunSnapshot, rows: Sequence[Row], now: float) -> list[str]:
    """What needs attention, the worst first; nothing once the run is over.

    Args:
        run: The run.
        rows: Its workers.
        now: Unix seconds, for the age of the snapshot.
    """
    if run.state in OVER:
        return []
    found = [
        f"{label.removeprefix('GPU ')}: "
        f"{named_devices([row.worker.gpu for row in rows if row.label == label])}"
        for label in WRONG
        if any(row.label == label for row in rows)
    ]
    if now - run.timestamp > STALE_SECONDS:
        found.append(f"VALUES {format_duration(now - run.timestamp)} OLD")
    return found


def notices(run: RunSnapshot) -> list[str]:
    """What is worth knowing and needs no action."""
    if run.state is RunState.DRAINING:
        return [draining(run)]
    if run.state in OVER or not run.work_imbalanced:
        return []
    left = [w.seconds_left for w in run.workers if w.seconds_left is not None] or [0.0]
    return [f"work imbalanced: {format_duration(min(left))} to {format_duration(max(left))}"]


def draining(run: RunSnapshot) -> str:
    """What a run that starts no more files still does, and for how long.

    A part ends at its next sequence; what is left of its file waits for the next run.
    """
    held = [w for w in run.workers if w.current_range is not None]
    parts = sum(w.is_ending or w.current_part is not None for w in held)
    files = run.files_processing if not (parts or run.parts_total) else len(held) - parts
    found = [f"{counted(parts, 'part')} of files in process will end in a moment"] if parts else []
    if files:
        about = "" if run.eta_seconds is None else f", about {format_duration(run.eta_seconds)}"
        found.append(f"{counted(files, 'file')} in process will finish{about}")
    return "; ".join(found) or "no file is in process; the run ends"


def named_devices(gpus: Sequence[str]) -> str:
    """Some devices by their ids, `GPU 0, 1 and 6 more`; CPU slots without the word."""
    named = list(gpus[:1])
    for gpu in gpus[1:MAX_NAMED]:
        if len(", ".join([*named, gpu])) > NAMED_WIDTH:
            break
        named.append(gpu)
    more = len(gpus) - len(named)
    is_gpu = device_noun(gpus) == "GPU"
    return ("GPU " if is_gpu else "") + ", ".join(named) + (f" and {more} more" if more else "")
