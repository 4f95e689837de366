"""The summary of a run for a terminal, a log or a mail: plain ASCII lines."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.history import AttemptSpan, Outcome, StallSpan
from virnucpro_exporter.report.findings import findings
from virnucpro_exporter.report.summary import GpuSummary, Summary, grouped
from virnucpro_exporter.text import clean, counted, format_moment, format_number, format_span

STRIP_WIDTH = 60  # characters of the timeline
LEGEND = "# busy  : partly  x no result  D GPU down  ! stalled  . idle"
MOST_PAIRS = 10
MOST_FAILED = 40  # lines about files that failed, and files of one error
MOST_OF_ONE = 5

COLUMNS = (
    "GPU", "Name", "Files", "Parts", "Failures", "Sequences", "Seq/s", "Residues/s", "Busy",
    "Starved", "Stalled", "Stolen by/from", "Compute", "Memory", "Energy",
)  # fmt: skip
LEFT_ALIGNED = 2  # columns


def describe(summary: Summary) -> str:
    """The most important facts, first."""
    parts = [
        headline(summary),
        *_totals(summary),
        "",
        *table([COLUMNS, *(cells(gpu) for gpu in summary.gpus)]),
    ]
    if summary.attempts:
        parts += ["", *_timeline(summary)]
    if summary.pairs:
        parts += ["", *_steals(summary)]
    notable = findings(summary)
    if notable:
        parts += ["", *(f"- {clean(line)}" for line in notable)]
    if summary.failed:
        parts += ["", *_failed(summary)]
    return "\n".join(parts)


def headline(summary: Summary) -> str:
    """Which run, how it ended, when and for how long."""
    periods = summary.time.periods
    state = f": {summary.state}" if summary.state else ""
    resumed = f" in {len(periods)} runs" if len(periods) > 1 else ""
    return (
        f"{clean(summary.source, ascii_only=True)}{state}, {format_moment(periods[0].started)} to "
        f"{format_moment(periods[-1].ended)}, {format_span(summary.time.total)}{resumed}"
    )


def _retries(number: int | None) -> str:
    return "- retries" if number is None else counted(number, "retry", "retries")


def _totals(summary: Summary) -> list[str]:
    lines = []
    counts = summary.counts
    if counts is not None:
        left = counts.get("queued", 0) + counts.get("processing", 0) + counts.get("committing", 0)
        done = counted(counts.get("completed", 0), "file")
        lines.append(
            f"{done} done, {counts.get('failed', 0):,} failed, "
            f"{left:,} left; {_retries(summary.retries)}, {counted(len(summary.steals), 'steal')}, "
            f"{counted(len(summary.stalls), 'stall')}"
        )
    if summary.rate is None and summary.residue_rate is not None:
        rate = f"{format_number(summary.residue_rate)} residues/s"
        lines.append(f"{whole(summary.residues)} residues, {rate}")
    else:
        rate = f"{format_number(summary.rate)} sequences/s"
        lines.append(rate if counts is None else f"{whole(summary.sequences)} sequences, {rate}")
    used = [f"{value} {what}" for what, value in energy(summary)]
    return [*lines, ", ".join(used)] if used else lines


def energy(summary: Summary) -> list[tuple[str, str]]:
    """(what, value) of the energy in the log; empty where there is none."""
    joules = summary.joules
    if joules is None:
        return []
    told = [("of energy", _watt_hours(joules))]
    done = (summary.counts or {}).get("completed", 0)
    if done:
        told.append(("a file", _watt_hours(joules / done)))
    if summary.residues:
        told.append(("per billion bases", _watt_hours(joules * 1e9 / summary.residues)))
    return told


def _watt_hours(joules: float | None) -> str:
    """Energy in Wh or kWh; `-` when it is not known."""
    if joules is None:
        return "-"
    hours = joules / 3600.0
    return f"{hours / 1000:.3g} kWh" if hours >= 1000 else f"{hours:.3g} Wh"


def cells(gpu: GpuSummary) -> tuple[str, ...]:
    """One row of the table; `-` is an unknown value."""
    stolen = "-" if gpu.stolen_to is None else f"{gpu.stolen_to}/{gpu.stolen_from}"
    busy, total = gpu.busy_seconds, gpu.present_seconds
    return (
        clean(gpu.gpu, ascii_only=True),
        clean(gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ") or "-", ascii_only=True),
        whole(gpu.files),
        whole(gpu.parts),
        whole(gpu.wasted),
        whole(gpu.sequences),
        format_number(gpu.rate),
        "-" if gpu.rate is not None else format_number(gpu.residue_rate),
        "-" if busy is None or not total else f"{min(1.0, busy / total):.0%}",
        format_span(gpu.starved_seconds),
        format_span(gpu.stalled_seconds),
        stolen,
        "-" if gpu.compute is None else f"{gpu.compute:.0f}%",
        "-" if gpu.memory is None else f"{gpu.memory:.0f}%",
        _watt_hours(gpu.joules),
    )


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as aligned lines, without the columns that are empty."""
    told = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
    widths = [max(map(len, column)) for column in told]
    return [
        "  ".join(
            cell.ljust(width) if told[n][0] in COLUMNS[:LEFT_ALIGNED] else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*told, strict=True)
    ]


