"""The rows of the dashboard: one worker each, beside its GPU.

Columns are added in the order of their weight for as long as the state keeps room, so that a narrow
terminal has fewer of them and cuts no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from virnucpro_exporter.overview.rows import URGENCY, WRONG, Row
from virnucpro_exporter.snapshot import GpuSample
from virnucpro_exporter.terminal.colours import ALARM, FAIR, utilization_style
from virnucpro_exporter.text import clean, format_number, format_percent, is_cpu_slot, middle

ROOMY_WIDTH = 160  # columns, from which headings are written out

# What is wrong is in capitals and on a colour: it catches the eye without colours, too.
STATE_STYLES = {
    **dict.fromkeys(WRONG, ALARM),
    "starved": FAIR,
    "busy": "",
    "loading": "dim",
    "starting": "dim",
    "idle": "dim",
    "left": "dim",
}
# Of the terminal's width, the state keeps this share, within limits in columns.
_STATE_SHARE, _STATE_LEAST, _STATE_MOST = 0.3, 19, 40
_RANGE_WIDTH = len(" of 62-81%")  # of the state where files are done in parts
_SHORTEST_FILE = 6  # columns; less of a file's name is no help
_GIB = 2**30
_BLOCKS = "▁▂▃▄▅▆▇█"
TRAIL_INTERVALS, TRAIL_SECONDS = 20, 30.0  # ten minutes

# The mean utilisation in each of the last intervals, by the id of a GPU.
Trail = Callable[[str], Sequence["float | None"]]


class Column(NamedTuple):
    """One column.

    Attributes:
        short: Its heading.
        long: The same where there is room.
        width: The columns that it usually takes.
        cell: What it shows of a row.
        is_left: It is text, and no number.
    """

    short: str
    long: str
    width: int
    cell: Callable[[Row], Text]
    is_left: bool = False


def _compute(row: Row) -> Text:
    ratio = row.sample.utilization_ratio if row.sample else None
    # A GPU that hangs is often at 100 %, and one that has nothing to do is at 0 for a good reason.
    is_judged = ratio is None or row.label in ("busy", "starved")
    return Text(format_percent(ratio), utilization_style(ratio) if is_judged else "")


def _of_sample(show: Callable[[GpuSample], str]) -> Callable[[Row], Text]:
    def cell(row: Row) -> Text:
        shown = "-" if row.sample is None else show(row.sample)
        return Text(shown, "dim" if shown == "-" else "")

    return cell


def _memory(sample: GpuSample) -> str:
    used, size = sample.memory_used_bytes, sample.memory_size_bytes
    if used is None:
        return "-"
    return f"{used / _GIB:.1f}" + ("" if size is None else f"/{size / _GIB:.0f}")


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _watts(sample: GpuSample) -> str:
    limit = "" if sample.power_limit_watts is None else f"/{sample.power_limit_watts:.0f}"
    return "-" if sample.power_watts is None else f"{sample.power_watts:.0f}{limit}"


def _rate(row: Row) -> Text:
    """Sequences per second; residues, marked as such, where sequences are not known."""
    worker = row.worker
    if worker.throughput is None and worker.residue_throughput is not None:
        return Text(f"{format_number(worker.residue_throughput)} res")
    return Text(format_number(worker.throughput))


def _count(value: Callable[[Row], int], style: str = "") -> Callable[[Row], Text]:
    """A count; in a style where it is not 0."""
    return lambda row: Text(str(value(row)), style if value(row) else "")


def _stolen(row: Row) -> Text:
    return Text(f"{row.worker.work_stolen_to}/{row.worker.work_stolen_from}")


_COMPUTE = Column("Comp%", "Compute %", 5, _compute)
_RATE = Column("Seq/s", "Seq/s", 5, _rate)
_DONE = Column("Done", "Done", 4, _count(lambda row: row.worker.files_completed))
_PARTS = Column("Parts", "Parts", 5, _count(lambda row: row.worker.parts_completed))
_QUEUE = Column("Queue", "Queue", 5, _count(lambda row: row.worker.queue_depth))
_MEMORY_RATIO = Column("Mem%", "Memory %", 4, _of_sample(lambda s: format_percent(s.memory_ratio)))
_STOLEN = Column("By/From", "Stolen by/from", 7, _stolen)
_TEMPERATURE = Column("Temp", "Temp °C", 4, _of_sample(lambda s: _whole(s.temperature_celsius)))
_POWER = Column("Watts", "Watts", 7, _of_sample(_watts))
_FAILURES = Column("Fail", "Failures", 4, _count(lambda row: row.worker.file_failures, FAIR))
_RESTARTS = Column("Rest", "Restarts", 4, _count(lambda row: row.worker.restarts, FAIR))
_MEMORY = Column("Mem GiB", "Memory GiB", 7, _of_sample(_memory))

# On the screen from left to right, and in the order in which they get room.
_PLACES = (
    *(_COMPUTE, _MEMORY_RATIO, _MEMORY, _TEMPERATURE, _POWER, _RATE, _QUEUE, _DONE, _PARTS),
    *(_FAILURES, _RESTARTS, _STOLEN),
)
_ALWAYS = (_COMPUTE, _RATE)
_BY_WEIGHT = (
    _DONE,
    _QUEUE,
    _PARTS,
    _MEMORY_RATIO,
    _STOLEN,
    "name",
    _TEMPERATURE,
    _FAILURES,
    _POWER,
)
_BY_WEIGHT_THEN = (_MEMORY, _RESTARTS, "trail")
_SHORT_ID = 3  # characters; longer ids, of many machines, leave less room for what may be missing
_NAME_WIDTHS = (12, 18, 28)  # characters of the model: least, from 100 columns, where it is roomy


def short_id(gpu: str, width: int, *, ascii_only: bool) -> str:
    """The id of a GPU, at most a quarter as wide as the terminal: the other columns matter, too."""
    return middle(clean(gpu, ascii_only=ascii_only), width // 4, ascii_only=ascii_only)


def worker_table(
    rows: Sequence[Row],
    lines: int,
    width: int,
    *,
    ascii_only: bool,
    trail: Trail | None = None,
) -> list[RenderableType]:
    """The table, and a line that counts the rows that did not fit.

    Args:
        rows: All workers.
        lines: How many lines may follow the heading.
        width: Columns of the terminal.
        ascii_only: The terminal cannot show anything but ASCII.
        trail: The last ten minutes of a GPU, for small pictures where there is room; None for none.
    """
    shown, hidden = list(rows), list[Row]()
    if len(rows) > lines:
        urgent = sorted(rows, key=lambda row: URGENCY.index(row.label))
        shown, hidden = urgent[: lines - 1], urgent[lines - 1 :]
    is_cpu = bool(rows) and all(is_cpu_slot(row.worker.gpu) for row in rows)
    has_parts = any(r.worker.current_part or r.worker.parts_completed for r in rows)
    table = _table(shown, _Screen(width, ascii_only, trail, has_parts), is_cpu=is_cpu)
    if not rows:
        return [table, Text("no workers yet", "dim")]
    if not hidden:
        return [table]
    kinds = Counter(row.label for row in hidden)
    told = ", ".join(f"{count} {label}" for label, count in kinds.items())
    style = "bold" if any(label in WRONG for label in kinds) else "dim"
    more = Text(f"+{len(hidden)} more: {told}", style, no_wrap=True, overflow="crop")
    return [table, more]


class _Screen(NamedTuple):
    """Where the table is drawn, and whether there are parts of files in it."""

    width: int
    ascii_only: bool
    trail: Trail | None
    has_parts: bool

    @property
    def is_roomy(self) -> bool:
        """Whether headings are written out."""
        return self.width >= ROOMY_WIDTH

    @property
    def gap(self) -> int:
        """Between two columns."""
        return 2 if self.is_roomy else 1


def _table(rows: Sequence[Row], screen: _Screen, *, is_cpu: bool) -> Table:
    ids = [short_id(row.worker.gpu, screen.width, ascii_only=screen.ascii_only) for row in rows]
    id_width = max([_SHORT_ID, *map(len, ids)])
    columns = _chosen(screen, id_width, is_cpu=is_cpu)
    headings = [column.long if screen.is_roomy else column.short for column in columns]
    cells = [[column.cell(row) for column in columns] for row in rows]
    widths = [
        max([len(heading), *(line[place].cell_len for line in cells)])
        for place, heading in enumerate(headings)
    ]
    rest = max(5, screen.width - id_width - sum(widths) - (len(widths) + 1) * screen.gap)
    table = Table(box=None, padding=(0, screen.gap, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("CPU" if is_cpu else "GPU", no_wrap=True, width=id_width, overflow="crop")
    for heading, column, width in zip(headings, columns, widths, strict=True):
        justify: JustifyMethod = "left" if column.is_left else "right"
        table.add_column(heading, justify=justify, no_wrap=True, width=width, overflow="crop")
    table.add_column("State", no_wrap=True, width=rest, overflow="crop")
    for name, line, row in zip(ids, cells, rows, strict=True):
        table.add_row(Text(name), *line, _state(row, rest, ascii_only=screen.ascii_only))
    return table


def _chosen(screen: _Screen, taken: int, *, is_cpu: bool) -> list[Column]:
    """The columns between the id and the state, from left to right."""
    least = min(max(_STATE_LEAST, int(_STATE_SHARE * screen.width)), _STATE_MOST)
    least += _RANGE_WIDTH if screen.has_parts else 0
    left = screen.width - taken - screen.gap - least
    extra = {"name": _name_column(screen), "trail": _trail_column(screen)}
    found = list[Column]()
    for wanted in (*_ALWAYS, *_BY_WEIGHT, *_BY_WEIGHT_THEN):
        column = extra[wanted] if isinstance(wanted, str) else wanted
        if column is None or (is_cpu and wanted in _OF_GPUS):
            continue
        if column is _PARTS and not screen.has_parts:
            continue
        size = _size(column, screen)
        if column is _MEMORY and _MEMORY_RATIO in found:
            size -= _size(_MEMORY_RATIO, screen)  # whose place it takes
        if wanted in _ALWAYS or left >= size:
            left -= size
            found.append(column)
    if _MEMORY in found and _MEMORY_RATIO in found:
        found.remove(_MEMORY_RATIO)
    order = [extra["name"], extra["trail"], *_PLACES]
    return sorted(found, key=order.index)


def _size(column: Column, screen: _Screen) -> int:
    heading = column.long if screen.is_roomy else column.short
    return max(column.width, len(heading)) + screen.gap


_OF_GPUS = (_COMPUTE, _MEMORY_RATIO, _MEMORY, _TEMPERATURE, _POWER, "name", "trail")


def _name_column(screen: _Screen) -> Column:
    width = _NAME_WIDTHS[(screen.width >= 100) + screen.is_roomy]

    def cell(row: Row) -> Text:
        name = (row.worker.name or (row.device.name if row.device else "") or "-").removeprefix(
            "NVIDIA "
        )
        shown = clean(name.removeprefix("GeForce "), ascii_only=screen.ascii_only)
        return Text(middle(shown, width, ascii_only=screen.ascii_only))

    return Column("Name", "Name", width, cell, is_left=True)


def _trail_column(screen: _Screen) -> Column | None:
    trail = screen.trail
    if trail is None or screen.ascii_only:
        return None
    return Column(
        "Last 10 minutes",
        "Last 10 minutes",
        TRAIL_INTERVALS,
        lambda row: Text(sparkline(trail(row.worker.gpu))),
        is_left=True,
    )


def sparkline(means: Sequence[float | None]) -> str:
    """Ratios as blocks of eight heights; a space where nothing is known."""
    top = len(_BLOCKS) - 1
    return "".join(
        " " if mean is None else _BLOCKS[round(min(max(mean, 0.0), 1.0) * top)] for mean in means
    )


def _state(row: Row, width: int, *, ascii_only: bool) -> Text:
    """State, time, progress and file in that order, each whole; only the name of a file is cut."""
    text = Text(middle(row.label, width), STATE_STYLES[row.label])
    joining = "joining" if row.worker.is_joining else ""
    for part in (row.lasting, row.done, joining):
        if part and text.cell_len + 1 + len(part) <= width:
            text.append(f" {part}", "")
    room = width - text.cell_len - 1
    if row.file and room >= min(_SHORTEST_FILE, len(row.file)):
        name = middle(clean(row.file, ascii_only=ascii_only), room, ascii_only=ascii_only)
        text.append(f" {name}", "")
    return text
