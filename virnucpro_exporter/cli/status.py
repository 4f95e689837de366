"""`status`: how far the run in an output folder is."""

from __future__ import annotations

import json
from typing import Any

import click

from virnucpro_exporter.journal.status import RunStatus, read_status


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(folder: str, as_json: bool) -> int:  # noqa: FBT001 - click passes options by name
    """Tell how far the run in an output folder is, from its journal."""
    state = read_status(folder)
    if as_json:
        click.echo(json.dumps(_status_object(state)))
        return 0
    click.echo(f"run {state.run_id}: {state.state}{' (active)' if state.is_active else ''}")
    for name, number in state.counts.items():
        click.echo(f"  {name:<12}{number:>9}")
    for gpu in state.gpus:
        sequences = "?" if gpu.sequences is None else f"{gpu.sequences:,}"
        click.echo(f"  {gpu.gpu}: {gpu.files} files, {sequences} sequences, {gpu.seconds:.1f} s")
    click.echo(f"  {state.steals} steals")
    for path, error in state.failed:
        click.echo(f"failed: {path!r}: {error}")
    return 0


def _status_object(state: RunStatus) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "state": state.state,
        "active": state.is_active,
        "files": dict(state.counts),
        "steals": state.steals,
        "failed": [{"path": ascii(path)[1:-1], "error": error} for path, error in state.failed],
    }
