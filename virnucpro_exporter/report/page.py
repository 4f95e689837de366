"""The report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from virnucpro_exporter import __version__
from virnucpro_exporter.history import AttemptSpan, Outcome
from virnucpro_exporter.report.axis import Axis
from virnucpro_exporter.report.charts import charts
from virnucpro_exporter.report.findings import findings
from virnucpro_exporter.report.summary import GpuSummary, Summary, grouped
from virnucpro_exporter.report.text import COLUMNS, cells, energy, whole
from virnucpro_exporter.report.timeline import timeline
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
HINT = "Hover over an element for details."

STYLE = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --dim: #5d5d66; --edge: #dcdce0;
  --plot: #f7f7f8; --head: #555; --bad: #b03024; --done: #4c93c9; --odd: #7fb6e0;
  --running: #7fb36a; --second: #b0b0b0; --moved: #8e9fb3; --cut: #d4ac0d; --steal: #5b2a86;
  --stall: #d55e00; --starved: #e69f00; --c6: #8c6d31; --c7: #555; --shade: #0072b2; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e4e4e8; --back: #17181b; --dim: #a2a2ac; --edge: #3a3b41; --plot: #202126;
    --head: #c4c4cc; --bad: #ff8a78; --done: #3f87bd; --odd: #2b618a; --second: #77777d;
    --moved: #7c8ca0; --steal: #c79bf2; --c6: #c9a35c; --c7: #bbb; --shade: #56b4e9; } }
@media print { body { padding: 0; max-width: none; font-size: 11px; }
  .wide { overflow: visible; } .wide > svg { min-width: 0; }
  svg, tr, h2, h3 { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 1280px; margin: 0 auto; padding: 24px 28px 60px; }
@media (max-width: 600px) { body { padding: 12px 12px 40px; } }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 8px; }
h3 { font-size: 15px; margin: 22px 0 0; }
p { margin: 4px 0; }
.dim, footer { color: var(--dim); }
h3 .dim { font-weight: 400; }
.state { font-size: 14px; border-radius: 4px; padding: 2px 9px; margin-left: 10px;
  vertical-align: 3px; color: #fff; background: #666; }
.state.completed { background: #1e7d45; } .state.failed { background: #b03024; }
.state.running { background: #0065a3; } .state.interrupted { background: #8a5f00; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.tile { border: 1px solid var(--edge); border-radius: 6px; padding: 8px 16px; flex: 0 1 auto; }
.tile b { display: block; font-size: 22px; font-weight: 600; }
.tile.bad b { color: var(--bad); }
.tile span { color: var(--dim); font-size: 13px; }
.wide { overflow-x: auto; }
.wide > svg { display: block; width: 100%; min-width: 720px; background: var(--plot); }
.legend svg { width: 14px; height: 14px; vertical-align: -2px; margin-right: 5px; }
.legend span { margin-right: 16px; white-space: nowrap; }
svg text { font: 12px system-ui, sans-serif; fill: var(--dim); }
svg .lane { text-anchor: end; fill: var(--text); } svg .small { font-size: 8px; }
svg .tick { text-anchor: middle; }
.grid { stroke: var(--edge); } .join { stroke: var(--dim); stroke-dasharray: 5 4; }
.done, .running, .failed, .late, .lost, .second, .moved, .cut { stroke-width: 18.6; }
svg .narrow { stroke-width: 8.7; }
.done { stroke: var(--done); } .done path:nth-child(even) { stroke: var(--odd); }
.running { stroke: var(--running); } .failed { stroke: #c0392b; } .late { stroke: #e67e22; }
.lost { stroke: #7b241c; } .second { stroke: var(--second); } .moved { stroke: var(--moved); }
.cut { stroke: var(--cut); }
.absent { fill: var(--back); stroke: var(--edge); }
svg .stalled { fill: var(--stall); fill-opacity: .3; stroke: var(--stall); }
svg .down { fill: var(--stall); fill-opacity: .65; stroke: var(--stall); stroke-dasharray: 3 2; }
.steal { fill: var(--steal); } .route { stroke: var(--steal); stroke-dasharray: 1 3; }
.line { fill: none; stroke-width: 1.6; stroke: var(--shade); } .c1 { stroke: #e69f00; }
.c2 { stroke: #009e73; } .c3 { stroke: #cc79a7; } .c4 { stroke: #56b4e9; }
.c5 { stroke: #d55e00; } .c6 { stroke: var(--c6); } .c7 { stroke: var(--c7); }
.s0, .s1, .s2, .s3, .s4, .s5 { fill: var(--shade); } .s0 { fill-opacity: .08; }
.s1 { fill-opacity: .25; } .s2 { fill-opacity: .42; } .s3 { fill-opacity: .6; }
.s4 { fill-opacity: .8; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 4px 9px; border-bottom: 1px solid var(--edge);
  white-space: nowrap; vertical-align: top; }
th { font-weight: 600; color: var(--head); border-bottom: 2px solid var(--edge); }
.left { text-align: left; } td.path, td.error { text-align: left; white-space: normal;
  overflow-wrap: anywhere; }
.share { display: flex; width: 150px; height: 14px; background: var(--edge); }
.share i { display: block; height: 14px; }
.busy { background: var(--done); } .starved { background: var(--starved); }
i.stalled { background: repeating-linear-gradient(45deg, #d55e00 0 4px, #f3b48a 4px 7px); }
.key { display: inline-block; width: 12px; height: 12px; margin: 0 4px 0 14px; }
.rest { background: var(--edge); }
"""


