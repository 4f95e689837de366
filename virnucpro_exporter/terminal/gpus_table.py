"""A pure view of what every GPU answers."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot
from virnucpro_exporter.terminal.worker_table import utilization_style
from virnucpro_exporter.text import clean, format_percent

GIB = 2**30
HEADINGS = ("Util", "Memory GiB", "Temp", "Power W", "Clock", "Throttle", "Foreign")


def gpus_view(gpus: GpuSnapshot, *, ascii_only: bool = False) -> RenderableType:
    """A table of all GPUs, and below it why a value is missing.

    Args:
        gpus: What they answered.
        ascii_only: The terminal cannot show anything but ASCII.
    """
    if not gpus.devices:
        why = clean(gpus.health.reason, ascii_only=ascii_only)
        return Text(f"No GPU found (backend {gpus.backend}){': ' + why if why else ''}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("GPU", "Name", "UUID"):
        table.add_column(heading, no_wrap=True, overflow="crop" if ascii_only else "ellipsis")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for device in gpus.devices:
        table.add_row(
            clean(device.gpu, ascii_only=ascii_only),
            clean(device.name or "-", ascii_only=ascii_only),
            short_uuid(device.uuid),
            *_values(device.sample if device.up else None),
        )
    reasons: list[RenderableType] = [
        Text(clean(line, ascii_only=ascii_only), "dim")
        for device in gpus.devices
        for line in missing_reasons(device)
    ]
    return Group(table, "", *reasons) if reasons else table


def short_uuid(uuid: str) -> str:
    """The part of an NVML identity that tells GPUs apart, for example `GPU-1a2b3c4d`."""
    return "-".join(uuid.split("-")[:2]) or "-"


def missing_reasons(device: GpuDevice) -> list[str]:
    """Why values of this GPU are missing, one line each."""
    return [
        f"GPU {device.gpu}{' ' + field.replace('_', ' ') if field else ' is down'}: {reason}"
        for field, reason in device.reasons
    ]


def _values(sample: GpuSample | None) -> list[Text]:
    if sample is None:
        return [Text("-", "dim")] * len(HEADINGS)
    throttle = sample.throttle_reasons
    return [
        Text(format_percent(sample.utilization_ratio), utilization_style(sample.utilization_ratio)),
        Text(f"{_gib(sample.memory_used_bytes)}/{_gib(sample.memory_size_bytes)}"),
        Text(_unit(sample.temperature_celsius, " C")),
        Text(f"{_unit(sample.power_watts)}/{_unit(sample.power_limit_watts)}"),
        Text(_unit(sample.sm_clock_hertz, " MHz", 1e-6)),
        Text(
            "-" if throttle is None else ", ".join(sorted(throttle)) or "none",
            "yellow" if throttle else "",
        ),
        Text(_unit(sample.foreign_processes)),
    ]


def _gib(value: int | None) -> str:
    return "-" if value is None else f"{value / GIB:.1f}"


def _unit(value: float | None, unit: str = "", factor: float = 1) -> str:
    return "-" if value is None else f"{value * factor:.0f}{unit}"
