"""The thresholds of the alert rules, so that a panel never calls good what an alert calls bad."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import yaml

_RULES = Path(__file__).parents[1] / "prometheus" / "rules" / "alerts.yml"
_COMPARED = re.compile(r"[<>]=?\s*(\d+(?:\.\d+)?)")


@functools.cache
def _expressions() -> dict[str, str]:
    groups = yaml.safe_load(_RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def limit(alert: str, number: int = 0) -> float:
    """What the rule of an alert compares with.

    Args:
        alert: Its name, without `Virnucpro`.
        number: Which of the comparisons in the expression.

    Raises:
        KeyError: There is no such alert.
        IndexError: It has no such comparison.
    """
    return float(_COMPARED.findall(_expressions()[f"Virnucpro{alert}"])[number])
