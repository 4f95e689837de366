"""What it all adds up to, for each GPU and for the run."""

from __future__ import annotations

import math
import re
import statistics
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from virnucpro_exporter.history import (
    AttemptSpan,
    GpuSeries,
    LogHistory,
    Outcome,
    RunHistory,
    RunPeriod,
    StallSpan,
)
from virnucpro_exporter.report.running_time import RunningTime, periods_of_log
from virnucpro_exporter.snapshot import StealEvent

# Rows of a log that several output folders share count when they are this close to a run, in s.
SLACK_SECONDS = 1.0

# What differs between errors of one kind: quoted names, addresses and numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|0x[0-9a-f]+|[0-9]+")

# A row of the log counts for so many intervals at most.
_GAP = 3.0


@dataclass(frozen=True, slots=True)
class GpuSummary:
    """One GPU over all runs; None is an unknown value.

    Attributes:
        gpu: Its id.
        name: Its model.
        files: Files it completed; of those done in parts, the ones that it joined.
        parts: Parts of files that it did; None where no file was done in parts.
        wasted: Attempts of its own that failed: they count against the limit of their files.
        sequences: Sequences of the files it completed.
        residues: Residues of them.
        rate: Sequences per second of the time of the runs in which it had a part.
        residue_rate: Residues per second, likewise.
        present_seconds: How long those runs took.
        joules: Energy used meanwhile, as far as the log contains it.
        busy_seconds: Time with a file in process, whatever came of it.
        starved_seconds: Time idle while files waited in another queue.
        stalled_seconds: Time spent stalled.
        down_seconds: Time in which its GPU did not answer, as far as the log contains it.
        wasted_seconds: Time spent on attempts that brought no result.
        stalls: How often it stalled.
        restarts: How often its worker was replaced.
        stolen_to: Files it stole.
        stolen_from: Files that were stolen from it.
        compute: Mean compute utilisation, 0 to 100.
        memory: Mean memory in use, 0 to 100.
        ended: When its last attempt ended (Unix seconds).
    """

    gpu: str
    name: str = ""
    files: int | None = None
    parts: int | None = None
    wasted: int | None = None
    sequences: int | None = None
    residues: int | None = None
    rate: float | None = None
    residue_rate: float | None = None
    present_seconds: float | None = None
    joules: float | None = None
    busy_seconds: float | None = None
    starved_seconds: float | None = None
    stalled_seconds: float | None = None
    down_seconds: float | None = None
    wasted_seconds: float | None = None
    stalls: int | None = None
    restarts: int | None = None
    stolen_to: int | None = None
    stolen_from: int | None = None
    compute: float | None = None
    memory: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """All runs that used an output folder, or all in a log.

    Attributes:
        source: The output folder or the log.
        time: When they ran.
        state: How the last one ended, or `running`; empty when only a log is known.
        gpus: In the order of their ids.
        counts: Files by state; None when only a log is known.
        retries: Attempts made because an earlier one had failed, or None.
        rate: Sequences per second of running time, or None.
        sequences: Sequences of all completed files, or None when not all are known.
        residues: Residues of them, likewise.
        parts: Which workers had a part in which run, as (run id, worker).
        pairs: Files stolen by (victim, thief), the most first.
        failed: (path, error) of the files given up.
        attempts: Every attempt.
        steals: Every steal.
        stalls: Every stall.
        downs: The times in which a GPU did not answer, from the log.
        series: The values of each GPU in the log while something ran.
        notes: What could not be read, in sentences.
    """

    source: str
    time: RunningTime
    state: str = ""
    gpus: tuple[GpuSummary, ...] = ()
    counts: Mapping[str, int] | None = None
    retries: int | None = None
    rate: float | None = None
    sequences: int | None = None
    residues: int | None = None
    parts: frozenset[tuple[str, str]] | None = None
    pairs: tuple[tuple[tuple[str, str], int], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    attempts: tuple[AttemptSpan, ...] = ()
    steals: tuple[StealEvent, ...] = ()
    stalls: tuple[StallSpan, ...] = ()
    downs: tuple[StallSpan, ...] = ()
    series: Mapping[str, GpuSeries] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def joules(self) -> float | None:
        """Energy that all GPUs used, or None where the log contains none."""
        known = [gpu.joules for gpu in self.gpus if gpu.joules is not None]
        return math.fsum(known) if known else None

    @property
    def residue_rate(self) -> float | None:
        """Residues per second of running time, or None."""
        return _rate(self.residues, self.time.total)

    def has_part(self, gpu: str, period: RunPeriod) -> bool:
        """Whether a GPU had a part in a run, as far as known."""
        return self.parts is None or (period.run_id, gpu) in self.parts

    def stalls_of(self, gpu: str) -> list[StallSpan]:
        """The stalls of a GPU that answered: what stands still with a lost GPU is no stall."""
        downs = [down for down in self.downs if down.gpu == gpu]
        return [
            stall
            for stall in self.stalls
            if stall.gpu == gpu
            and not any(d.started < stall.ended and stall.started < d.ended for d in downs)
        ]


def summarize(history: RunHistory, log: LogHistory | None, notes: tuple[str, ...] = ()) -> Summary:
    """Add up the journal, and the log of the same time.

    Args:
        history: At least one run.
        log: The log, where there is one.
        notes: What could not be read.
    """
    time = RunningTime(history.runs)
    series = _during(log, time)
    has_totals = {run.run_id for run in history.runs} <= {w.run_id for w in history.workers}
    parts = _parts(history, time) if has_totals else None
    names = {w.gpu: w.name for w in history.workers}
    ids = {*names, *(a.gpu for a in history.attempts), *series}
    by_gpu = defaultdict[str, list[AttemptSpan]](list)
    for attempt in history.attempts:
        by_gpu[attempt.gpu].append(attempt)
    given = Counter(s.source_gpu for s in history.steals)
    taken = Counter(s.dest_gpu for s in history.steals)
    gpus = tuple(
        _from_history(
            history,
            gpu,
            names.get(gpu, ""),
            by_gpu[gpu],
            (given[gpu], taken[gpu]),
            has_totals,
            _present(history, parts, gpu),
        )
        for gpu in sorted(ids, key=natural)
    )
    completed = [a for a in history.attempts if a.outcome is Outcome.COMPLETED]
    sequences = _sequences(completed)
    failures = sum(a.is_failure for a in history.attempts)
    return Summary(
        source=history.folder,
        time=time,
        state=history.runs[-1].state,
        gpus=tuple(_with_log(gpu, series.get(gpu.gpu)) for gpu in gpus),
        counts=history.counts,
        retries=max(0, failures - len(history.failed)) if has_totals else None,
        rate=_rate(sequences, time.total),
        sequences=sequences,
        residues=_residues(completed),
        parts=parts,
        pairs=tuple(Counter((s.source_gpu, s.dest_gpu) for s in history.steals).most_common()),
        failed=history.failed,
        attempts=history.attempts,
        steals=history.steals,
        stalls=history.stalls,
        downs=_downs(series),
        series=series,
        notes=(*notes, *_damage(log)),
    )


def summarize_log(log: LogHistory) -> Summary:
    """Add up a metrics log without a journal."""
    gpus = tuple(
        _with_log(GpuSummary(gpu, rate=mean(log.gpus[gpu].throughput)), log.gpus[gpu])
        for gpu in sorted(log.gpus, key=natural)
    )
    rates = [gpu.rate for gpu in gpus if gpu.rate is not None]
    return Summary(
        source=log.path,
        time=RunningTime(periods_of_log(log)),
        gpus=gpus,
        rate=sum(rates) if rates else None,
        downs=_downs(log.gpus),
        series=log.gpus,
        notes=_damage(log),
    )


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `cpu2` before `cpu10`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in parts)


