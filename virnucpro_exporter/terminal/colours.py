"""Colours that are legible on white and on black, and how busy a GPU is in them.

The yellow and the bright green of many terminals cannot be read on white. These three are of medium
brightness, from the 256 colours; terminals with 16 colours get the nearest.
"""

from __future__ import annotations

GOOD, FAIR, POOR = "color(28)", "color(130)", "color(160)"
ALARM = f"bold white on {POOR}"


def utilization_style(ratio: float | None) -> str:
    """Good from 80 %, fair from 50 %, poor below; dim when not known."""
    if ratio is None:
        return "dim"
    if ratio >= 0.8:
        return GOOD
    return FAIR if ratio >= 0.5 else POOR
