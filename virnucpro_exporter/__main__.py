"""Entry point: errors become one line and an exit status."""

from __future__ import annotations

import sys

import click

from virnucpro_exporter.cli import cli
from virnucpro_exporter.errors import VirnucproError


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort:
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
