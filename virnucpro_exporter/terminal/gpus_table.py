"""What every GPU answers, as a table: a pure view, and how it is drawn again and again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from virnucpro_exporter import streams
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot
from virnucpro_exporter.terminal.colours import FAIR, utilization_style
from virnucpro_exporter.terminal.suspension import Suspension
from virnucpro_exporter.text import clean, counted, format_percent, is_ascii_only

GIB = 2**30
_WIDE = 110  # columns, from which there is room for everything
_WIDE_ONLY = ("UUID", "Clock")
_LEFT_OUT = (*_WIDE_ONLY, "Foreign", "Throttle", "Power W", "Temp")  # for want of room, in order
_NAME = "Name"
_GAP = 2

# Throttle reasons, as short as a column needs.
_THROTTLE = {
    "sw_power_cap": "power",
    "sw_thermal_slowdown": "heat",
    "hw_thermal_slowdown": "hw-heat",
    "hw_power_brake_slowdown": "brake",
}
# A line gives the reason why one of these values is missing; rare values are left to `gpus --json`.
_EXPLAINED = (
    "utilization_ratio",
    "memory_used_bytes",
    "memory_size_bytes",
    "temperature_celsius",
    "power_watts",
    "power_limit_watts",
    "energy_joules",
    "sm_clock_hertz",
    "throttle_reasons",
    "foreign_processes",
    "",
)
_UNITS = ("ratio", "bytes", "celsius", "watts", "joules", "hertz")


def gpus_view(
    gpus: GpuSnapshot,
    *,
    width: int = _WIDE,
    height: int | None = None,
    ascii_only: bool = False,
) -> RenderableType:
    """A table of all GPUs, and below it why a value is missing.

    Args:
        gpus: What they answered.
        width: Columns of the terminal. On a narrow one identity and clock are left out first.
        height: The lines there are, or None for as many as it takes. Where not all GPUs fit, those
            with trouble come first, and the others are counted.
        ascii_only: The terminal cannot show anything but ASCII.
    """
    if not gpus.devices:
        why = clean(gpus.health.reason, ascii_only=ascii_only)
        return Text(f"No GPU found (backend {gpus.backend}){': ' + why if why else ''}")
    shown, hidden = _share(gpus.devices, None if height is None else max(1, height - 1))
    lines = [_cells(device, ascii_only=ascii_only) for device in shown]
    widths = {h: max(len(h), *(line[h].cell_len for line in lines)) for h in lines[0]}
    for name in _LEFT_OUT:
        others = sum(size + _GAP for heading, size in widths.items() if heading != _NAME)
        if others + len(_NAME) > width or (name in _WIDE_ONLY and width < _WIDE):
            del widths[name]
    headings = list(widths)
    others = sum(size + _GAP for name, size in widths.items() if name != _NAME)
    widths[_NAME] = max(len(_NAME), min(widths[_NAME], width - others))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="left" if heading in {"GPU", _NAME, "UUID", "Throttle"} else "right",
            no_wrap=True,
            width=widths[heading],
            overflow="crop" if ascii_only else "ellipsis",
        )
    for line in lines:
        table.add_row(*(line[heading] for heading in headings))
    notes: list[RenderableType] = [_hidden_line(hidden)] if hidden else []
    reasons = [line for device in shown for line in missing_reasons(device)]
    room = None if height is None else height - 1 - len(shown) - len(notes) - 1
    if reasons and (room is None or room > 0):
        if room is not None and len(reasons) > room:
            reasons = [*reasons[: room - 1], f"+{counted(len(reasons) - room + 1, 'more reason')}"]
        cleaned = (clean(line, ascii_only=ascii_only) for line in reasons)
        notes += ["", *(Text(line, "dim", no_wrap=height is not None) for line in cleaned)]
    return Group(table, *notes) if notes else table


def _share(
    devices: Sequence[GpuDevice], lines: int | None
) -> tuple[list[GpuDevice], list[GpuDevice]]:
    """The GPUs that have a line each, and those that are counted in the last one."""
    if lines is None or len(devices) <= lines:
        return list(devices), []
    urgent = sorted(devices, key=lambda device: _TROUBLES.index(_trouble(device)))
    cut = max(1, lines - 1)
    return urgent[:cut], urgent[cut:]


def _trouble(device: GpuDevice) -> str:
    if not device.up:
        return "down"
    return "throttled" if device.sample and device.sample.throttle_reasons else "up"


_TROUBLES = ("down", "throttled", "up")


def _hidden_line(devices: Sequence[GpuDevice]) -> Text:
    kinds = Counter(map(_trouble, devices))
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return Text(f"+{len(devices)} more: {told}", "bold" if set(kinds) - {"up"} else "dim")


def missing_reasons(device: GpuDevice) -> list[str]:
    """Why values of this GPU are missing, one line each."""
    return [
        f"GPU {device.gpu} has no {_words(name)}: {reason}"
        if name
        else f"GPU {device.gpu} is down: {reason}"
        for name, reason in device.reasons
        if name in _EXPLAINED
    ]


def _words(name: str) -> str:
    """The name of a value without its unit; both parts of memory are one value."""
    words = [word for word in name.split("_") if word not in _UNITS]
    return "memory" if words[0] == "memory" else " ".join(words)


def short_uuid(uuid: str) -> str:
    """The part of an NVML identity that distinguishes GPUs, for example `GPU-1a2b3c4d`."""
    return "-".join(uuid.split("-")[:2]) or "-"


def _cells(device: GpuDevice, *, ascii_only: bool) -> dict[str, Text]:
    unknown = GpuSample(0.0)
    sample = (device.sample if device.up else None) or unknown
    throttle = sample.throttle_reasons
    slow = "-" if throttle is None else ",".join(_THROTTLE.get(r, r) for r in sorted(throttle))
    busy = sample.utilization_ratio
    name = device.name.removeprefix("NVIDIA ") or "-"
    cells = {
        "GPU": Text(clean(device.gpu, ascii_only=ascii_only)),
        _NAME: Text(clean(name, ascii_only=ascii_only)),
        "UUID": Text(short_uuid(device.uuid)),
        "Util": Text(format_percent(busy), _busy_style(busy)),
        "Mem GiB": Text(_pair(_gib(sample.memory_used_bytes), _gib(sample.memory_size_bytes))),
        "Temp": Text(_unit(sample.temperature_celsius, " C")),
        "Power W": Text(_pair(_unit(sample.power_watts), _unit(sample.power_limit_watts))),
        "Clock": Text(_unit(sample.sm_clock_hertz, " MHz", 1e-6)),
        "Throttle": Text(slow or "none", FAIR if throttle else ""),
        "Foreign": Text(_unit(sample.foreign_processes)),
    }
    return cells if sample is not unknown else {**cells, **_dashes(cells)}


def _busy_style(ratio: float | None) -> str:
    """Without a run there is no expected use of a GPU, so no value is poor."""
    return "" if ratio is not None and ratio < 0.5 else utilization_style(ratio)


def _dashes(cells: dict[str, Text]) -> dict[str, Text]:
    return {name: Text("-", "dim") for name in cells if name not in {"GPU", _NAME, "UUID"}}


def _pair(part: str, whole: str) -> str:
    return "-" if part == whole == "-" else f"{part}/{whole}"


def _gib(value: int | None) -> str:
    return "-" if value is None else f"{value / GIB:.1f}"


def _unit(value: float | None, unit: str = "", factor: float = 1) -> str:
    return "-" if value is None else f"{value * factor:.0f}{unit}"


@contextmanager
def gpus_screen(*, in_place: bool) -> Iterator[Callable[[GpuSnapshot], None]]:
    """Tables one after the other, or on a terminal one that is drawn again in its place."""
    console = Console(file=streams.screen())
    ascii_only = is_ascii_only(console.encoding, os.environ)

    def view(snapshot: GpuSnapshot, *, is_whole: bool = True) -> RenderableType:
        width, height = console.size
        # A full last line would scroll the terminal by one at each update.
        lines = None if is_whole else max(3, height - 1)
        return gpus_view(snapshot, width=width, height=lines, ascii_only=ascii_only)

    if not in_place or not console.is_terminal or console.is_dumb_terminal:
        yield lambda snapshot: console.print(view(snapshot))
        return
    suspension = Suspension(console)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        suspension.install()

        def show(snapshot: GpuSnapshot) -> None:
            with suspension.lock:
                if suspension.may_draw():
                    live.update(view(snapshot, is_whole=False), refresh=True)

        try:
            yield show
        finally:
            suspension.remove()
