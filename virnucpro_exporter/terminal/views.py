"""Pure views of a run: (snapshots, now, size) -> Rich renderable.

Every view keeps within the size it is given, one line per row. Colours are the terminal's own named
ones, so they suit light and dark themes, and no fact is told by colour alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from rich.console import Group, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from virnucpro_exporter.snapshot import (
    GpuDevice,
    GpuSnapshot,
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
)
from virnucpro_exporter.text import (
    clean,
    format_clock,
    format_duration,
    format_number,
    format_percent,
)

STALE_SECONDS = 15.0  # a snapshot older than this is said to be old
MAX_STEALS, MIN_STEALS = 10, 5
NAME_FROM_WIDTH = 76  # narrower terminals drop the GPU's name before anything else
ROOMY_WIDTH = 110

# What a person must see first when not all rows fit.
URGENCY = ("STALLED", "lost", "GPU down", "starved", "busy", "starting", "idle")
STATE_STYLES = {
    "STALLED": "bold red",
    "lost": "bold red",
    "GPU down": "bold red",
    "starved": "yellow",
    "busy": "",
    "starting": "dim",
    "idle": "dim",
}
RUN_STYLES = {RunState.COMPLETED: "bold green", RunState.FAILED: "bold red"}


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
    """

    ascii_only: bool = False
    endpoint: str = ""


class Row(NamedTuple):
    """A worker beside its GPU, and the word for what it does."""

    worker: WorkerSnapshot
    device: GpuDevice | None
    label: str


def run_view(
    run: RunSnapshot,
    gpus: GpuSnapshot,
    now: float,
    size: Size,
    options: ViewOptions | None = None,
) -> RenderableType:
    """The whole dashboard.

    Args:
        run: The run.
        gpus: What the GPUs answer.
        now: Unix seconds, to tell how old the snapshot is.
        size: The room there is; the view takes no more lines than that.
        options: How to draw.
    """
    chosen = options or ViewOptions()
    head = _head(run, now, size, chosen)
    rows = _rows(run, gpus)
    row_lines, steal_lines = share_lines(
        size.height - len(head) - 1, len(rows), len(run.recent_steals)
    )
    parts: list[RenderableType] = [*head, *_table(rows, row_lines, size, chosen)]
    if steal_lines:
        parts += ["", *_steals(run.recent_steals, steal_lines, chosen)]
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
    return Group(_line((said, "bold red")), _line((clean(what), "")), _line((clean(reason), "dim")))


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


def utilization_style(ratio: float | None) -> str:
    """Green from 80 %, yellow from 50 %, red below; dim when not known."""
    if ratio is None:
        return "dim"
    if ratio >= 0.8:
        return "green"
    return "yellow" if ratio >= 0.5 else "red"


def worker_label(worker: WorkerSnapshot, device: GpuDevice | None) -> str:
    """The word for what a worker does, the worst news first."""
    if worker.is_stalled:
        return "STALLED"
    if worker.state is WorkerState.LOST:
        return "lost"
    if device is not None and not device.up:
        return "GPU down"
    state: str = worker.state.value
    return state


def _line(*parts: tuple[str, str]) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    for content, style in parts:
        text.append(content, style)
    return text


def _spread(left: list[tuple[str, str]], right: str, width: int) -> Text:
    """One line with `right` at the right edge, left out when it does not fit."""
    text = _line(*left)
    gap = width - text.cell_len - len(right)
    if right and gap >= 2:
        text.append(" " * gap + right, "dim")
    return text


def _head(run: RunSnapshot, now: float, size: Size, options: ViewOptions) -> list[RenderableType]:
    lines: list[RenderableType] = [
        _title(run, size.width, options),
        _progress(run, size.width, options),
    ]
    warnings = _warnings(run, now)
    if warnings:
        lines.append(_line((", ".join(warnings), "bold red")))
    if size.height >= 16:
        lines.append("")
    return lines


def _title(run: RunSnapshot, width: int, options: ViewOptions) -> Text:
    over = run.state in RUN_STYLES
    left = [
        (run.state.value, RUN_STYLES.get(run.state, "bold")),
        (f"  {'took' if over else 'for'} {format_duration(run.elapsed_seconds)}", ""),
    ]
    if not over:
        left.append((f"  ETA {format_duration(run.eta_seconds)}", ""))
    left.append((f"  {format_number(run.throughput)} seq/s", ""))
    return _spread(left, clean(options.endpoint, ascii_only=options.ascii_only), width)


def _progress(run: RunSnapshot, width: int, options: ViewOptions) -> Text:
    ended = run.files_completed + run.files_failed
    counts = f" {ended}/{run.files_total} files"
    failed = f" {run.files_failed} failed"
    if run.residues_total:
        share = min(1.0, run.residues_done / run.residues_total)
    else:
        share = ended / run.files_total if run.files_total else 0.0
    # 100 % is said only once nothing is left to do
    percent = f" {min(int(share * 100), 100 if ended == run.files_total else 99):3d}%"
    cells = max(4, width - len(counts + failed + percent))
    filled = int(cells * share)
    full, empty = ("#", "-") if options.ascii_only else ("━", "╌")
    return _line(
        (full * filled, "green"),
        (empty * (cells - filled), "dim"),
        (percent, "bold"),
        (counts, ""),
        (failed, "bold red" if run.files_failed else "dim"),
    )


