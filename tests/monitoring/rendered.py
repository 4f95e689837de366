"""What a person reads in panels, found by Grafana's own code from what a Prometheus answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.monitoring.dashboards import DASHBOARDS, as_sent, load, panels, target_of
from tests.monitoring.programs import PATIENCE, Prometheus

FOLDER = Path(__file__).parents[1] / "grafana"
NODE = shutil.which("node")
IS_THERE = NODE is not None and (FOLDER / "node_modules" / "@grafana" / "data").is_dir()

Question = dict[str, Any]


def question(
    prometheus: Prometheus,
    panel: Mapping[str, Any],
    variables: Mapping[str, str],
    *,
    at: float,
    shown: float = 3600.0,
) -> Question:
    """A panel, and what Prometheus answers to its queries.

    Args:
        prometheus: Is asked.
        panel: Of a dashboard.
        variables: By name, the text that replaces a variable.
        at: The end of the time shown, in Unix seconds.
        shown: How much time is shown, in seconds; a panel may have a time of its own.
    """
    if "timeFrom" in panel:
        shown = float(panel["timeFrom"].removesuffix("h")) * 3600
    results = {}
    for target in panel["targets"]:
        expr = as_sent(target_of("", panel["title"], target), variables, shown)
        if target.get("instant"):
            answer = prometheus.get("query", query=expr, time=str(at))
        else:
            step = max(15.0, shown / 240)
            times = {"start": str(at - shown), "end": str(at), "step": str(step)}
            answer = prometheus.get("query_range", query=expr, **times)
        results[target["refId"]] = answer["result"]
    return {"panel": panel, "results": results, "at": at}


def read(questions: Sequence[Question]) -> list[list[str]]:
    """The lines that a person reads in each panel, tables and large numbers."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "read.cjs"],
        cwd=FOLDER,
        input=json.dumps(questions),
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[list[str]] = json.loads(done.stdout)
    return answers


def readable(uid: str) -> list[dict[str, Any]]:
    """The tables and large numbers of a dashboard, from top to bottom."""
    (path,) = (path for path in DASHBOARDS if path.stem == uid)
    return [panel for panel in panels(load(path)) if panel["type"] in ("stat", "table")]
