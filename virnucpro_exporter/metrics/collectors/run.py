"""Runs, their workers and their steals as metrics."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.metrics.collectors.families import (
    NO_MORE,
    Published,
    Value,
    empty,
    family,
    labels,
    labels_each,
    make_sample,
)
from virnucpro_exporter.metrics.exposition import Labels
from virnucpro_exporter.snapshot import (
    PAIRED_WORKERS,
    RunSnapshot,
    WorkerSnapshot,
    WorkerState,
)

_FILE_CHARACTERS = 100  # OpenMetrics allows 128 for the name and the value of all labels
_RUNS_KEPT = 64  # so many runs, whose workers also come and go on a cluster
_LONG_SECONDS = 60.0  # from then on a file in process is named

_Read = Callable[[WorkerSnapshot], Value]
_Values = Iterable[Value]
# Labels that all samples of a run have, and the run.
_Labelled = tuple[dict[str, str], RunSnapshot]


def _edge(place: int) -> _Read:
    """Where the range in process begins, or where it ends."""

    def read(worker: WorkerSnapshot) -> Value:
        return None if worker.current_range is None else worker.current_range[place]

    return read


_RUN_METRICS = (
    c.RUN_INFO,
    c.RUN_STATE,
    c.RUN_START,
    c.RUN_COMPLETION,
    c.RUN_FILES,
    c.RUN_PARTS,
    c.RUN_SKIPPED,
    c.RUN_RESIDUES,
    c.RUN_PROGRESS,
    c.RUN_HELD,
    c.RUN_END,
    c.RUN_RESULT,
    c.LOAD_IMBALANCED,
    c.WORK_IMBALANCED,
    c.STALL_THRESHOLD,
    c.FILE_RETRIES,
)
_WORKER_VALUES: Sequence[tuple[c.Metric, _Read]] = (
    (c.FILES_COMPLETED, attrgetter("files_completed")),
    (c.PARTS_COMPLETED, attrgetter("parts_completed")),
    (c.FILE_FAILURES, attrgetter("file_failures")),
    (c.SEQUENCES, attrgetter("sequences_processed")),
    (c.RESIDUES, attrgetter("residues_processed")),
    (c.THROUGHPUT, attrgetter("throughput")),
    (c.RESIDUE_THROUGHPUT, attrgetter("residue_throughput")),
    (c.QUEUE_FILES, attrgetter("queue_depth")),
    (c.QUEUE_RESIDUES, attrgetter("queue_residues")),
    (c.WORKER_UP, attrgetter("is_alive")),
    (c.WORKER_LOADING, lambda worker: worker.state is WorkerState.LOADING),
    (c.WORKER_LEFT, attrgetter("seconds_left")),
    (c.LEARNED_SPEED, attrgetter("residues_per_second")),
    (c.WORKER_INFLIGHT, attrgetter("inflight_files")),
    (c.WORKER_FILE_AGE, attrgetter("current_seconds")),
    (c.WORKER_RANGE_DONE, attrgetter("current_ratio")),
    (c.WORKER_BUSY, attrgetter("busy_seconds")),
    (c.WORKER_STARVED, attrgetter("starved_seconds")),
    (c.WORKER_PROGRESS, attrgetter("last_progress_time")),
    (c.WORKER_STALLED, attrgetter("is_stalled")),
    (c.STALL_DEADLINE, attrgetter("stall_deadline_time")),
    (c.WORKER_STALLED_SECONDS, attrgetter("stalled_seconds")),
    (c.WORKER_STALLS, attrgetter("stalls")),
    (c.WORKER_RESTARTS, attrgetter("restarts")),
    (c.MEMORY_SHORTAGES, attrgetter("memory_shortages")),
    (c.FILES_STOLEN_FROM, attrgetter("work_stolen_from")),
    (c.RESIDUES_STOLEN_FROM, attrgetter("residues_stolen_from")),
    (c.STEAL_ATTEMPTS, attrgetter("steal_attempts")),
    (c.ATTEMPTS_MOVED, attrgetter("attempts_moved")),
)
_WORKER_ENUMS: Sequence[tuple[c.Metric, str, dict[str, _Read]]] = (
    (
        c.STEAL_FAILURES,
        "reason",
        {"empty": attrgetter("steals_empty"), "declined": attrgetter("steals_declined")},
    ),
    (
        c.SECOND_ATTEMPTS,
        "outcome",
        {"won": attrgetter("second_attempts_won"), "lost": attrgetter("second_attempts_lost")},
    ),
    (c.WORKER_RANGE, "edge", {"begin": _edge(0), "end": _edge(1)}),
)

_STEAL_METRICS = (c.STEALS, c.STOLEN_RESIDUES, c.RESTEALS, c.PLAN_CHANGES, c.LATE_RESULTS)
_METRICS = (
    *_RUN_METRICS,
    *(metric for metric, _ in _WORKER_VALUES),
    c.WORKER_FILE,
    c.FILE_DURATION,
    *(metric for metric, _, _ in _WORKER_ENUMS),
    *_STEAL_METRICS,
)


class RunCollector(Collector):
    """One run, its workers and their steals.

    Args:
        source: A coordinator, or anything else whose `latest()` is a `RunSnapshot`.
    """

    def __init__(self, source: Published[RunSnapshot]) -> None:
        self._source = source

    def __repr__(self) -> str:
        return f"RunCollector({self._source!r})"

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshot."""
        run = self._source.latest()
        return _families([({}, run)], [({}, run)])

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        return map(empty, _METRICS)


