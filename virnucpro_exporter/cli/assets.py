"""`assets`: dashboards, rules and Compose files as files."""

from __future__ import annotations

from pathlib import Path

import click

from virnucpro_exporter.app import assets as app
from virnucpro_exporter.cli.help import Command
from virnucpro_exporter.cli.options import folder as paths
from virnucpro_exporter.text import counted


@click.command(
    cls=Command,
    examples=[
        ("Prometheus, Grafana and a simulated run, in containers", "assets monitoring"),
        (
            "alerts that link to your own pages",
            "assets rules --runbook-base https://wiki.example/runbook",
        ),
    ],
)
@click.argument("folder", metavar="DIR", type=paths)
@click.option("--force", is_flag=True, help="Overwrite existing files that differ.")
@click.option("--runbook-base", metavar="URL", help="URL of your runbook, for the links in alerts.")
@click.option("--grafana-url", metavar="URL", help="URL of your Grafana, for the links in alerts.")
def assets(
    folder: str,
    force: bool,  # noqa: FBT001 - click passes options by name
    runbook_base: str | None,
    grafana_url: str | None,
) -> int:
    """Write the dashboards, alert rules and Docker Compose files to a folder.

    With Docker, `COMPOSE_PROFILES=demo docker compose up` in that folder starts them all, with a
    simulated run. docs/deploy.md and docs/alerting.md, which are written too, explain the rest.
    """
    links = app.Links(runbook_base, grafana_url)
    written, same = app.write(Path(folder), force=force, links=links)
    there = f", {same} were there already" if same else ""
    click.echo(f"{counted(written, 'file')} written to {folder!r}{there}")
    return 0
