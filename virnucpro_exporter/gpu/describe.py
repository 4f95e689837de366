"""The monitor's snapshot, as plain rows for JSON."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot

_VALUES = tuple(f.name for f in fields(GpuSample) if f.name != "timestamp")


def rows(snapshot: GpuSnapshot) -> list[dict[str, Any]]:
    """One mapping per GPU: base units in the names, None for what is unknown, and `reasons`."""
    return [_row(device) for device in snapshot.devices]


def _row(device: GpuDevice) -> dict[str, Any]:
    sample = device.sample
    values = {name: getattr(sample, name) if sample else None for name in _VALUES}
    if values["throttle_reasons"] is not None:
        values["throttle_reasons"] = sorted(values["throttle_reasons"])
    if values["processes"] is not None:
        values["processes"] = [asdict(process) for process in values["processes"]]
    return {
        "gpu": device.gpu,
        "uuid": device.uuid,
        "name": device.name,
        "pci_bus_id": device.pci_bus_id,
        "driver_version": device.driver_version,
        "up": device.up,
        "timestamp": sample.timestamp if sample else None,
        **values,
        "reasons": {key or "gpu": reason for key, reason in device.reasons},
        "errors": dict(device.errors),
        **asdict(device.modes),
        "xids": [asdict(seen) for seen in device.xids],
    }


def why_no_gpus(snapshot: GpuSnapshot) -> str:
    """Why no GPU works, in one line; empty when one does."""
    if any(device.up for device in snapshot.devices):
        return ""
    if snapshot.health.reason:
        return snapshot.health.reason
    if not snapshot.devices:
        return "the NVIDIA driver does not answer"
    return "; ".join(f"GPU {d.gpu} is down ({dict(d.reasons)['']})" for d in snapshot.devices)