def grouped(failed: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Errors with their files, the most frequent first.

    Errors that differ in numbers and quoted names alone are one; the first of them is shown.

    Args:
        failed: (path, error) of each file.
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for path, error in failed:
        kind = _VARYING.sub("", error.replace(path, ""))
        groups.setdefault(kind, (error, []))[1].append(path)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def mean(values: Iterable[float]) -> float | None:
    """The mean of the known values, or None when there is none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def _from_history(
    history: RunHistory,
    gpu: str,
    name: str,
    attempts: Sequence[AttemptSpan],
    stolen: tuple[int, int],  # files, from its queue and by it
    has_totals: bool,  # noqa: FBT001 - one of two states of the journal
    seconds: float,
) -> GpuSummary:
    completed = [a for a in attempts if a.outcome is Outcome.COMPLETED]
    wasted = [a for a in attempts if a.is_failure]
    fruitless = [a for a in attempts if a.outcome not in (Outcome.COMPLETED, Outcome.RUNNING)]
    has_parts = any(a.is_part for a in history.attempts)
    totals = [w for w in history.workers if w.gpu == gpu]
    stalls = [s for s in history.stalls if s.gpu == gpu]
    sequences = _sequences(completed)
    return GpuSummary(
        gpu=gpu,
        name=name,
        files=sum(not a.is_part for a in completed),
        parts=sum(a.is_part for a in completed) if has_parts else None,
        wasted=len(wasted) if has_totals else None,
        sequences=sequences,
        residues=_residues(completed),
        rate=_rate(sequences, seconds),
        residue_rate=_rate(_residues(completed), seconds),
        present_seconds=seconds,
        busy_seconds=sum(a.ended - a.started for a in attempts),
        starved_seconds=sum(w.starved_seconds for w in totals) if has_totals else None,
        stalled_seconds=sum(s.ended - s.started for s in stalls) if has_totals else None,
        wasted_seconds=sum(a.ended - a.started for a in fruitless) if has_totals else None,
        stalls=len(stalls) if has_totals else None,
        restarts=sum(w.restarts for w in totals) if has_totals else None,
        stolen_to=stolen[1],
        stolen_from=stolen[0],
        ended=max((a.ended for a in attempts), default=None),
    )


def _parts(history: RunHistory, time: RunningTime) -> frozenset[tuple[str, str]]:
    """Which workers had a part in which run: the journal notes them, or they tried a file."""
    noted = {(worker.run_id, worker.gpu) for worker in history.workers}
    tried = {(time.period_of(a.started).run_id, a.gpu) for a in history.attempts}
    return frozenset(noted | tried)


def _present(history: RunHistory, parts: frozenset[tuple[str, str]] | None, gpu: str) -> float:
    """Seconds of the runs in which a GPU had a part; of all where that is not known."""
    return math.fsum(
        run.ended - run.started
        for run in history.runs
        if parts is None or (run.run_id, gpu) in parts
    )


def _residues(completed: Sequence[AttemptSpan]) -> int | None:
    known = [a.residues for a in completed if a.residues is not None]
    return sum(known) if completed and len(known) == len(completed) else None


def _joules(series: GpuSeries) -> float | None:
    """Energy from rows of power; a row counts until the next one, and not across a gap."""
    steps = [after - before for before, after in pairwise(series.times)]
    if not steps:
        return None
    longest = _GAP * statistics.median(steps)
    found = [
        watts * min(step, longest)
        for watts, step in zip(series.power, steps, strict=False)
        if not math.isnan(watts)
    ]
    return math.fsum(found) if found else None


def _sequences(completed: Sequence[AttemptSpan]) -> int | None:
    known = [a.sequences for a in completed if a.sequences is not None]
    return sum(known) if len(known) == len(completed) else None


def _rate(sequences: int | None, seconds: float) -> float | None:
    return sequences / seconds if sequences is not None and seconds > 0 else None


def _with_log(gpu: GpuSummary, series: GpuSeries | None) -> GpuSummary:
    if series is None:
        return gpu
    downs = _downs({gpu.gpu: series})
    return replace(
        gpu,
        joules=_joules(series),
        compute=mean(series.compute),
        memory=mean(series.memory),
        down_seconds=sum(down.ended - down.started for down in downs),
    )


def _downs(series: Mapping[str, GpuSeries]) -> tuple[StallSpan, ...]:
    """When GPUs did not answer; one that never did, or a CPU slot, is not known to be down."""
    found: list[StallSpan] = []
    for gpu, values in series.items():
        answers = [not math.isnan(value) for value in values.compute]
        if not any(answers):
            continue
        began: float | None = None
        for moment, is_up in zip(values.times, answers, strict=True):
            if is_up and began is not None:
                found.append(StallSpan(gpu, began, moment))
            began = None if is_up else moment if began is None else began
        if began is not None:
            found.append(StallSpan(gpu, began, values.times[-1]))
    return tuple(found)


def _during(log: LogHistory | None, time: RunningTime) -> dict[str, GpuSeries]:
    """The rows of a log that were written while one of the runs went on."""
    kept: dict[str, GpuSeries] = {}
    for gpu, series in log.gpus.items() if log else ():
        rows = [i for i, moment in enumerate(series.times) if time.covers(moment, SLACK_SECONDS)]
        if rows:
            kept[gpu] = GpuSeries(*(array("d", (c[i] for i in rows)) for c in series.columns))
    return kept


def _damage(log: LogHistory | None) -> tuple[str, ...]:
    if log is None or not log.damaged:
        return ()
    return (f"{log.damaged:,} lines of the metrics log could not be read.",)
