"""The committed configuration of Prometheus and Alertmanager, and how tests make it faster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "prometheus"
RULES = tuple(sorted((FOLDER / "rules").glob("*.yml")))
ALERTMANAGER = FOLDER / "alertmanager.yml"

# In an expression: the range or offset of a selector, or a number of seconds marked as such.
_DURATION = re.compile(r"(?:(?<=\[)|(?<=offset ))(?:\d+(?:ms|[smhdwy]))+")
_SECONDS = re.compile(r"\b\d+(?:\.\d+)?(?= # seconds\b)")
_PARTS = re.compile(r"(\d+)(ms|[smhdwy])")
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def load(path: Path) -> dict[str, Any]:
    """The content of a YAML file."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def rules_of(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All rules of a file of rules, as they are, so that a change of one changes the content."""
    for group in content["groups"]:
        yield from group["rules"]


def shorter(duration: str, factor: float) -> str:
    """A duration of Prometheus, divided; a millisecond at least.

    Args:
        duration: For example `1m30s`.
        factor: How many times shorter.
    """
    milliseconds = sum(int(n) * _UNITS[unit] for n, unit in _PARTS.findall(duration))
    return f"{max(1, round(milliseconds / factor))}ms"


def faster(content: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same rules with every length of time divided by a factor; nothing else changes.

    These are `for`, `keep_firing_for`, the interval of groups, the ranges and offsets of selectors,
    and numbers in expressions that a comment marks, as in `> 60 # seconds`. The shortest of them
    is 60 seconds, divided: it must hold several scrapes, evaluations and samples of the GPUs. With
    those once a second, 20 times is as fast as it goes. The stall threshold is a metric: give the
    exporter a shorter one.

    Args:
        content: Of a file of rules.
        factor: How many times faster.
    """
    groups = []
    for group in content["groups"]:
        interval = {"interval": shorter(group["interval"], factor)} if "interval" in group else {}
        rules = [_faster_rule(rule, factor) for rule in group["rules"]]
        groups.append({**group, **interval, "rules": rules})
    return {**content, "groups": groups}


def faster_rules(folder: Path, factor: float) -> list[Path]:
    """Faster copies of all committed files of rules.

    Args:
        folder: Where to put them; made if there is none.
        factor: How many times faster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in RULES:
        content = faster(load(path), factor)
        (folder / path.name).write_text(yaml.safe_dump(content, sort_keys=False))
    return [folder / path.name for path in RULES]


def _faster_rule(rule: Mapping[str, Any], factor: float) -> dict[str, Any]:
    expression = _DURATION.sub(lambda found: shorter(found[0], factor), rule["expr"])
    expression = _SECONDS.sub(lambda found: f"{float(found[0]) / factor:g}", expression)
    waits = {key: shorter(rule[key], factor) for key in ("for", "keep_firing_for") if key in rule}
    return {**rule, "expr": expression, **waits}
