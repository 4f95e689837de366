"""The picture of a run as a Plotly figure: a plain mapping, so that nothing here needs Plotly.

From top to bottom, over one axis of running time: which GPU worked on which file, throughput,
compute utilisation, memory. Up to `MOST_LINES` GPUs are lines, more are rows of a heat map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from virnucpro_exporter.report.bins import Column, binned
from virnucpro_exporter.report.summary import Summary
from virnucpro_exporter.report.timeline import NARROW_LANE, Panel, Trace, shown, timeline_panel
from virnucpro_exporter.text import format_moment

MOST_LINES = 8
PANEL, GAP, TOP, EDGES = 170, 64, 110, 160  # heights in pixels

# Colours that colour-blind people tell apart (Okabe and Ito).
LINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#555555")
UNITS = ((300.0, "seconds", 1.0), (3 * 3600.0, "minutes", 60.0), (float("inf"), "hours", 3600.0))


def figure(summary: Summary) -> dict[str, Any]:
    """The picture; it has no panel for what is not known, and is empty when nothing is."""
    unit, scale = _unit(summary)
    panels = [*timeline_panel(summary, scale), *_log_panels(summary, scale)]
    if not panels:
        return {}
    layout = _layout(summary, unit, scale, panels)
    data: list[Trace] = []
    for number, panel in enumerate(panels, 1):
        axis = "y" if number == 1 else f"y{number}"
        data += [{**trace, "xaxis": "x", "yaxis": axis} for trace in panel.traces]
    return {"data": data, "layout": layout}


def _log_panels(summary: Summary, scale: float) -> Iterator[Panel]:
    if not summary.series:
        return
    means = binned(summary.series, summary.time)
    lanes = [gpu.gpu for gpu in summary.gpus if gpu.gpu in summary.series]
    centers = [center / scale for center in means.centers]
    for title, unit, columns, top in (
        ("Throughput", "sequences/s", means.throughput, None),
        ("Compute utilisation", "%", means.compute, 100),
        ("Memory in use", "%", means.memory, 100),
    ):
        known = {gpu: columns[gpu] for gpu in lanes if any(v is not None for v in columns[gpu])}
        if not known:
            continue
        if len(lanes) <= MOST_LINES:
            axis = {
                "title": {"text": unit},
                "rangemode": "tozero",
                **({"range": [0, top * 1.03]} if top else {}),
            }
            traces = _lines(known, lanes, centers, unit, is_first=title == "Throughput")
            yield Panel(title, PANEL, traces, axis)
        else:
            traces = [_heat(columns, lanes, centers, unit, top)]
            height = max(PANEL, NARROW_LANE * len(lanes))
            rows = {"type": "category", "autorange": "reversed"}
            yield Panel(f"{title} ({unit})", height, traces, rows)


def _lines(
    columns: dict[str, Column],
    lanes: Sequence[str],
    centers: list[float],
    unit: str,
    *,
    is_first: bool,
) -> list[Trace]:
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"GPU {shown(gpu)}",
            "legendgroup": f"gpu {shown(gpu)}",
            "showlegend": is_first,
            "x": centers,
            "y": column,
            "connectgaps": False,
            "line": {"color": LINES[lanes.index(gpu)], "width": 1.6},
            "hovertemplate": f"GPU {shown(gpu)}: %{{y:,.4~g}} {unit}<extra></extra>",
        }
        for gpu, column in columns.items()
    ]


def _heat(
    columns: Mapping[str, Column],
    lanes: Sequence[str],
    centers: list[float],
    unit: str,
    top: int | None,
) -> Trace:
    return {
        "type": "heatmap",
        "x": centers,
        "y": [shown(lane) for lane in lanes],
        "z": [columns[lane] for lane in lanes],
        "colorscale": "Viridis",
        "zmin": 0,
        **({"zmax": top} if top else {}),
        "hoverongaps": False,
        "showscale": True,
        "hovertemplate": f"GPU %{{y}}: %{{z:,.4~g}} {unit}<extra></extra>",
    }


def _layout(summary: Summary, unit: str, scale: float, panels: Sequence[Panel]) -> dict[str, Any]:
    inner = sum(panel.height for panel in panels) + GAP * max(0, len(panels) - 1)
    layout: dict[str, Any] = {
        "height": inner + EDGES,
        "margin": {"l": 70, "r": 30, "t": TOP, "b": 50},
        "barmode": "overlay",
        "hovermode": "closest",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "#f7f7f8",
        "legend": {"orientation": "h", "y": 1 + 26 / inner, "yanchor": "bottom", "x": 0},
        "annotations": [],
        "shapes": [],
        "xaxis": {
            "title": {"text": f"{unit} of running time since {_start(summary)}"},
            "range": [0, summary.time.total / scale],
            "anchor": "y" if len(panels) == 1 else f"y{len(panels)}",
            "gridcolor": "#dcdce0",
            "zeroline": False,
        },
    }
    top = float(inner)
    for number, panel in enumerate(panels, 1):
        domain = [(top - panel.height) / inner, top / inner]
        suffix = "" if number == 1 else str(number)
        layout[f"yaxis{suffix}"] = {
            "gridcolor": "#dcdce0",
            "zeroline": False,
            "automargin": True,
            **panel.axis,
            "domain": domain,
        }
        for trace in panel.traces:
            if trace["type"] == "heatmap":
                trace["colorbar"] = {
                    "y": sum(domain) / 2,
                    "len": domain[1] - domain[0],
                    "thickness": 12,
                    "outlinewidth": 0,
                }
        layout["annotations"].append(_title(panel.title, domain[1]))
        top -= panel.height + GAP
    _mark_joins(summary, scale, layout)
    return layout


def _title(text: str, y: float) -> dict[str, Any]:
    return {
        "text": f"<b>{text}</b>",
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": y,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "yshift": 4,
    }


def _mark_joins(summary: Summary, scale: float, layout: dict[str, Any]) -> None:
    """A line wherever a run ended and a later one went on."""
    for start, period in list(zip(summary.time.starts, summary.time.periods, strict=True))[1:]:
        x = start / scale
        layout["shapes"].append(
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": x,
                "x1": x,
                "y0": 0,
                "y1": 1,
                "line": {"color": "#666", "width": 1, "dash": "dash"},
            }
        )
        layout["annotations"].append(
            {
                "text": f"resumed {format_moment(period.started)}",
                "xref": "x",
                "yref": "paper",
                "x": x,
                "y": 0,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 11, "color": "#666"},
            }
        )


def _unit(summary: Summary) -> tuple[str, float]:
    return next((name, scale) for limit, name, scale in UNITS if summary.time.total < limit)


def _start(summary: Summary) -> str:
    return format_moment(summary.time.periods[0].started)
