"""Entry point: errors become one line and an exit status."""

from __future__ import annotations

import errno
import os
import sys

import click

from virnucpro_exporter import streams
from virnucpro_exporter.errors import UsageError, VirnucproError


def main() -> None:
    """Run the command line and exit with its status."""
    streams.prepare()
    try:
        status = _status()
    except OSError:
        if not streams.is_output_lost():
            raise
        status = 1
    lost = streams.take_loss()
    if isinstance(lost, BrokenPipeError):
        status = 141  # the reader of our output has left
    elif lost is not None:
        streams.say(f"standard output cannot be written: {lost.strerror}")
        status = status or 1
    sys.exit(status)


def _status() -> int:
    try:
        # Loading takes a moment, in which Ctrl-C must not show a traceback either.
        from virnucpro_exporter.cli import cli  # noqa: PLC0415
        from virnucpro_exporter.cli.completion import VARIABLE, complete  # noqa: PLC0415

        if asked := os.environ.get(VARIABLE):
            return complete(cli, asked)
        status: int = cli.main(standalone_mode=False)
    except click.ClickException as error:
        from virnucpro_exporter.cli.faults import line_of  # noqa: PLC0415

        streams.say(str(UsageError(line_of(error))))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except VirnucproError as error:
        for line in error.lines:
            streams.say(line)
        return error.exit_code
    except SystemExit:  # what click makes of any broken pipe
        if not streams.is_output_lost():
            streams.say(os.strerror(errno.EPIPE))
        return 1
    return status


if __name__ == "__main__":
    main()