def _warnings(run: RunSnapshot, now: float) -> list[str]:
    found = []
    if now - run.timestamp > STALE_SECONDS and run.state not in RUN_STYLES:
        found.append(f"values are {format_duration(now - run.timestamp)} old")
    if run.stalled:
        found.append(f"{len(run.stalled)} STALLED")
    if run.load_imbalanced:
        found.append("queues IMBALANCED")
    return found


def _rows(run: RunSnapshot, gpus: GpuSnapshot) -> list[Row]:
    devices = {device.gpu: device for device in gpus.devices}
    return [
        Row(worker, devices.get(worker.gpu), worker_label(worker, devices.get(worker.gpu)))
        for worker in run.workers
    ]


def _table(
    rows: Sequence[Row], lines: int, size: Size, options: ViewOptions
) -> list[RenderableType]:
    shown, hidden = list(rows), list[Row]()
    if len(rows) > lines:
        urgent = sorted(rows, key=lambda row: URGENCY.index(row.label))
        shown, hidden = urgent[: lines - 1], urgent[lines - 1 :]
    named = size.width >= NAME_FROM_WIDTH
    table = _columns(size.width, named=named, ascii_only=options.ascii_only)
    for row in shown:
        cells = _cells(row, options)
        table.add_row(*(cells if named else cells[:1] + cells[2:]))
    if not rows:
        return [table, _line(("no workers yet", "dim"))]
    if not hidden:
        return [table]
    kinds = Counter(row.label for row in hidden)
    told = ", ".join(f"{count} {label}" for label, count in kinds.items())
    return [table, _line((f"+{len(hidden)} more: {told}", "dim"))]


def _columns(width: int, *, named: bool, ascii_only: bool) -> Table:
    roomy = width >= ROOMY_WIDTH
    overflow: OverflowMethod = "crop" if ascii_only else "ellipsis"
    table = Table(
        box=None, padding=(0, 2 if roomy else 1, 0, 0), pad_edge=False, expand=True, width=width
    )
    table.header_style = "bold"
    table.add_column("GPU", no_wrap=True, min_width=3)
    if named:
        table.add_column(
            "Name", no_wrap=True, overflow=overflow, min_width=10, max_width=30 if roomy else 12
        )
    short = ("Comp%", "Mem%", "Seq/s", "Queue", "Done", "By/From")
    long = ("Compute %", "Memory %", "Seq/s", "Queue", "Done", "Stolen by/from")
    for heading in long if roomy else short:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    table.add_column("State", no_wrap=True, overflow=overflow, ratio=1)
    return table


def _cells(row: Row, options: ViewOptions) -> list[Text]:
    worker, device, label = row
    sample = device.sample if device is not None and device.up else None
    compute = sample.utilization_ratio if sample else None
    memory = sample.memory_ratio if sample else None
    name = (worker.name or (device.name if device else "") or "-").removeprefix("NVIDIA ")
    return [
        Text(clean(worker.gpu, ascii_only=options.ascii_only)),
        Text(clean(name.removeprefix("GeForce "), ascii_only=options.ascii_only)),
        Text(format_percent(compute), utilization_style(compute)),
        Text(format_percent(memory), "dim" if memory is None else ""),
        Text(format_number(worker.throughput)),
        Text(str(worker.queue_depth)),
        Text(str(worker.files_completed)),
        Text(f"{worker.work_stolen_to}/{worker.work_stolen_from}"),
        _state(worker, label, options),
    ]


def _state(worker: WorkerSnapshot, label: str, options: ViewOptions) -> Text:
    """State, time and file in that order: a narrow column cuts off the file's name only."""
    text = Text(label, STATE_STYLES[label])
    if worker.current_seconds is not None:
        text.append(f" {format_duration(worker.current_seconds)}", "")
    if worker.current_file is not None:
        text.append(
            f" {clean(PurePath(worker.current_file).name, ascii_only=options.ascii_only)}", ""
        )
    return text


def _steals(events: Sequence[StealEvent], count: int, options: ViewOptions) -> list[RenderableType]:
    arrow = "->" if options.ascii_only else "→"
    lines: list[RenderableType] = [
        _line(("Last steals", "bold"), (f" (victim {arrow} thief)", "dim"))
    ]
    for event in events[-count:]:
        name = clean(event.file_name, ascii_only=options.ascii_only)
        route = f"{event.source_gpu:>4} {arrow} {event.dest_gpu:<4}"
        lines.append(_line((f"{format_clock(event.timestamp)} ", "dim"), (f"{route} {name}", "")))
    return lines
