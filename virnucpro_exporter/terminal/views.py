"""Pure views of a run: (snapshots, now, size) -> Rich renderable.

Every view keeps within the size it is given, one line per row. No fact is
told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from virnucpro_exporter.overview.findings import notices, warnings
from virnucpro_exporter.overview.rows import OVER, Row, worker_rows
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot, RunState, StealEvent
from virnucpro_exporter.terminal.colours import ALARM, FAIR, GOOD, POOR
from virnucpro_exporter.terminal.worker_table import Trail, short_id, worker_table
from virnucpro_exporter.text import (
    clean,
    format_clock,
    format_duration,
    format_rate,
    format_time,
    middle,
    whole_words,
)

MAX_STEALS, MIN_STEALS = 10, 5
RUN_STYLES = {RunState.COMPLETED: f"bold {GOOD}", RunState.FAILED: f"bold {POOR}"}


class Size(NamedTuple):
    """A terminal's size in character cells."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How to draw.

    Attributes:
        ascii_only: The terminal cannot show anything but ASCII.
        endpoint: Address of the metrics endpoint, empty when there is none.
        drain_hint: What a user can do while the last files finish; empty for nothing.
    """

    ascii_only: bool = False
    endpoint: str = ""
    drain_hint: str = ""


def run_view(
    run: RunSnapshot,
    gpus: GpuSnapshot,
    now: float,
    size: Size,
    options: ViewOptions | None = None,
    trail: Trail | None = None,
) -> RenderableType:
    """The whole dashboard.

    Args:
        run: The run.
        gpus: What the GPUs answer.
        now: Unix seconds, for the age of the snapshot.
        size: The room there is; the view takes no more lines than that.
        options: How to draw.
        trail: The last ten minutes of each GPU, for small pictures; None for none.
    """
    chosen = options or ViewOptions()
    rows = worker_rows(run, gpus)
    head = _head(run, rows, now, size, chosen)
    row_lines, steal_lines = share_lines(
        size.height - len(head) - 1, len(rows), len(run.recent_steals)
    )
    table = worker_table(rows, row_lines, size.width, ascii_only=chosen.ascii_only, trail=trail)
    parts: list[RenderableType] = [*head, *table]
    if steal_lines:
        parts += ["", *_steals(run.recent_steals, steal_lines, size.width, chosen)]
    return Group(*parts)


def silence_view(what: str, since: float | None, reason: str, now: float) -> RenderableType:
    """What is shown in place of values when their source does not answer.

    Args:
        what: The source, for example its address.
        since: Unix seconds of the last answer, or None if there never was one.
        reason: Why, in one line.
        now: Unix seconds.
    """
    if since is None:
        said = "no answer yet"
    else:
        said = f"no answer since {format_clock(since)} ({format_duration(now - since)})"
    return Group(
        _line((said, f"bold {POOR}")), _line((clean(what), "")), _line((clean(reason), "dim"))
    )


def share_lines(room: int, rows: int, steals: int) -> tuple[int, int]:
    """Divide the lines below the table's header between workers and steals.

    Args:
        room: Lines there are.
        rows: Workers.
        steals: Steals that could be listed.

    Returns:
        Lines for workers (the "+N more" line included), and steals to list; 0 leaves out their
        heading and the blank line above it too.
    """
    room = max(1, room)
    wanted = min(MAX_STEALS, steals)
    if wanted == 0:
        return min(room, max(rows, 1)), 0
    left = room - rows - 2
    if left >= min(wanted, MIN_STEALS):
        return max(rows, 1), min(wanted, left)
    reserved = min(wanted, MIN_STEALS)
    if room - reserved - 2 >= 8:  # a tall terminal has room for the latest steals beside 8 workers
        return room - reserved - 2, reserved
    return min(room, max(rows, 1)), max(0, min(wanted, left))


def _line(*parts: tuple[str, str]) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    for content, style in parts:
        text.append(content, style)
    return text


def _spread(left: list[tuple[str, str]], right: str, width: int) -> Text:
    """One line with `right` at the right edge; it is shortened, then left out, where need be."""
    text = _line(*left)
    room = width - text.cell_len - 2
    if len(right) > room:
        right = right.partition("://")[2].removesuffix("/metrics")
    gap = room + 2 - len(right)
    if right and gap >= 2:
        text.append(" " * gap + right, "dim")
    return text


def _head(
    run: RunSnapshot, rows: Sequence[Row], now: float, size: Size, options: ViewOptions
) -> list[RenderableType]:
    lines: list[RenderableType] = [
        _title(run, now, size.width, options),
        _progress(run, size.width, options),
    ]
    wrong, unusual = warnings(run, rows, now), notices(run)
    if run.state is RunState.DRAINING and options.drain_hint:
        unusual.append(options.drain_hint)
    if wrong or unusual:
        lines.append(_troubles(wrong, unusual, size.width, options))
    if size.height >= 16:
        lines.append("")
    return lines


def _troubles(
    wrong: Sequence[str], unusual: Sequence[str], width: int, options: ViewOptions
) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    if wrong:
        told = clean("; ".join(wrong), ascii_only=options.ascii_only)
        text.append(f" {whole_words(told, width - 2, ascii_only=options.ascii_only)} ", ALARM)
    room = width - text.cell_len - 2
    if unusual and room > 12:
        told = whole_words("; ".join(unusual), room, ascii_only=options.ascii_only)
        text.append("  " if wrong else "", "").append(told, FAIR)
    return text


def _title(run: RunSnapshot, now: float, width: int, options: ViewOptions) -> Text:
    over = run.state in OVER
    left = [
        (run.state_label, RUN_STYLES.get(run.state, "bold")),
        (f"  {'took' if over else 'for'} {format_duration(run.elapsed_seconds)}", ""),
    ]
    if not over:
        left.append((f"  ETA {format_duration(run.eta_seconds)}", ""))
        if run.estimated_completion_timestamp is not None:
            left.append((f" ({format_time(run.estimated_completion_timestamp, now)})", ""))
    left.append((f"  {format_rate(run.throughput, run.residue_throughput)}", ""))
    while sum(len(part) for part, _ in left) > width and len(left) > 1:
        # The clock goes first: the time left implies it.
        clocks = [part for part in left if part[0].startswith(" (")]
        left.remove(clocks[0] if clocks else left[-1])
    return _spread(left, clean(options.endpoint, ascii_only=options.ascii_only), width)


def _progress(run: RunSnapshot, width: int, options: ViewOptions) -> Text:
    ended = run.files_completed + run.files_failed
    counts = f" {ended}/{run.files_total} files"
    if run.parts_total:
        counts += f" {run.parts_completed}/{run.parts_total} parts"
    failed = f" {run.files_failed} failed"
    percent = f" {run.percent_done:3d}%"
    if len(counts + failed + percent) + 4 > width:
        failed = f" {run.files_failed} f" if run.files_failed else ""
    cells = max(1, width - len(counts + failed + percent))
    filled = int(cells * run.share_done)
    full, empty = ("#", "-") if options.ascii_only else ("━", "╌")
    return _line(
        (full * filled, GOOD),
        (empty * (cells - filled), "dim"),
        (percent, "bold"),
        (counts, ""),
        (failed, f"bold {POOR}" if run.files_failed else "dim"),
    )


def _steals(
    events: Sequence[StealEvent], count: int, width: int, options: ViewOptions
) -> list[RenderableType]:
    arrow = "->" if options.ascii_only else "→"
    lines: list[RenderableType] = [
        _line(("Last steals", "bold"), (f" (victim {arrow} thief)", "dim"))
    ]
    for event in events[-count:]:
        name = clean(event.file_name, ascii_only=options.ascii_only)
        victim, thief = (
            short_id(gpu, width, ascii_only=options.ascii_only)
            for gpu in (event.source_gpu, event.dest_gpu)
        )
        route = f"{victim:>4} {arrow} {thief:<4}"
        room = max(1, width - len(route) - 10)
        name = middle(name, room, ascii_only=options.ascii_only)
        lines.append(_line((f"{format_clock(event.timestamp)} ", "dim"), (f"{route} {name}", "")))
    return lines
