"""The values of the metrics log over time: throughput, use of the GPUs, memory, power.

Up to `MOST_LINES` GPUs are lines; of more, each is a row whose shade is the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from virnucpro_exporter.report import svg
from virnucpro_exporter.report.axis import LEFT, WIDTH, Axis
from virnucpro_exporter.report.bins import Binned, Column, binned
from virnucpro_exporter.report.summary import Summary
from virnucpro_exporter.text import format_number

MOST_LINES = 8
_HEIGHT, _ROW, _TOP = 150.0, 9.0, 8.0
_SHADES = 6


def charts(summary: Summary, axis: Axis) -> Iterator[str]:
    """A heading and a picture for each value in the log, as HTML."""
    if not summary.series:
        return
    means = binned(summary.series, summary.time)
    lanes = [gpu.gpu for gpu in summary.gpus if gpu.gpu in summary.series]
    for title, unit, columns, top in _values(means):
        known = {gpu: columns[gpu] for gpu in lanes if any(v is not None for v in columns[gpu])}
        if not known:
            continue
        highest = max(value for column in known.values() for value in column if value is not None)
        most = top or _round_up(highest)
        if len(lanes) <= MOST_LINES:
            drawn = _lines(known, lanes, means.centers, axis, title, unit, most)
            legend = _legend(known, lanes)
        else:
            drawn = _rows(known, means.centers, axis, title, unit, most)
            legend = f"The darkest shade is {format_number(most)} {unit}."
        yield f'<h3>{title} <span class="dim">({unit})</span></h3>'
        yield f'<p class="dim legend">{legend}</p><div class="wide">{drawn}</div>'


def _values(means: Binned) -> Iterator[tuple[str, str, Mapping[str, Column], float | None]]:
    has_sequences = any(v is not None for column in means.throughput.values() for v in column)
    if has_sequences:
        yield "Throughput", "sequences/s", means.throughput, None
    else:
        yield "Throughput", "residues/s", means.residues, None
    yield "Compute utilisation", "%", means.compute, 100.0
    yield "Memory in use", "%", means.memory, 100.0
    yield "Power", "W", means.power, None


def _round_up(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    step = 10.0**-9
    while step < value:
        step = next((step * f for f in (2.0, 5.0) if step * f >= value), step * 10.0)
    return step


def _lines(
    known: Mapping[str, Column],
    lanes: Sequence[str],
    centers: Sequence[float],
    axis: Axis,
    title: str,
    unit: str,
    most: float,
) -> str:
    def height(value: float | None) -> float | None:
        return None if value is None else _TOP + _HEIGHT * (1.0 - min(value / most, 1.0))

    parts = [axis.grid(_TOP + _HEIGHT)]
    for share in (0.0, 0.5, 1.0):
        y = _TOP + _HEIGHT * (1.0 - share)
        parts.append(svg.path(f"M{LEFT} {svg.number(y)}h{WIDTH}", "grid"))
        parts.append(svg.label(LEFT - 8, y + 4, format_number(share * most), "lane"))
    for gpu, column in known.items():
        points = zip(map(axis.place, centers), map(height, column), strict=True)
        style = f"line c{lanes.index(gpu)}"
        parts.append(svg.path(svg.line(points), style, f"GPU {gpu}: {_about(column)} {unit}"))
    parts.append(axis.ticks(_TOP + _HEIGHT))
    about = "; ".join(f"GPU {gpu}: {_about(column)} {unit}" for gpu, column in known.items())
    return svg.picture(f"{title} over time", about, axis.width, _TOP + _HEIGHT + 40, parts)


def _about(column: Column) -> str:
    values = [value for value in column if value is not None]
    mean = format_number(sum(values) / len(values))
    return f"{mean} on average, {format_number(min(values))} to {format_number(max(values))}"


def _rows(
    known: Mapping[str, Column],
    centers: Sequence[float],
    axis: Axis,
    title: str,
    unit: str,
    most: float,
) -> str:
    step = WIDTH / len(centers)
    parts = []
    for row, (gpu, column) in enumerate(known.items()):
        shades = [
            None if value is None else min(_SHADES - 1, int(_SHADES * value / most))
            for value in column
        ]
        outlines: dict[int, list[str]] = {}
        start = 0
        for index in range(1, len(shades) + 1):
            if index < len(shades) and shades[index] == shades[start]:
                continue
            shade = shades[start]
            if shade is not None:
                outlines.setdefault(shade, []).append(
                    svg.box(LEFT + start * step, 0, (index - start) * step, _ROW - 1)
                )
            start = index
        drawn = [svg.path("".join(boxes), f"s{shade}") for shade, boxes in outlines.items()]
        drawn.append(svg.label(LEFT - 8, _ROW - 1, gpu, "lane small"))
        tip = f"<title>{svg.text(f'GPU {gpu}: {_about(column)} {unit}')}</title>"
        parts.append(svg.group([tip, *drawn], y=_TOP + row * _ROW))
    height = _TOP + _ROW * len(known)
    parts.append(axis.ticks(height))
    about = f"{len(known)} workers, 0 to {format_number(most)} {unit}"
    return svg.picture(f"{title} over time", about, axis.width, height + 40, parts)


def _legend(known: Mapping[str, Column], lanes: Sequence[str]) -> str:
    return "".join(
        f'<span><svg aria-hidden="true" viewBox="0 0 14 14">'
        f"{svg.path('M0 7h14', f'line c{lanes.index(gpu)}')}</svg>GPU {svg.text(gpu)}</span>"
        for gpu in known
    )
