"""What a run prints at its end."""

from __future__ import annotations

import click

from virnucpro_exporter.app.run import Finished


def print_end(finished: Finished) -> None:
    """Print what a run did, and on standard error what it could not do."""
    click.echo(finished.summary)
    if finished.failures:
        click.echo(finished.failures, err=True)
    if finished.error is not None:
        click.echo(f"virnucpro-exporter: {finished.error}", err=True)
