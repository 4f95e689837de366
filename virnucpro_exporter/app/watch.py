"""Runs and GPUs of other machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from virnucpro_exporter.app.signals import ending
from virnucpro_exporter.remote.client import HttpOptions, RemoteMachine
from virnucpro_exporter.snapshot import RunResult
from virnucpro_exporter.terminal.machines import MachinesDisplay

_LOOK_SECONDS = 0.1  # between two looks for the end
# As the exit statuses of runs, of which the metrics contain only the result; the highest counts.
_STATUS = {
    RunResult.COMPLETED: 0,
    RunResult.FAILED: 1,
    RunResult.INTERRUPTED: 130,
    RunResult.VANISHED: 137,
}


def watch(urls: Sequence[str], interval: float, **options: Any) -> int:
    """Show what is behind metrics endpoints, until its runs have ended or a signal comes.

    Args:
        urls: Addresses of endpoints, of runs or of `serve`.
        interval: Seconds between two updates.
        options: How to reach them, see `HttpOptions`.

    Returns:
        0 after a signal; the worst result of the runs where all have ended.

    Raises:
        UsageError: An address or an option cannot be used.
    """
    machines = [RemoteMachine(url, HttpOptions(**options)) for url in dict.fromkeys(urls)]
    for machine in machines:
        machine.check()
    display = MachinesDisplay(machines, interval)
    over = ending()
    with display:
        while not over.wait(_LOOK_SECONDS) and display.results is None:
            pass
    return max((_STATUS[result] for result in display.results or ()), default=0)