class RunsCollector(Collector):
    """Any number of runs, each with its name as the label `run`.

    A run that has ended keeps its result and its counters only: the last state of its workers no
    longer holds.

    Args:
        source: `latest()` returns the runs, whose names are unique.
    """

    def __init__(self, source: Published[Sequence[RunSnapshot]]) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshots."""
        runs: list[_Labelled] = [({"run": run.name}, run) for run in self._source.latest()]
        return _families(runs, [(pairs, run) for pairs, run in runs if run.end is None])

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        return map(empty, _METRICS)


def _families(runs: Sequence[_Labelled], present: Sequence[_Labelled]) -> Iterator[Family]:
    """The families of some runs; gauges of workers only of those that are `present`."""
    yield from _run_families(runs)
    workers, now = (
        (
            [labels(gpu=w.gpu, **pairs) for pairs, run in those for w in run.workers],
            [w for _, run in those for w in run.workers],
        )
        for those in (runs, present)
    )
    for metric, read in _WORKER_VALUES:
        of_gpus, those = workers if metric.kind == "counter" else now
        yield family(metric, zip(of_gpus, map(read, those), strict=True))
    yield family(c.WORKER_FILE, _long_files(present))
    yield _durations(runs)
    for metric, label, values in _WORKER_ENUMS:
        yield _enumerated(metric, label, values, runs if metric.kind == "counter" else present)
    yield from _steal_families(runs)


def _run_families(runs: Sequence[_Labelled]) -> Iterator[Family]:
    def one(metric: c.Metric, read: Callable[[RunSnapshot], Value]) -> Family:
        return family(metric, [(labels(**pairs), read(run)) for pairs, run in runs])

    def each(
        metric: c.Metric, name: str, values: tuple[str, ...], read: Callable[[RunSnapshot], _Values]
    ) -> Family:
        found = [
            zip(labels_each(name, values, **pairs), read(run), strict=True) for pairs, run in runs
        ]
        return family(metric, itertools.chain.from_iterable(found))

    yield family(c.RUN_INFO, ((_identity(pairs, run), 1) for pairs, run in runs))
    yield each(
        c.RUN_STATE, "state", c.RUN_STATES, lambda run: [run.state.value == s for s in c.RUN_STATES]
    )
    yield one(c.RUN_START, attrgetter("start_timestamp"))
    yield one(c.RUN_COMPLETION, attrgetter("estimated_completion_timestamp"))
    yield each(c.RUN_FILES, "state", c.FILE_STATES, _FILES)
    yield each(c.RUN_PARTS, "state", c.PART_STATES, _PARTS)
    yield one(c.RUN_SKIPPED, attrgetter("files_skipped"))
    yield each(c.RUN_RESIDUES, "state", ("done", "left"), _residues)
    yield one(c.RUN_PROGRESS, attrgetter("progress"))
    yield one(c.RUN_HELD, attrgetter("is_held"))
    yield one(c.RUN_END, lambda run: None if run.end is None else run.end.timestamp)
    yield each(c.RUN_RESULT, "result", c.RUN_RESULTS, _result)
    yield one(c.LOAD_IMBALANCED, attrgetter("load_imbalanced"))
    yield one(c.WORK_IMBALANCED, attrgetter("work_imbalanced"))
    yield one(c.STALL_THRESHOLD, attrgetter("stall_threshold"))
    yield one(c.FILE_RETRIES, attrgetter("retries"))


_PARTS = attrgetter("parts_queued", "parts_processing", "parts_completed")
_FILES = attrgetter("files_queued", "files_processing", "files_completed", "files_failed")


def _identity(pairs: dict[str, str], run: RunSnapshot) -> Labels:
    return labels(run_id=run.run_id, processor=run.processor, balancer=run.balancer, **pairs)


def _residues(run: RunSnapshot) -> _Values:
    done, total = run.residues_done, run.residues_total
    return (done, None if total is None else max(0, total - done))


def _result(run: RunSnapshot) -> _Values:
    return (None if run.end is None else run.end.result.value == r for r in c.RUN_RESULTS)


def _enumerated(
    metric: c.Metric, label: str, values: dict[str, _Read], runs: Sequence[_Labelled]
) -> Family:
    """A family with one sample for each worker and value of `label`."""
    names, reads = tuple(values), values.values()
    return family(
        metric,
        (
            (of_value, read(w))
            for pairs, run in runs
            for w in run.workers
            for of_value, read in zip(
                labels_each(label, names, gpu=w.gpu, **pairs), reads, strict=True
            )
        ),
    )


def _steal_families(runs: Sequence[_Labelled]) -> Iterator[Family]:
    for metric, read in (
        (c.STEALS, attrgetter("steals")),
        (c.STOLEN_RESIDUES, attrgetter("stolen_residues")),
    ):
        yield family(
            metric,
            (
                (of_pair, n)
                for pairs, run in runs
                for of_pair, n in _of_pairs(run, dict(read(run)), pairs)
            ),
        )
    for metric, read in (
        (c.RESTEALS, attrgetter("resteals")),
        (c.PLAN_CHANGES, attrgetter("plan_changes")),
        (c.LATE_RESULTS, attrgetter("late_results")),
    ):
        yield family(metric, [(labels(**pairs), read(run)) for pairs, run in runs])


def _of_pairs(
    run: RunSnapshot, found: dict[tuple[str, str], int], pairs: dict[str, str]
) -> Iterator[tuple[Labels, int]]:
    """What is counted for each victim and thief, also of those that are at 0 from the start."""
    known = _labels_of_pairs(tuple(w.gpu for w in run.workers), **pairs)
    for pair, of_pair in known.items():
        yield of_pair, found.get(pair, 0)
    for (victim, thief), count in found.items():
        if (victim, thief) not in known:
            yield labels(victim=victim, thief=thief, **pairs), count


@functools.lru_cache(_RUNS_KEPT)
def _labels_of_pairs(gpus: tuple[str, ...], **pairs: str) -> dict[tuple[str, str], Labels]:
    """The label set of each victim and thief that there are from the start."""
    is_paired = len(gpus) <= PAIRED_WORKERS
    found = itertools.permutations(gpus, 2) if is_paired else (("", gpu) for gpu in gpus)
    return {(victim, thief): labels(victim=victim, thief=thief, **pairs) for victim, thief in found}


def _long_files(runs: Sequence[_Labelled]) -> Iterator[tuple[Labels, Value]]:
    """The files that take long, one for each worker at most.

    Only those, for each name is a series of its own: so there is at most one more in a minute for
    each worker, however many small files it does.
    """
    for pairs, run in runs:
        least = min(_LONG_SECONDS, run.stall_threshold / 5)
        for worker in run.workers:
            if worker.current_file and (worker.current_seconds or 0.0) >= least:
                file = _file_label(worker.current_file.rpartition("/")[2])
                # Not kept as other label sets are: files come and go.
                yield Labels({"gpu": worker.gpu, "file": file, **pairs}), 1


def _durations(runs: Sequence[_Labelled]) -> Family:
    """The histogram of file durations; file names appear only as exemplars."""
    name, made = c.FILE_DURATION.name, empty(c.FILE_DURATION)
    bucket = f"{name}_bucket"
    for pairs, worker in ((pairs, worker) for pairs, run in runs for worker in run.workers):
        histogram = worker.durations
        cumulated = list(map(float, itertools.accumulate(histogram.counts)))
        sets = labels_each("le", c.BUCKETS, gpu=worker.gpu, **pairs)
        made.samples += [
            make_sample((bucket, of_bucket, n, None, latest and _exemplar(latest), *NO_MORE))
            for of_bucket, n, latest in zip(sets, cumulated, histogram.exemplars, strict=True)
        ]
        of_gpu = labels(gpu=worker.gpu, **pairs)
        made.samples += [
            make_sample((f"{name}_count", of_gpu, cumulated[-1], None, None, *NO_MORE)),
            make_sample((f"{name}_sum", of_gpu, histogram.total_seconds, None, None, *NO_MORE)),
        ]
    return made


def _exemplar(latest: tuple[str, float, float]) -> Exemplar:
    name, seconds, timestamp = latest
    # Some parsers (prometheus_client 0.26) lose count of escaped quotes in an exemplar.
    return Exemplar({"file": _file_label(name).replace('"', "'")}, seconds, timestamp)


def _file_label(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()[-_FILE_CHARACTERS:]
