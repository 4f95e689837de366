"""The report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from virnucpro_exporter import __version__
from virnucpro_exporter.errors import ReportError
from virnucpro_exporter.history import AttemptSpan, Outcome
from virnucpro_exporter.report.figure import figure
from virnucpro_exporter.report.findings import findings
from virnucpro_exporter.report.summary import GpuSummary, Summary
from virnucpro_exporter.report.text import COLUMNS, cells, whole
from virnucpro_exporter.text import (
    clean,
    format_moment,
    format_number,
    format_span,
    local_offset,
)

MOST_FAILED = 200
MOST_LONGEST = 10
MOST_PAIRS = 20
HINT = (
    "Point at something to read it. Drag to zoom in, double-click to zoom out, click in the legend "
    "to hide."
)
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["lasso2d", "select2d"],
}

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1280px; margin: 0 auto; padding: 24px 28px 60px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 8px; }
p { margin: 4px 0; }
.dim, footer { color: #666; }
.state { font-size: 14px; border-radius: 4px; padding: 2px 9px; margin-left: 10px;
  vertical-align: 3px; color: #fff; background: #666; }
.state.completed { background: #1e7d45; } .state.failed { background: #b03024; }
.state.running { background: #0065a3; } .state.interrupted { background: #9a6a00; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.tile { border: 1px solid #dcdce0; border-radius: 6px; padding: 8px 16px; flex: 0 1 auto; }
.tile b { display: block; font-size: 22px; font-weight: 600; }
.tile.bad b { color: #b03024; }
.tile span { color: #666; font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 4px 9px; border-bottom: 1px solid #e8e8ec;
  white-space: nowrap; }
th { font-weight: 600; color: #555; border-bottom: 2px solid #ccc; }
.left { text-align: left; } td.path, td.error { text-align: left; white-space: normal;
  overflow-wrap: anywhere; }
.share { display: flex; width: 150px; height: 14px; background: #ececef; }
.share i { display: block; height: 14px; }
.busy { background: #4c93c9; } .starved { background: #e69f00; }
.stalled { background: repeating-linear-gradient(45deg, #d55e00 0 4px, #f3b48a 4px 7px); }
.key { display: inline-block; width: 12px; height: 12px; margin: 0 4px 0 14px; }
.rest { background: #ececef; }
"""


def page(summary: Summary) -> str:
    """The page.

    Raises:
        ReportError: Plotly, which draws the picture, is not installed.
    """
    picture = _picture(summary)
    name = _text(PurePath(summary.source).name or summary.source)
    parts = [
        f"<h1>Run report: {name}{_state(summary)}</h1>",
        f"<p class=dim>{_when(summary)}</p>",
        _tiles(summary),
        *_findings(summary),
        "<h2>GPUs</h2>",
        _gpus(summary),
        "<h2>Over time</h2>",
        f"<p class=dim>{HINT}</p>",
        "<noscript><p>This picture needs JavaScript.</p></noscript>",
        picture,
        *_steals(summary),
        *_failed(summary),
        *_longest(summary),
        _footer(summary),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Run report: {name}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _picture(summary: Summary) -> str:
    try:
        from plotly.io import to_html  # noqa: PLC0415 - an extra that only this page needs
    except ImportError:
        raise ReportError(
            "the page needs Plotly: pip install 'virnucpro-exporter[report]'"
        ) from None
    drawn = figure(summary)
    if not drawn:
        return "<p>Nothing has been done yet that could be drawn.</p>"
    text: str = to_html(
        drawn,
        config=CONFIG,
        include_plotlyjs=True,
        full_html=False,
        validate=False,
        default_height=f"{drawn['layout']['height']}px",
        div_id="picture",
    )
    return text


def _state(summary: Summary) -> str:
    state = _text(summary.state)
    return f'<span class="state {state}">{state}</span>' if state else ""


def _when(summary: Summary) -> str:
    periods = summary.time.periods
    runs = f" in {len(periods)} runs" if len(periods) > 1 else ""
    ids = ", ".join(_text(period.run_id) for period in periods if period.run_id)
    return (
        f"{format_moment(periods[0].started)} to {format_moment(periods[-1].ended)}{runs}"
        f"{' · run ' + ids if ids else ''}"
    )


def _footer(summary: Summary) -> str:
    zone = f"UTC{local_offset(summary.time.periods[0].started)}"
    return (
        f"<footer><p>Source: {_text(summary.source)}. Times are local ({zone}). "
        f"virnucpro_exporter {__version__}.</p></footer>"
    )


def _tiles(summary: Summary) -> str:
    counts = summary.counts
    tiles = [("running time", format_span(summary.time.total), False)]
    if counts is not None:
        total = sum(counts.values())
        failed = counts.get("failed", 0)
        tiles = [
            ("files done", f"{counts.get('completed', 0):,} of {total:,}", False),
            ("files failed", f"{failed:,}", failed > 0),
            *tiles,
            ("sequences", whole(summary.sequences), False),
        ]
    tiles.append(("sequences/s", format_number(summary.rate), False))
    busy = [g.busy_seconds for g in summary.gpus if g.busy_seconds is not None]
    if busy and summary.time.total:
        share = sum(busy) / (len(summary.gpus) * summary.time.total)
        tiles.append(("GPUs busy", f"{min(1.0, share):.0%}", False))
    if counts is not None:
        tiles += [
            ("steals", f"{len(summary.steals):,}", False),
            ("retries", whole(summary.retries), bool(summary.retries)),
            ("stalls", f"{len(summary.stalls):,}", bool(summary.stalls)),
        ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile{" bad" if bad else ""}"><b>{value}</b><span>{label}</span></div>'
            for label, value, bad in tiles
        )
        + "</div>"
    )


