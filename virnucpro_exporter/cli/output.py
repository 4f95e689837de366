"""What a run prints at its end."""

from __future__ import annotations

import contextlib

import click

from virnucpro_exporter import streams
from virnucpro_exporter.app.run import Finished


def print_end(finished: Finished) -> None:
    """Print what a run did, and on standard error what it could not do.

    The results are there, so output that cannot be written changes nothing but a line of warning.
    """
    with contextlib.suppress(OSError):
        click.echo(finished.summary)
    lost = streams.take_loss()
    if lost is not None and not isinstance(lost, BrokenPipeError):
        streams.say(f"standard output cannot be written: {lost.strerror}")
    if finished.failures:
        click.echo(finished.failures, err=True)
    if finished.error is not None:
        streams.say(str(finished.error))
    elif finished.notice:
        streams.say(finished.notice)
