"""What every GPU of this machine does, once or again and again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from virnucpro_exporter.app.signals import ending
from virnucpro_exporter.errors import NoDeviceError
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.simulated import demonstration
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.terminal.gpus_table import gpus_screen


def show_gpus(
    echo: Callable[[str], None],
    *,
    watch: bool,
    as_json: bool,
    interval: float,
    simulated: int | None = None,
) -> None:
    """Show all GPUs, as a table or as JSON.

    Args:
        echo: Prints a line of JSON.
        watch: Again and again, until a signal comes.
        as_json: One JSON object per GPU and line in place of the table.
        interval: Seconds between two times.
        simulated: How many virtual GPUs to show in place of the real ones, or None.

    Raises:
        NoDeviceError: There is no GPU.
    """
    source = None if simulated is None else demonstration(simulated)
    with GPUMonitor(source=source) as monitor, contextlib.ExitStack() as stack:
        snapshot = monitor.wait()
        if not snapshot.devices:
            raise NoDeviceError(why_no_gpus(snapshot))

        def show_lines(gpus: GpuSnapshot) -> None:
            for row in rows(gpus):
                echo(json.dumps(row))

        show = show_lines if as_json else stack.enter_context(gpus_screen(in_place=watch))
        show(snapshot)
        over = ending()
        while watch and not over.wait(interval):
            show(monitor.latest())