def _findings(summary: Summary) -> Iterable[str]:
    notable = findings(summary)
    if notable:
        yield "<h2>What stands out</h2><ul>"
        yield from (f"<li>{_text(line)}</li>" for line in notable)
        yield "</ul>"


def _gpus(summary: Summary) -> str:
    rows = [(*cells(gpu, summary), _share(gpu, summary.time.total)) for gpu in summary.gpus]
    headings = [*COLUMNS, "Time"]
    told = [n for n in range(len(headings)) if any(row[n] not in ("-", "") for row in rows)]
    lines = [
        "".join(_cell("th", headings[n], n, raw=n == len(COLUMNS)) for n in told),
        *("".join(_cell("td", row[n], n, raw=n == len(COLUMNS)) for n in told) for row in rows),
    ]
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    legend = (
        '<p class=dim>Time:<i class="key busy"></i>busy<i class="key stalled"></i>stalled'
        '<i class="key starved"></i>starved (idle while files waited elsewhere)'
        '<i class="key rest"></i>idle or starting</p>'
    )
    return f'<div class="wide"><table>{table}</table></div>{legend if len(COLUMNS) in told else ""}'


def _cell(tag: str, content: str, column: int, *, raw: bool = False) -> str:
    left = ' class="left"' if column < 2 or raw else ""
    return f"<{tag}{left}>{content if raw else _text(content)}</{tag}>"


def _share(gpu: GpuSummary, total: float) -> str:
    """Busy, stalled and starved as shares of the running time; a stall is busy time, too."""
    if gpu.busy_seconds is None or not total:
        return ""
    stalled = min(gpu.stalled_seconds or 0.0, gpu.busy_seconds)
    shares = (
        ("busy", gpu.busy_seconds - stalled),
        ("stalled", stalled),
        ("starved", gpu.starved_seconds or 0.0),
    )
    bars = "".join(
        f'<i class="{name}" style="width:{min(100.0, 100 * seconds / total):.1f}%"></i>'
        for name, seconds in shares
    )
    return f'<div class="share">{bars}</div>'


def _steals(summary: Summary) -> Iterable[str]:
    if not summary.pairs:
        return
    rows = [
        (_text(thief), _text(victim), f"{count:,}")
        for (victim, thief), count in summary.pairs[:MOST_PAIRS]
    ]
    more = sum(count for _, count in summary.pairs[MOST_PAIRS:])
    if more:
        rows.append(("other pairs", "", f"{more:,}"))
    yield "<h2>Steals</h2>" + _table(("Thief", "Victim", "Files"), rows, ("left", "left"))


def _failed(summary: Summary) -> Iterable[str]:
    if not summary.failed:
        return
    rows = [(_text(path), _text(error)) for path, error in summary.failed[:MOST_FAILED]]
    yield "<h2>Files that failed</h2>" + _table(("File", "Error"), rows, ("path", "error"))
    more = len(summary.failed) - MOST_FAILED
    if more > 0:
        yield f"<p>and {more:,} more; <code>virnucpro-exporter status</code> lists all.</p>"


def _longest(summary: Summary) -> Iterable[str]:
    done = [a for a in summary.attempts if a.outcome is Outcome.COMPLETED]
    if len(done) <= 1:
        return
    longest = sorted(done, key=_seconds, reverse=True)[:MOST_LONGEST]
    rows = [
        (
            _text(span.path),
            _text(span.gpu),
            format_moment(span.started),
            format_span(_seconds(span)),
            whole(span.sequences),
        )
        for span in longest
    ]
    headings = ("File", "GPU", "Started", "Took", "Sequences")
    yield "<h2>The files that took longest</h2>" + _table(headings, rows, ("path",))


def _seconds(span: AttemptSpan) -> float:
    return span.ended - span.started


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str]) -> str:
    """A table of cells that are HTML already; `classes` are those of the first columns."""

    def line(tag: str, cells: Sequence[str]) -> str:
        named = [*classes, *[""] * len(cells)]
        return "".join(
            f'<{tag} class="{named[n] if tag == "td" else "left" if named[n] else ""}">{c}</{tag}>'
            for n, c in enumerate(cells)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{line("th", headings)}</tr>{body}</table></div>'


def _text(text: str) -> str:
    return html.escape(clean(text))
