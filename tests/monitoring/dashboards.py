"""The committed dashboards, and their queries as Grafana would send them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "grafana"
DASHBOARDS = tuple(sorted((FOLDER / "dashboards").glob("*.json")))
DATASOURCE = FOLDER / "provisioning" / "datasources" / "prometheus.yml"

_WIDTH = 1000  # points in a panel: pixels of a usual screen
_UNITS = {"s": 1, "m": 60, "h": 3600}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
# A name that no parenthesis follows, with its matchers.
_SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()(\{(?:[^}\"]|\"(?:[^\"\\]|\\.)*\")*\})?")
_WORDS = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class Target:
    """One query of a panel or an annotation.

    Attributes:
        dashboard: The uid of its dashboard.
        panel: The title of its panel, or the name of its annotation.
        expr: PromQL, with variables.
        instant: Whether it is evaluated once, and not along a range.
        interval: The least time between two points; empty where the datasource says.
    """

    dashboard: str
    panel: str
    expr: str
    instant: bool
    interval: str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}: {self.expr}"


def load(path: Path) -> dict[str, Any]:
    """The content of a dashboard."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels but the headings of sections."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Every query of every dashboard, those of annotations included."""
    for path in DASHBOARDS:
        dashboard = load(path)
        named = [(p["title"], target) for p in panels(dashboard) for target in p["targets"]]
        named += [(a["name"], a["target"]) for a in dashboard["annotations"]["list"]]
        for name, target in named:
            yield target_of(dashboard["uid"], name, target)


def target_of(dashboard: str, panel: str, target: Mapping[str, Any]) -> Target:
    """A query as a dashboard has it."""
    is_instant, interval = bool(target.get("instant")), target.get("interval", "")
    return Target(dashboard, panel, target["expr"], is_instant, interval)


def seconds(duration: str) -> float:
    """A duration of one unit, as `15s`."""
    return float(duration[:-1]) * _UNITS[duration[-1]]


def scrape_interval() -> float:
    """What the provisioned datasource tells Grafana, in seconds."""
    content = yaml.safe_load(DATASOURCE.read_text())
    return seconds(content["datasources"][0]["jsonData"]["timeInterval"])


def as_sent(target: Target, variables: Mapping[str, str], shown: float) -> str:
    """The query with its variables replaced, as Grafana does.

    Args:
        target: The query.
        variables: By name, the text that replaces a variable.
        shown: How much time the dashboard shows, in seconds.
    """
    scrape = scrape_interval()
    least = seconds(target.interval) if target.interval else scrape
    step = max(least, shown / _WIDTH)
    builtin = {
        "__rate_interval": f"{max(4 * scrape, step + scrape):.0f}s",
        "__interval": f"{step:.0f}s",
        "__range": f"{shown:.0f}s",
    }
    every = {**variables, **builtin}
    return re.sub(r"\$([a-z_]\w*)", lambda found: every[found[1]], target.expr)


def chosen(values: list[str]) -> str:
    """What stands for the values chosen of a variable: a regular expression in a string."""
    escaped = [re.sub(r"[\\^$*+?.()|{}\[\]]", r"\\\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def selectors(expr: str) -> list[tuple[str, str]]:
    """The metrics of an expression with their matchers, `("up", '{job="x"}')`."""
    hidden: list[str] = []

    def hide(found: re.Match[str]) -> str:
        hidden.append(found[0])
        return f'"{len(hidden) - 1}"'

    bare = _GROUPING.sub("", _STRING.sub(hide, expr))
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    return [
        (name, re.sub(r'"(\d+)"', lambda found: hidden[int(found[1])], matchers))
        for name, matchers in _SELECTOR.findall(bare)
        if name not in _WORDS
    ]
