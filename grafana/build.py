"""Writes the dashboards to `dashboards/`: `python -m grafana.build`."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import exporter, fleet, gpu, run

FOLDER = Path(__file__).parent / "dashboards"


def files() -> dict[str, str]:
    """The content of every file, by its name."""
    built = (fleet.build(), run.build(), gpu.build(), exporter.build())
    return {f"{dashboard.uid}.json": _text(dashboard) for dashboard in built}


def _text(dashboard: Dashboard) -> str:
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content)
