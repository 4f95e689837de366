"""Options that several commands share.

Defaults live in the configuration models alone: an option that was not given must not hide what the
configuration file says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def choice(*values: str) -> click.Choice[str]:
    """One of these words."""
    return click.Choice(values)


# Hidden: to look at a command where there is no GPU.
simulated_gpus = click.option(
    "--simulate-gpus",
    "simulated",
    type=click.IntRange(1, 64),
    hidden=True,
)

VIEW_OPTIONS = [
    click.option(
        "--dashboard/--no-dashboard",
        "--show-gpu-dashboard/--no-gpu-dashboard",
        default=None,
        help="A live table, or log lines; default: the table on a terminal.",
    ),
    click.option(
        "--metrics-log", metavar="FILE", help="CSV log; default of run: DIR/gpu_metrics.log."
    ),
    click.option("--metrics-log-interval", type=float, metavar="SECONDS", help="Default: 5."),
    click.option("--metrics-log-max-bytes", type=int, metavar="N", help="Default: 50000000."),
    click.option("--web/--no-web", default=None, help="Serve metrics; default: yes."),
    click.option(
        "--web-listen-address",
        multiple=True,
        metavar="HOST:PORT",
        help="Repeatable; default: :9877 (all addresses).",
    ),
    click.option("--web-telemetry-path", metavar="PATH", help="Default: /metrics."),
    click.option("--web-config-file", metavar="FILE", help="TLS and basic authentication."),
    click.option("--linger", type=float, metavar="SECONDS", help="Serve on after the end; 30."),
    click.option("--textfile", metavar="FILE.prom", help="For node_exporter."),
    click.option("--push-gateway", metavar="URL", help="Push the metrics there."),
    click.option("--push-interval", type=float, metavar="SECONDS", help="Default: 15."),
    click.option("--log-level", type=choice("debug", "info", "warning", "error")),
]


def with_options(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """A decorator that adds options, in the order in which they are listed."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what was given on the command line."""
    return {name: value for name, value in options.items() if value not in (None, ())}
