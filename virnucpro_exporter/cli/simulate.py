"""`simulate`: try the metrics, dashboards and alerts without a GPU."""

from __future__ import annotations

import os
from typing import Any

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app import simulate as app
from virnucpro_exporter.cli.options import TableCommand, given, with_table
from virnucpro_exporter.cli.output import print_end
from virnucpro_exporter.config import SimulateConfig, declared, simulate_config

_SCENARIOS = "\n".join(f"  {name:<10} {scenario.about}" for name, scenario in app.SCENARIOS.items())


@click.command(
    cls=TableCommand,
    epilog=f"\b\nScenarios:\n{_SCENARIOS}",
    examples=[
        ("simulate a stalled GPU", "simulate --scenario stall"),
        ("feed dashboards until Ctrl-C", "simulate --forever --no-dashboard"),
    ],
)
@with_table(declared(SimulateConfig), {"scenario": tuple(app.SCENARIOS)})
def simulate(**options: Any) -> int:
    """Run made-up files on virtual GPUs, to try the metrics, dashboards and alerts.

    Scheduling, metrics, table and log are the real ones; no GPU and no file is needed. One seed
    gives the same decisions every time. Times are real seconds: --speed makes the virtual GPUs
    fast, not the clock, so that a file of four minutes takes four seconds at speed 60.

    The exit status is 0, also when simulated files fail and after Ctrl-C or SIGTERM, which end the
    simulation at once.
    """
    config = simulate_config(given(options), os.environ)
    streams.start_logging(config.views.log_level)
    if config.simulated.machines > 1:
        return app.simulate_machines(config)
    app.simulate(config, print_end)
    return 0
