"""What is wrong with a run, and what is worth knowing, in words."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.overview.rows import OVER, WRONG, Row
from virnucpro_exporter.snapshot import RunSnapshot
from virnucpro_exporter.text import format_duration

STALE_SECONDS = 15.0  # a snapshot older than this is said to be old
MAX_NAMED, NAMED_WIDTH = 8, 40  # GPUs in one warning, and about how many characters they take


def warnings(run: RunSnapshot, rows: Sequence[Row], now: float) -> list[str]:
    """What somebody should look at, the worst first; nothing once the run is over.

    Args:
        run: The run.
        rows: Its workers.
        now: Unix seconds, to tell how old the snapshot is.
    """
    if run.state in OVER:
        return []
    found = [
        f"{label.removeprefix('GPU ')}: GPU "
        f"{_ids([row.worker.gpu for row in rows if row.label == label])}"
        for label in WRONG
        if any(row.label == label for row in rows)
    ]
    if now - run.timestamp > STALE_SECONDS:
        found.append(f"VALUES {format_duration(now - run.timestamp)} OLD")
    return found


def notices(run: RunSnapshot) -> list[str]:
    """What is worth knowing, and calls for nobody: stealing sees to it."""
    if run.state in OVER or not run.work_imbalanced:
        return []
    left = [w.seconds_left for w in run.workers if w.seconds_left is not None] or [0.0]
    return [f"work imbalanced: {format_duration(min(left))} to {format_duration(max(left))}"]


def _ids(gpus: Sequence[str]) -> str:
    named = list(gpus[:1])
    for gpu in gpus[1:MAX_NAMED]:
        if len(", ".join([*named, gpu])) > NAMED_WIDTH:
            break
        named.append(gpu)
    more = len(gpus) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