def _timeline(summary: Summary) -> list[str]:
    step = summary.time.total / STRIP_WIDTH
    width = max(len(gpu.gpu) for gpu in summary.gpus)
    return [
        f"Timeline, {format_span(step)} a character ({LEGEND})",
        *(f"  {gpu.gpu:<{width}}  {strip(summary, gpu.gpu)}" for gpu in summary.gpus),
    ]


def strip(summary: Summary, gpu: str) -> str:
    """What a GPU did from start to end, in `STRIP_WIDTH` characters."""
    step = summary.time.total / STRIP_WIDTH or 1.0
    good, bad, stalled, down = ([0.0] * STRIP_WIDTH for _ in range(4))
    for attempt in summary.attempts:
        if attempt.gpu == gpu:
            _spread(bad if _is_fruitless(attempt) else good, attempt, summary, step)
    for stall in summary.stalls_of(gpu):
        _spread(stalled, stall, summary, step)
    for span in summary.downs:
        if span.gpu == gpu:
            _spread(down, span, summary, step)
    return "".join(map(_character, good, bad, stalled, down))


def _character(good: float, bad: float, stalled: float, down: float) -> str:
    if down > 0:
        return "D"
    if stalled > 0:
        return "!"
    if bad > max(good, 0.1):
        return "x"
    return "#" if good + bad >= 0.75 else ":" if good + bad > 0.02 else "."


def _is_fruitless(attempt: AttemptSpan) -> bool:
    return attempt.outcome not in (Outcome.COMPLETED, Outcome.RUNNING)


def _spread(
    shares: list[float], span: AttemptSpan | StallSpan, summary: Summary, step: float
) -> None:
    """Add to each step the share of it that a span covers."""
    begin, end = summary.time.at(span.started) / step, summary.time.at(span.ended) / step
    for index in range(int(begin), min(len(shares), int(end) + 1)):
        shares[index] += max(0.0, min(end, index + 1) - max(begin, index))


def _steals(summary: Summary) -> list[str]:
    lines = ["Steals (files, thief from victim)"]
    lines += [
        f"  {count:>5}  {thief} from {victim}"
        for (victim, thief), count in summary.pairs[:MOST_PAIRS]
    ]
    more = sum(count for _, count in summary.pairs[MOST_PAIRS:])
    return [*lines, f"  {more:>5}  between other pairs"] if more else lines


def _failed(summary: Summary) -> list[str]:
    """The files of each error, the most frequent error first."""
    lines = []
    for error, paths in grouped(summary.failed):
        if len(paths) > 1:
            lines.append(f"{len(paths):,} files failed: {clean(error)}")
            lines += [f"  {path!r}" for path in paths[:MOST_OF_ONE]]
            more = len(paths) - MOST_OF_ONE
            lines += [f"  and {more:,} more"] if more > 0 else []
        else:
            lines.append(f"failed: {paths[0]!r}: {clean(error)}")
    more = len(lines) - MOST_FAILED
    return [*lines[:MOST_FAILED], f"and {more:,} more lines"] if more > 0 else lines


def whole(number: int | None) -> str:
    """A count with commas, `-` when it is not known."""
    return "-" if number is None else f"{number:,}"
