"""Which GPU worked on which file, with stalls, outages and steals, as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.history import AttemptSpan, Outcome, StallSpan
from virnucpro_exporter.report import svg
from virnucpro_exporter.report.axis import LEFT, WIDTH, Axis
from virnucpro_exporter.report.blocks import Block, blocks
from virnucpro_exporter.report.summary import Summary
from virnucpro_exporter.text import counted, format_clock, format_span

MOST_ARROWS = 100  # steals that are drawn from victim to thief; more would hide the files
LANE, NARROW_LANE, MANY_LANES = 30, 14, 16  # heights; from how many lanes on
_TOP = 6


class Fate(NamedTuple):
    """How attempts of one outcome are drawn.

    Attributes:
        name: In the legend.
        style: Their class in the style sheet.
    """

    name: str
    style: str


def fate(outcome: Outcome) -> Fate:  # noqa: PLR0911, RET503 - one line for each outcome
    """How attempts of an outcome are drawn."""
    match outcome:
        case Outcome.COMPLETED:
            return Fate("file", "done")
        case Outcome.RUNNING:
            return Fate("file in process", "running")
        case Outcome.FAILED:
            return Fate("failed attempt", "failed")
        case Outcome.TIMED_OUT:
            return Fate("took longer than the limit", "late")
        case Outcome.WORKER_LOST:
            return Fate("lost with its worker", "lost")
        case Outcome.SUPERSEDED | Outcome.CANCELLED:
            return Fate("attempt that came second", "second")
        case Outcome.MOVED:
            return Fate("moved to another GPU", "moved")
        case Outcome.INTERRUPTED:
            return Fate("cut off with the run", "cut")
        case _:
            assert_never(outcome)


def timeline(summary: Summary, axis: Axis) -> str:
    """The picture and its legend, as HTML; empty where no attempt is known.

    Args:
        summary: What there is to show.
        axis: Where moments lie.
    """
    if not summary.attempts:
        return ""
    lanes = [gpu.gpu for gpu in summary.gpus]
    lane = LANE if len(lanes) <= MANY_LANES else NARROW_LANE
    height = _TOP + lane * len(lanes)
    made = blocks(summary.attempts, summary.time, summary.time.total / WIDTH)
    by_lane = defaultdict[str, dict[str, list[str]]](lambda: defaultdict(list))
    for block in made:
        by_lane[block.gpu][fate(block.outcome).style].append(_block(block, axis))
    parts = [axis.grid(height)]
    for row, gpu in enumerate(lanes):
        parts.append(
            svg.group(
                [
                    svg.label(LEFT - 8, lane / 2 + 4, gpu, "lane"),
                    *_absent(summary, axis, gpu, lane),
                    *_troubles(summary, axis, gpu, lane),
                ],
                y=_TOP + row * lane,
            )
        )
        parts += [
            svg.group(
                drawn, f"{style}{'' if lane == LANE else ' narrow'}", _TOP + (row + 0.5) * lane
            )
            for style, drawn in by_lane[gpu].items()
        ]
    parts += [*_steals(summary, axis, lanes, lane), axis.ticks(height)]
    about = f"{counted(len(summary.attempts), 'attempt')} on {counted(len(lanes), 'worker')}"
    whole = svg.picture("Files on each GPU over time", about, axis.width, height + 40, parts)
    return f'{_legend(summary, made)}<div class="wide">{whole}</div>'


def _block(block: Block, axis: Axis) -> str:
    """A stroke as wide as its lane: the shortest way to draw thousands of them."""
    x = axis.place(block.begin)
    width = max(axis.place(block.end) - x, 1.0)  # what took no time is still there
    return svg.path(f"M{svg.number(x)} 0h{svg.number(width)}", tip=_about(block))


def _about(block: Block) -> str:
    first = block.first
    when = format_clock(first.started)
    if block.count > 1:
        took = format_span(block.end - block.begin)
        return f"{block.count:,} files from {_name(first)}: {when} for {took}"
    part = "a part of " if first.is_part else "the join of " if first.is_join else ""
    facts = [f"{part}{_name(first)}: {when} for {format_span(first.seconds)}"]
    if first.outcome is not Outcome.COMPLETED:
        facts.append(fate(first.outcome).name)
    if first.sequences is not None:
        facts.append(counted(first.sequences, "sequence"))
    if first.error:
        facts.append(first.error)
    return ", ".join(facts)


def _name(span: AttemptSpan) -> str:
    return span.path.rpartition("/")[2]


def _absent(summary: Summary, axis: Axis, gpu: str, lane: float) -> Iterator[str]:
    """The runs in which a GPU had no part."""
    for start, period in zip(summary.time.starts, summary.time.periods, strict=True):
        if not summary.has_part(gpu, period):
            x, end = axis.place(start), axis.place(start + period.ended - period.started)
            yield svg.path(svg.box(x, 0, end - x, lane), "absent", f"GPU {gpu}: not in this run")


def _troubles(summary: Summary, axis: Axis, gpu: str, lane: float) -> Iterator[str]:
    """The times in which a GPU did not answer or stalled."""
    downs = [down for down in summary.downs if down.gpu == gpu]
    for style, words, spans in (
        ("down", "did not answer from", downs),
        ("stalled", "stalled at", summary.stalls_of(gpu)),
    ):
        yield from (_trouble(span, style, words, axis, summary, lane) for span in spans)


def _trouble(
    span: StallSpan, style: str, words: str, axis: Axis, summary: Summary, lane: float
) -> str:
    x, end = (axis.place(summary.time.at(moment)) for moment in (span.started, span.ended))
    tip = f"{words} {format_clock(span.started)} for {format_span(span.ended - span.started)}"
    return svg.path(svg.box(x, 0.5, max(end - x, 1.5), lane - 1), style, f"GPU {span.gpu} {tip}")


def _steals(summary: Summary, axis: Axis, lanes: Sequence[str], lane: float) -> Iterator[str]:
    middles = {gpu: _TOP + (row + 0.5) * lane for row, gpu in enumerate(lanes)}
    size = 4.0 if len(summary.steals) <= MOST_ARROWS else 2.5
    routes, marks = [], []
    for steal in summary.steals:
        x = axis.place(summary.time.at(steal.timestamp))
        thief, victim = middles.get(steal.dest_gpu), middles.get(steal.source_gpu)
        if thief is None:
            continue
        if victim is not None:
            routes.append(f"M{svg.number(x)} {svg.number(victim)}V{svg.number(thief)}")
        mark = (
            f"M{svg.number(x)} {svg.number(thief - size)}l{size} {size}l-{size} {size}"
            f"l-{size}-{size}z"
        )
        tip = (
            f"{format_clock(steal.timestamp)}: GPU {steal.dest_gpu} stole {steal.file_name} from"
            f" GPU {steal.source_gpu}"
        )
        marks.append(svg.path(mark, tip=tip) if len(summary.steals) <= MOST_ARROWS else mark)
    if routes and len(summary.steals) <= MOST_ARROWS:
        yield svg.path("".join(routes), "route")
    if marks:
        is_told = len(summary.steals) <= MOST_ARROWS
        yield svg.group(marks, "steal") if is_told else svg.path("".join(marks), "steal")


def _legend(summary: Summary, made: Sequence[Block]) -> str:
    """What each colour is; only what the picture has."""
    found = {block.outcome: fate(block.outcome) for block in made}
    if Outcome.COMPLETED in found and any(attempt.is_part for attempt in summary.attempts):
        done = found[Outcome.COMPLETED]
        found[Outcome.COMPLETED] = done._replace(name=f"{done.name}, part or join")
    keys = [found[outcome] for outcome in Outcome if outcome in found]
    if any(summary.stalls_of(gpu.gpu) for gpu in summary.gpus):
        keys.append(Fate("stalled", "stalled"))
    if summary.downs:
        keys.append(Fate("GPU down", "down"))
    if any(not summary.has_part(g.gpu, p) for g in summary.gpus for p in summary.time.periods):
        keys.append(Fate("not in this run", "absent"))
    if summary.steals:
        keys.append(Fate("steal, at the thief", "steal"))
    boxes = ("stalled", "down", "absent", "steal")
    swatches = {False: "M0 7h14", True: svg.box(0, 0, 14, 14)}
    items = []
    for key in dict.fromkeys(keys):
        swatch = svg.path(swatches[key.style in boxes], key.style)
        items.append(
            f'<span><svg aria-hidden="true" viewBox="0 0 14 14">{swatch}</svg>{key.name}</span>'
        )
    return f'<p class="dim legend">{"".join(items)}</p>'
