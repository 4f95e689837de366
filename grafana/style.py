"""Colours, thresholds and value mappings.

Every colour stands out from the background of a panel in both of Grafana's themes, and all are
distinct for people with the common kinds of colour blindness (after the palette of Okabe and Ito).
A colour never carries information alone: there is always a text or a number with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

GOOD = "#0072B2"  # blue
WARNING = "#B98000"  # dark orange
BAD = "#D55E00"  # vermilion
NEUTRAL = "#7F7F7F"
CLEAR = "transparent"  # a cell of a table in which nothing is wrong
# Of the GPUs, by their number; the ninth has the colour of the first.
GPU_COLOURS = (
    "#0072B2",
    "#B98000",
    "#009E73",
    "#BA6B95",
    "#3793C6",
    "#D55E00",
    "#7A7400",
    "#7F7F7F",
)

States = Mapping[str, tuple[str, str]]

# By rising codes from the worst to the best, so that a table sorted by them has problems on top.
WORKER_STATES = {
    "0": ("GPU lost", BAD),
    "1": ("worker down", BAD),
    "2": ("stalled", BAD),
    "3": ("slow", WARNING),
    "4": ("starved", WARNING),
    "5": ("idle", NEUTRAL),
    "6": ("loading", NEUTRAL),
    "7": ("busy", GOOD),
}
# By rising codes from the best to the worst.
VERDICTS = {
    "0": ("completed", GOOD),
    "1": ("healthy", GOOD),
    "2": ("files failed", WARNING),
    "3": ("GPU starved", WARNING),
    "4": ("GPU stalled", BAD),
    "5": ("GPU lost", BAD),
    "6": ("storage full", BAD),
    "7": ("failed", BAD),
}
RUN_STATES = {
    "1": ("failed", BAD),
    "2": ("vanished", BAD),
    "3": ("interrupted", WARNING),
    "4": ("completed", GOOD),
    "5": ("starting", NEUTRAL),
    "6": ("running", GOOD),
    "7": ("draining", WARNING),
    "8": ("no longer seen", BAD),
}
MACHINE_STATES = {
    "0": ("does not answer", BAD),
    "1": ("GPU lost", BAD),
    "2": ("GPUs unknown", BAD),
    "3": ("run failed", BAD),
    "4": ("stalled", BAD),
    "5": ("worker down", BAD),
    "6": ("GPU errors", BAD),
    "7": ("throttled", WARNING),
    "8": ("starved", WARNING),
    "9": ("ok", GOOD),
    "10": ("idle", NEUTRAL),
}
THROTTLING = {
    "0": ("none", NEUTRAL),
    "1": ("power cap", GOOD),
    "2": ("software, too hot", WARNING),
    "3": ("hardware, too hot", BAD),
    "4": ("hardware, power brake", BAD),
    "5": ("hardware", BAD),
    "6": ("another GPU of its group", NEUTRAL),
    "7": ("a setting", NEUTRAL),
    "8": ("a display", NEUTRAL),
}
PENDING = {"0": ("no", CLEAR), "1": ("reset needed", WARNING)}
RECOVERY = {
    "0": ("nothing", CLEAR),
    "1": ("a reset of the GPU", BAD),
    "2": ("a reboot of the node", BAD),
    "3": ("an end of peer-to-peer work", WARNING),
    "4": ("its work moved, then a reset", BAD),
    "5": ("its IMEX domain mended", BAD),
    "6": ("a reset of the bus", BAD),
    "7": ("a reboot of the system", BAD),
}
UP = {"0": ("down", BAD), "1": ("up", GOOD)}
GPU_STATES = {"0": ("lost", BAD), "1": ("not known", WARNING), "2": ("answers", GOOD)}
SUCCEEDS = {"0": ("failing", BAD), "1": ("succeeds", GOOD)}


def thresholds(base: str, *steps: tuple[float, str]) -> ThresholdsConfig:
    """Colours by value.

    Args:
        base: The colour below all steps.
        steps: From which value on which colour holds, in rising order.
    """
    listed = [Threshold(None, base), *(Threshold(value, colour) for value, colour in steps)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(listed)


def mapping(states: States) -> ValueMap:
    """Texts and colours in place of values.

    Args:
        states: By value, the text and its colour.
    """
    return ValueMap(
        {
            value: ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(states.items())
        }
    )


def fixed(colour: str) -> DynamicConfigValue:
    """The property that gives a series one colour."""
    return DynamicConfigValue(
        "color", FieldColor().mode(FieldColorModeId.FIXED).fixed_color(colour).build()
    )