def page(summary: Summary) -> str:
    """The page."""
    axis = Axis(summary.time)
    pictures = [drawn for drawn in (timeline(summary, axis), *charts(summary, axis)) if drawn]
    name = _text(PurePath(summary.source).name or summary.source)
    parts = [
        f"<h1>Run report: {name}{_state(summary)}</h1>",
        f'<p class="dim">{_when(summary)}</p>',
        _tiles(summary),
        *_findings(summary),
        "<h2>GPUs</h2>",
        _gpus(summary),
        *_runs(summary),
        "<h2>Over time</h2>",
        f'<p class="dim">{HINT if pictures else "No file has been processed yet."}</p>',
        *pictures,
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
    if summary.rate is None and summary.residue_rate is not None:
        tiles.append(("residues/s", format_number(summary.residue_rate), False))
    else:
        tiles.append(("sequences/s", format_number(summary.rate), False))
    busy = [g.busy_seconds for g in summary.gpus if g.busy_seconds is not None]
    present = sum(g.present_seconds or 0.0 for g in summary.gpus)
    if busy and present:
        tiles.append(("GPUs busy", f"{min(1.0, sum(busy) / present):.0%}", False))
    tiles += [(what, value, False) for what, value in energy(summary)]
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
    rows = [(*cells(gpu), _share(gpu)) for gpu in summary.gpus]
    headings = [*COLUMNS, "Time"]
    told = [n for n in range(len(headings)) if any(row[n] not in ("-", "") for row in rows)]
    lines = [
        "".join(_cell("th", headings[n], n, raw=n == len(COLUMNS)) for n in told),
        *("".join(_cell("td", row[n], n, raw=n == len(COLUMNS)) for n in told) for row in rows),
    ]
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    legend = (
        '<p class="dim">Time:<i class="key busy"></i>busy<i class="key stalled"></i>stalled'
        '<i class="key starved"></i>starved (idle while files waited elsewhere)'
        '<i class="key rest"></i>idle or starting</p>'
    )
    return f'<div class="wide"><table>{table}</table></div>{legend if len(COLUMNS) in told else ""}'


def _cell(tag: str, content: str, column: int, *, raw: bool = False) -> str:
    left = ' class="left"' if column < 2 or raw else ""
    return f"<{tag}{left}>{content if raw else _text(content)}</{tag}>"


def _share(gpu: GpuSummary) -> str:
    """Busy, stalled and starved as shares of the time in which it had a part; stalled is busy."""
    total = gpu.present_seconds
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


def _runs(summary: Summary) -> Iterable[str]:
    """The runs that went on with each other's work, where there are several."""
    periods = summary.time.periods
    if len(periods) < 2 or summary.parts is None:
        return
    rows = []
    for period in periods:
        done = [
            a
            for a in summary.attempts
            if a.outcome is Outcome.COMPLETED
            and not a.is_part
            and summary.time.period_of(a.started) == period
        ]
        gpus = [gpu.gpu for gpu in summary.gpus if summary.has_part(gpu.gpu, period)]
        rows.append(
            (
                _text(period.run_id),
                _text(", ".join(gpus)),
                format_moment(period.started),
                format_span(period.ended - period.started),
                f"{len(done):,}",
                _text(period.state),
            )
        )
    headings = ("Run", "GPUs", "Started", "Took", "Files done", "State")
    yield "<h2>Runs</h2>" + _table(headings, rows, ("path", "path"))


def _failed(summary: Summary) -> Iterable[str]:
    """The errors, the most frequent first, with the files of each."""
    if not summary.failed:
        return
    rows = []
    for error, paths in grouped(summary.failed):
        shown = [f"<li>{_text(path)}</li>" for path in paths[:MOST_FAILED]]
        more = len(paths) - MOST_FAILED
        if more > 0:
            shown.append(
                f"<li>and {more:,} more; <code>virnucpro-exporter status</code> lists all</li>"
            )
        names = f"<details><summary>{_text(paths[0])} and {len(paths) - 1:,} more</summary>"
        names += f"<ul>{''.join(shown)}</ul></details>"
        files = names if len(paths) > 1 else _text(paths[0])
        rows.append((_text(error), files, f"{len(paths):,}"))
    yield "<h2>Errors</h2>" + _table(("Error", "Files", "Number"), rows, ("error", "path"))


def _longest(summary: Summary) -> Iterable[str]:
    """The files that took longest; one that was done in parts, from its first to its join."""
    by_path = defaultdict[str, list[AttemptSpan]](list)
    for span in summary.attempts:
        if span.outcome is Outcome.COMPLETED:
            by_path[span.path].append(span)
    if len(by_path) <= 1:
        return

    def took(spans: Sequence[AttemptSpan]) -> float:
        begin, end = min(s.started for s in spans), max(s.ended for s in spans)
        return summary.time.at(end) - summary.time.at(begin)

    rows = []
    for spans in sorted(by_path.values(), key=took, reverse=True)[:MOST_LONGEST]:
        first = min(spans, key=lambda s: s.started)
        gpus = dict.fromkeys(span.gpu for span in spans)
        known = [span.sequences for span in spans if span.sequences is not None]
        rows.append(
            (
                _text(first.path),
                _text(next(iter(gpus)) if len(gpus) == 1 else f"{len(gpus)} GPUs"),
                format_moment(first.started),
                format_span(took(spans)),
                whole(sum(known) if len(known) == len(spans) else None),
            )
        )
    headings = ("File", "GPU", "Started", "Took", "Sequences")
    yield "<h2>The files that took longest</h2>" + _table(headings, rows, ("path",))


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
