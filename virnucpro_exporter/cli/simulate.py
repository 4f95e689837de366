"""`simulate`: try the metrics, dashboards and alerts without a GPU."""

from __future__ import annotations

import logging
from typing import Any

import click

from virnucpro_exporter.app import simulate as app
from virnucpro_exporter.cli.options import VIEW_OPTIONS, choice, given, with_options
from virnucpro_exporter.cli.output import print_end
from virnucpro_exporter.config import simulate_config

_OPTIONS = [
    click.option("--gpus", type=int, metavar="N", help="Virtual GPUs; default: 8."),
    click.option("--files", type=int, metavar="N", help="Made-up files; default: 500."),
    click.option("--speed", type=float, metavar="X", help="Times as fast as real; default: 60."),
    click.option("--scenario", type=choice(*app.SCENARIOS), help="What goes wrong; see below."),
    click.option("--forever", is_flag=True, default=None, help="New files when all are done."),
    click.option("--seed", type=int, metavar="N", help="Another seed, another run; default: 1."),
    click.option("--balancer", type=choice("stealing", "static"), help="Default: stealing."),
    click.option("--stall-threshold", type=float, metavar="SECONDS", help="Default: 300 / speed."),
    click.option(
        "--on-stall",
        type=choice("report", "retry", "restart"),
        help="What happens to the file of a stalled worker; default: report.",
    ),
]

_SCENARIOS = "\n".join(f"  {name:<10} {scenario.about}" for name, scenario in app.SCENARIOS.items())


@click.command(epilog=f"\b\nScenarios:\n{_SCENARIOS}")
@with_options([*_OPTIONS, *VIEW_OPTIONS])
def simulate(**options: Any) -> int:
    """Run made-up files on virtual GPUs, to try the metrics, dashboards and alerts.

    Scheduling, metrics, table and log are the real ones; no GPU and no file is needed. One seed
    gives the same decisions every time. Times are real seconds: --speed makes the virtual GPUs
    fast, not the clock, so that a file of four minutes takes four seconds at speed 60.

    The exit status is 0, also when simulated files fail and after Ctrl-C or SIGTERM, which end the
    simulation at once.
    """
    config = simulate_config(given(options))
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(message)s")
    app.simulate(config, print_end)
    return 0
