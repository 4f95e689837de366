"""The rows of the dashboard: one worker each, beside its GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from virnucpro_exporter.overview.rows import URGENCY, WRONG, Row
from virnucpro_exporter.text import clean, format_number, format_percent, is_cpu_slot, tail

ROOMY_WIDTH = 110

# What is wrong is in capitals and inverted: it catches the eye without colours, too.
STATE_STYLES = {
    **dict.fromkeys(WRONG, "bold red reverse"),
    "starved": "yellow",
    "busy": "",
    "loading": "dim",
    "starting": "dim",
    "idle": "dim",
}


class Column(NamedTuple):
    """One column of numbers.

    Attributes:
        short: Its heading.
        long: The same where there is room.
        from_width: Narrower terminals leave it out.
        cell: What it shows of a row.
    """

    short: str
    long: str
    from_width: int
    cell: Callable[[Row], Text]


def _compute(row: Row) -> Text:
    ratio = row.sample.utilization_ratio if row.sample else None
    return Text(format_percent(ratio), utilization_style(ratio))


def _memory(row: Row) -> Text:
    ratio = row.sample.memory_ratio if row.sample else None
    return Text(format_percent(ratio), "dim" if ratio is None else "")


def _rate(row: Row) -> Text:
    """Sequences per second; residues, marked as such, where sequences are not known."""
    worker = row.worker
    if worker.throughput is None and worker.residue_throughput is not None:
        return Text(f"{format_number(worker.residue_throughput)} res")
    return Text(format_number(worker.throughput))


def _stolen(row: Row) -> Text:
    return Text(f"{row.worker.work_stolen_to}/{row.worker.work_stolen_from}")


COLUMNS = (
    Column("Comp%", "Compute %", 0, _compute),
    Column("Mem%", "Memory %", 56, _memory),
    Column("Seq/s", "Seq/s", 0, _rate),
    Column("Queue", "Queue", 48, lambda row: Text(str(row.worker.queue_depth))),
    Column("Done", "Done", 40, lambda row: Text(str(row.worker.files_completed))),
    Column("By/From", "Stolen by/from", 60, _stolen),
)
NAME_FROM_WIDTH = 76
_SHORT_ID = 3  # characters; longer ids, of many machines, leave less room for what may be missing


def short_id(gpu: str, width: int, *, ascii_only: bool) -> str:
    """The id of a GPU, at most a quarter as wide as the terminal: the other columns matter, too."""
    return tail(clean(gpu, ascii_only=ascii_only), width // 4, ascii_only=ascii_only)


def utilization_style(ratio: float | None) -> str:
    """Green from 80 %, yellow from 50 %, red below; dim when not known."""
    if ratio is None:
        return "dim"
    if ratio >= 0.8:
        return "green"
    return "yellow" if ratio >= 0.5 else "red"


def worker_table(
    rows: Sequence[Row], lines: int, width: int, *, ascii_only: bool
) -> list[RenderableType]:
    """The table, and a line that counts the rows that did not fit.

    Args:
        rows: All workers.
        lines: How many lines may follow the heading.
        width: Columns of the terminal.
        ascii_only: The terminal cannot show anything but ASCII.
    """
    shown, hidden = list(rows), list[Row]()
    if len(rows) > lines:
        urgent = sorted(rows, key=lambda row: URGENCY.index(row.label))
        shown, hidden = urgent[: lines - 1], urgent[lines - 1 :]
    ids = [short_id(row.worker.gpu, width, ascii_only=ascii_only) for row in shown]
    room = width - max([_SHORT_ID, *map(len, ids)]) + _SHORT_ID
    is_cpu = rows and all(is_cpu_slot(row.worker.gpu) for row in rows)
    table = _empty_table("CPU" if is_cpu else "GPU", width, room, ascii_only=ascii_only)
    for gpu, row in zip(ids, shown, strict=True):
        table.add_row(Text(gpu), *_cells(row, room, ascii_only=ascii_only))
    if not rows:
        return [table, Text("no workers yet", "dim")]
    if not hidden:
        return [table]
    kinds = Counter(row.label for row in hidden)
    told = ", ".join(f"{count} {label}" for label, count in kinds.items())
    style = "bold" if any(label in WRONG for label in kinds) else "dim"
    more = Text(f"+{len(hidden)} more: {told}", style, no_wrap=True, overflow="crop")
    return [table, more]


def _empty_table(heading: str, width: int, room: int, *, ascii_only: bool) -> Table:
    roomy = width >= ROOMY_WIDTH
    overflow: OverflowMethod = "crop" if ascii_only else "ellipsis"
    table = Table(
        box=None, padding=(0, 2 if roomy else 1, 0, 0), pad_edge=False, expand=True, width=width
    )
    table.header_style = "bold"
    table.add_column(heading, no_wrap=True, min_width=3)
    if room >= NAME_FROM_WIDTH:
        table.add_column(
            "Name", no_wrap=True, overflow=overflow, min_width=10, max_width=30 if roomy else 12
        )
    for column in COLUMNS:
        if room >= column.from_width:
            title = column.long if roomy else column.short
            table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
    table.add_column("State", no_wrap=True, overflow=overflow, ratio=1)
    return table


def _cells(row: Row, room: int, *, ascii_only: bool) -> list[Text]:
    worker, device, cells = row.worker, row.device, list[Text]()
    if room >= NAME_FROM_WIDTH:
        name = (worker.name or (device.name if device else "") or "-").removeprefix("NVIDIA ")
        cells.append(Text(clean(name.removeprefix("GeForce "), ascii_only=ascii_only)))
    cells += [column.cell(row) for column in COLUMNS if room >= column.from_width]
    return [*cells, _state(row, ascii_only=ascii_only)]


def _state(row: Row, *, ascii_only: bool) -> Text:
    """State, time and file in that order: a narrow column cuts off the file's name only."""
    text = Text(row.label, STATE_STYLES[row.label])
    if row.work:
        text.append(f" {clean(row.work, ascii_only=ascii_only)}", "")
    return text
