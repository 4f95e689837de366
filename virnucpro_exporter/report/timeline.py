"""Which GPU worked on which file, with stalls and steals: the top panel of the picture."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.history import AttemptSpan, Outcome, StallSpan
from virnucpro_exporter.report.blocks import Block, blocks, is_odd
from virnucpro_exporter.report.summary import Summary
from virnucpro_exporter.text import clean, format_clock, format_span

Trace = dict[str, Any]


MOST_ARROWS = 200  # steals that are drawn from victim to thief; more would hide the files
WIDTH = 1200  # pixels, about; shorter blocks are joined
LANE, NARROW_LANE, MANY_LANES = 30, 14, 16  # heights in pixels; from how many on

# Colours that colour-blind people tell apart (Okabe and Ito).
STALL, STEAL = "#d55e00", "#5b2a86"
GOOD = ("#4c93c9", "#7fb6e0")  # by turns
HATCH = {"fillmode": "overlay", "solidity": 0.25}


class Fate(NamedTuple):
    """How attempts of one outcome are drawn.

    Attributes:
        name: In the legend.
        color: Their colour.
        pattern: The shape of their hatching, or empty.
    """

    name: str
    color: str
    pattern: str = ""


def fate(outcome: Outcome) -> Fate:  # noqa: PLR0911, RET503 - one line for each outcome
    """How attempts of an outcome are drawn."""
    match outcome:
        case Outcome.COMPLETED:
            return Fate("file", GOOD[0])
        case Outcome.RUNNING:
            return Fate("file in process", "#b5d99c")
        case Outcome.FAILED:
            return Fate("failed attempt", "#c0392b", "x")
        case Outcome.TIMED_OUT:
            return Fate("took longer than the limit", "#e67e22", "x")
        case Outcome.WORKER_LOST:
            return Fate("lost with its worker", "#7b241c", "x")
        case Outcome.SUPERSEDED | Outcome.CANCELLED:
            return Fate("attempt that came second", "#b0b0b0", "/")
        case Outcome.MOVED:
            return Fate("moved to another GPU", "#8e9fb3", "/")
        case Outcome.INTERRUPTED:
            return Fate("cut off with the run", "#d4ac0d", "/")
        case _:
            assert_never(outcome)


class Panel(NamedTuple):
    """One part of the picture.

    Attributes:
        title: What it shows.
        height: In pixels.
        traces: Plotly's, without their axes.
        axis: Plotly's settings of its vertical axis.
    """

    title: str
    height: int
    traces: list[Trace]
    axis: dict[str, Any]


def timeline_panel(summary: Summary, scale: float) -> Iterator[Panel]:
    """The panel, unless no attempt is known.

    Args:
        summary: What there is to show.
        scale: Seconds in one unit of the horizontal axis.
    """
    if not summary.attempts:
        return
    lanes = [gpu.gpu for gpu in summary.gpus]
    axis = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": lanes,
        "range": [len(lanes) - 0.4, -0.6],
        "showgrid": False,
        "tickmode": "array",
        "tickvals": lanes,
        "ticktext": [shown(lane) for lane in lanes],
        "tickfont": {"size": 13 if len(lanes) <= MANY_LANES else 9},
    }
    traces = [
        *_troubles(summary, scale),
        *_files(summary, scale),
        *_steals(summary, scale),
    ]
    lane = LANE if len(lanes) <= MANY_LANES else NARROW_LANE
    yield Panel("Files on each GPU", max(110, lane * len(lanes)), traces, axis)


def _files(summary: Summary, scale: float) -> Iterator[Trace]:
    made = blocks(summary.attempts, summary.time, summary.time.total / WIDTH)
    odd = dict(zip(map(id, made), is_odd(made), strict=True))
    for outcome in Outcome:
        name, color, pattern = fate(outcome)
        chosen = [block for block in made if block.outcome is outcome]
        if not chosen:
            continue
        colors = [GOOD[odd[id(block)]] for block in chosen]
        yield {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "base": [block.begin / scale for block in chosen],
            # What took no time is still there.
            "x": [
                max(block.end - block.begin, summary.time.total / WIDTH) / scale for block in chosen
            ],
            "y": [block.gpu for block in chosen],
            "width": 0.62,
            "marker": {
                "color": colors if outcome is Outcome.COMPLETED else color,
                "line": {"width": 0},
                "pattern": {**HATCH, "shape": pattern, "fgcolor": "white", "size": 6},
            },
            "hovertext": [_about(block) for block in chosen],
            "hoverinfo": "text",
        }


def _about(block: Block) -> str:
    first = block.first
    where = f"GPU {shown(block.gpu)}, {format_clock(first.started)}"
    if block.count > 1:
        return (
            f"{block.count:,} files, {where} for {format_span(block.end - block.begin)}"
            f"<br>first: {_name(first)}"
        )
    lines = [
        _name(first),
        f"{where} for {format_span(first.ended - first.started)}",
        fate(first.outcome).name,
    ]
    if first.sequences is not None:
        lines[-1] = f"{first.sequences:,} sequences"
    if first.error:
        lines.append(shown(first.error))
    return "<br>".join(lines)


def _troubles(summary: Summary, scale: float) -> Iterator[Trace]:
    """The times in which GPUs did not answer or stalled."""
    stalls = [stall for gpu in summary.gpus for stall in summary.stalls_of(gpu.gpu)]
    for name, words, shape, spans in (
        ("GPU down", "did not answer from", "x", summary.downs),
        ("stalled", "stalled at", "/", stalls),
    ):
        if spans:
            yield _trouble(name, words, shape, spans, summary, scale)


def _trouble(
    name: str,
    words: str,
    shape: str,
    found: Sequence[StallSpan],
    summary: Summary,
    scale: float,
) -> Trace:
    spans = [(summary.time.at(s.started), summary.time.at(s.ended), s) for s in found]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "base": [begin / scale for begin, _, _ in spans],
        "x": [max(end - begin, summary.time.total / WIDTH) / scale for begin, end, _ in spans],
        "y": [span.gpu for _, _, span in spans],
        "width": 0.98,
        "marker": {
            "color": "rgba(213,94,0,0.25)",
            "line": {"width": 1.5, "color": STALL},
            "pattern": {**HATCH, "shape": shape, "fgcolor": STALL, "size": 7},
        },
        "hovertext": [
            f"GPU {shown(span.gpu)} {words} {format_clock(span.started)}"
            f" for {format_span(span.ended - span.started)}"
            for _, _, span in spans
        ],
        "hoverinfo": "text",
    }


def _steals(summary: Summary, scale: float) -> Iterator[Trace]:
    if not summary.steals:
        return
    times = [summary.time.at(steal.timestamp) / scale for steal in summary.steals]
    if len(times) <= MOST_ARROWS:
        x: list[float | None] = []
        y: list[str | None] = []
        for time, steal in zip(times, summary.steals, strict=True):
            x += [time, time, None]
            y += [steal.source_gpu, steal.dest_gpu, None]
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "line": {"color": STEAL, "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": "steals",
        }
    yield {
        "type": "scatter",
        "mode": "markers",
        "name": "steal, at the thief",
        "legendgroup": "steals",
        "x": times,
        "y": [steal.dest_gpu for steal in summary.steals],
        "marker": {
            "symbol": "diamond",
            "size": 7 if len(times) <= MOST_ARROWS else 5,
            "color": STEAL,
            "line": {"width": 1, "color": "white"},
        },
        "hovertext": [
            f"GPU {shown(steal.dest_gpu)} stole {shown(steal.file_name)}<br>from GPU "
            f"{shown(steal.source_gpu)} at {format_clock(steal.timestamp)}"
            for steal in summary.steals
        ],
        "hoverinfo": "text",
    }


def _name(span: AttemptSpan) -> str:
    return f"<b>{shown(span.path.rpartition('/')[2])}</b>"


def shown(text: str) -> str:
    """Foreign text for Plotly, which takes some HTML."""
    return html.escape(clean(text))
