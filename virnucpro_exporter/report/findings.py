"""What stands out in a run, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from virnucpro_exporter.history import Outcome
from virnucpro_exporter.report.summary import GpuSummary, Summary
from virnucpro_exporter.text import clean, format_span

NOTABLE_SHARE = 0.05  # of the running time, and
NOTABLE_SECONDS = 1.0  # less is not worth a word
LOW_COMPUTE = 50.0  # percent, while busy almost all the time
MOST_NAMED = 5  # GPUs, the worst first


def findings(summary: Summary) -> list[str]:
    """One sentence for each event that matters to the user; none when all went well."""
    return [*_of_the_run(summary), *_of_gpus(summary), *summary.notes]


def _of_the_run(summary: Summary) -> Iterator[str]:
    counts = summary.counts or {}
    if counts.get("failed"):
        given_up = _count(counts["failed"], "file was", "files were")
        yield f"{given_up} given up; see the errors below."
    left = counts.get("queued", 0) + counts.get("processing", 0)
    if left and summary.state != "running":
        yield f"{_count(left, 'file is', 'files are')} left; the same command processes them."
    ends = {gpu.gpu: summary.time.at(gpu.ended) for gpu in summary.gpus if gpu.ended is not None}
    if len(ends) > 1 and summary.state in ("completed", "failed"):
        last, first = max(ends, key=ends.__getitem__), min(ends, key=ends.__getitem__)
        apart = ends[last] - ends[first]
        if _is_notable(apart, summary):
            yield (
                f"The GPUs ended {format_span(apart)} apart: GPU {clean(first)} first, "
                f"GPU {clean(last)} last."
            )
        yield from _last_file(summary)


def _last_file(summary: Summary) -> Iterator[str]:
    """The file at the end that kept the others waiting."""
    run = summary.time.periods[-1]
    done = [
        a
        for a in summary.attempts
        if a.outcome is Outcome.COMPLETED and run.started <= a.started <= run.ended
    ]
    gpus = {a.gpu for a in done}
    if len(gpus) < 2:
        return
    last = max(done, key=lambda a: a.ended)
    before = max(a.ended for a in done if a.gpu != last.gpu)
    waited = last.ended - max(before, last.started)
    what = "A part of one file" if last.is_part else "The join of one file" if last.is_join else ""
    what = what or "One file"
    if _is_notable(waited, summary):
        yield (
            f"{what}, {clean(last.path.rpartition('/')[2])}, kept {len(gpus) - 1} of "
            f"{len(gpus)} GPUs waiting for {format_span(waited)} at the end: it took "
            f"{format_span(last.seconds)} of {format_span(run.ended - run.started)}."
        )


def _of_gpus(summary: Summary) -> Iterator[str]:
    def is_slow(gpu: GpuSummary) -> bool:
        is_busy = gpu.busy_seconds is not None and gpu.busy_seconds > 0.9 * (
            gpu.present_seconds or summary.time.total
        )
        return is_busy and gpu.compute is not None and gpu.compute < LOW_COMPUTE

    def stalled_seconds(gpu: GpuSummary) -> float | None:
        return sum(s.ended - s.started for s in summary.stalls_of(gpu.gpu)) or None

    yield from _named(
        "Did not answer: {}.",
        summary,
        lambda gpu: gpu.down_seconds or None,
        lambda gpu: format_span(gpu.down_seconds),
    )
    yield from _named(
        "Stalled: {}.",
        summary,
        stalled_seconds,
        lambda gpu: (
            f"{_times(len(summary.stalls_of(gpu.gpu)))}, {format_span(stalled_seconds(gpu))}"
        ),
    )
    yield from _named(
        "Workers replaced: {}.",
        summary,
        lambda gpu: gpu.restarts or None,
        lambda gpu: _times(gpu.restarts),
    )
    yield from _named(
        "Time spent on attempts without a result: {}.",
        summary,
        lambda gpu: _notable(gpu.wasted_seconds, summary),
        lambda gpu: format_span(gpu.wasted_seconds),
    )
    yield from _named(
        "Starved (idle while files waited in other queues): {}.",
        summary,
        lambda gpu: _notable(gpu.starved_seconds, summary),
        lambda gpu: format_span(gpu.starved_seconds),
    )
    yield from _named(
        "Always busy, but with low GPU utilisation: {}. Reading or other CPU work may be the "
        "bottleneck.",
        summary,
        lambda gpu: LOW_COMPUTE - (gpu.compute or 0.0) if is_slow(gpu) else None,
        lambda gpu: f"{gpu.compute:.0f} %",
    )


def _named(
    sentence: str,
    summary: Summary,
    severity: Callable[[GpuSummary], float | None],
    tell: Callable[[GpuSummary], str],
) -> Iterator[str]:
    """The sentence about the GPUs that it is about, the worst first."""
    found = [(worth, gpu) for gpu in summary.gpus if (worth := severity(gpu)) is not None]
    found.sort(key=lambda pair: -pair[0])
    if not found:
        return
    named = ", ".join(f"GPU {clean(gpu.gpu)} ({tell(gpu)})" for _, gpu in found[:MOST_NAMED])
    more = len(found) - MOST_NAMED
    yield sentence.format(f"{named} and {more} more" if more > 0 else named)


def _notable(seconds: float | None, summary: Summary) -> float | None:
    return seconds if seconds is not None and _is_notable(seconds, summary) else None


def _is_notable(seconds: float, summary: Summary) -> bool:
    return seconds > max(NOTABLE_SECONDS, NOTABLE_SHARE * summary.time.total)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _times(number: int | None) -> str:
    return _count(number or 0, "time", "times")
