"""Entry point: errors become one line and an exit status."""

from __future__ import annotations

import sys

import click

from virnucpro_exporter.errors import VirnucproError


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        # Loading takes a moment, in which Ctrl-C must not show a traceback either.
        from virnucpro_exporter.cli import cli  # noqa: PLC0415

        status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except VirnucproError as error:
        print(f"virnucpro-exporter: {error}", file=sys.stderr)  # noqa: T201 - the error line
        status = error.exit_code
    except BrokenPipeError:
        status = 141  # whoever read our output has left
        sys.stdout = None  # nothing to flush to
    sys.exit(status)


if __name__ == "__main__":
    main()
