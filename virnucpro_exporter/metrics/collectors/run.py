"""The run, its workers and their steals as metrics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.metrics.collectors.families import (
    NO_LABELS,
    Published,
    Value,
    empty,
    family,
    labels,
    labels_each,
)
from virnucpro_exporter.snapshot import (
    PAIRED_WORKERS,
    RunSnapshot,
    WorkerSnapshot,
    WorkerState,
)

_EXEMPLAR_CHARACTERS = 100  # OpenMetrics allows 128 for the name and the value of all labels

_Read = Callable[[WorkerSnapshot], Value]
_RUN_METRICS = (
    c.RUN_INFO,
    c.RUN_STATE,
    c.RUN_START,
    c.RUN_COMPLETION,
    c.RUN_FILES,
    c.LOAD_IMBALANCED,
    c.WORK_IMBALANCED,
    c.STALL_THRESHOLD,
)
_WORKER_VALUES: Sequence[tuple[c.Metric, _Read]] = (
    (c.FILES_COMPLETED, attrgetter("files_completed")),
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
    (c.WORKER_BUSY, attrgetter("busy_seconds")),
    (c.WORKER_STARVED, attrgetter("starved_seconds")),
    (c.WORKER_PROGRESS, attrgetter("last_progress_time")),
    (c.WORKER_STALLED, attrgetter("is_stalled")),
    (c.STALL_DEADLINE, attrgetter("stall_deadline_time")),
    (c.WORKER_STALLS, attrgetter("stalls")),
    (c.WORKER_RESTARTS, attrgetter("restarts")),
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
)
_STEAL_METRICS = (c.STEALS, c.STOLEN_RESIDUES, c.RESTEALS, c.PLAN_CHANGES, c.LATE_RESULTS)


class RunCollector(Collector):
    """The run, its workers and their steals.

    Args:
        source: A coordinator, or anything else whose `latest()` is a `RunSnapshot`.
    """

    def __init__(self, source: Published[RunSnapshot]) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """All families of the newest snapshot."""
        run = self._source.latest()
        yield from _run_families(run)
        workers = [(labels(gpu=w.gpu), w) for w in run.workers]
        for metric, read in _WORKER_VALUES:
            yield family(metric, [(of_gpu, read(w)) for of_gpu, w in workers])
        yield _durations(run.workers)
        for metric, label, values in _WORKER_ENUMS:
            yield _enumerated(metric, label, values, run.workers)
        yield from _steal_families(run)

    def describe(self) -> Iterator[Family]:
        """The names, without a snapshot."""
        metrics = (*_RUN_METRICS, *(m for m, _ in _WORKER_VALUES), c.FILE_DURATION)
        return map(empty, (*metrics, *(m for m, _, _ in _WORKER_ENUMS), *_STEAL_METRICS))


def _run_families(run: RunSnapshot) -> Iterator[Family]:
    identity = labels(run_id=run.run_id, processor=run.processor, balancer=run.balancer)
    files = (run.files_queued, run.files_processing, run.files_completed, run.files_failed)
    yield family(c.RUN_INFO, [(identity, 1)])
    yield family(c.RUN_STATE, ((labels(state=s), run.state.value == s) for s in c.RUN_STATES))
    yield family(c.RUN_START, [(NO_LABELS, run.start_timestamp)])
    yield family(c.RUN_COMPLETION, [(NO_LABELS, run.estimated_completion_timestamp)])
    counts = zip(c.FILE_STATES, files, strict=True)
    yield family(c.RUN_FILES, ((labels(state=state), n) for state, n in counts))
    yield family(c.LOAD_IMBALANCED, [(NO_LABELS, run.load_imbalanced)])
    yield family(c.WORK_IMBALANCED, [(NO_LABELS, run.work_imbalanced)])
    yield family(c.STALL_THRESHOLD, [(NO_LABELS, run.stall_threshold)])


def _enumerated(
    metric: c.Metric, label: str, values: dict[str, _Read], workers: Sequence[WorkerSnapshot]
) -> Family:
    """A family with one sample for each worker and value of `label`."""
    names, reads = tuple(values), values.values()
    return family(
        metric,
        (
            (of_value, read(w))
            for w in workers
            for of_value, read in zip(labels_each(w.gpu, label, names), reads, strict=True)
        ),
    )


def _steal_families(run: RunSnapshot) -> Iterator[Family]:
    gpus = [w.gpu for w in run.workers]
    is_paired = len(gpus) <= PAIRED_WORKERS
    pairs = itertools.permutations(gpus, 2) if is_paired else (("", gpu) for gpu in gpus)
    zeros = dict.fromkeys(pairs, 0)
    for metric, happened in ((c.STEALS, run.steals), (c.STOLEN_RESIDUES, run.stolen_residues)):
        counts = {**zeros, **dict(happened)}
        yield family(metric, ((labels(victim=v, thief=t), n) for (v, t), n in counts.items()))
    yield family(c.RESTEALS, [(NO_LABELS, run.resteals)])
    yield family(c.PLAN_CHANGES, [(NO_LABELS, run.plan_changes)])
    yield family(c.LATE_RESULTS, [(NO_LABELS, run.late_results)])


def _durations(workers: Sequence[WorkerSnapshot]) -> Family:
    """The histogram of file durations; file names appear only as exemplars."""
    name, made = c.FILE_DURATION.name, empty(c.FILE_DURATION)
    for worker in workers:
        histogram = worker.durations
        cumulated = list(map(float, itertools.accumulate(histogram.counts)))
        sets = labels_each(worker.gpu, "le", c.BUCKETS)
        made.samples += [
            Sample(f"{name}_bucket", of_bucket, n, None, _exemplar(latest))
            for of_bucket, n, latest in zip(sets, cumulated, histogram.exemplars, strict=True)
        ]
        of_gpu = labels(gpu=worker.gpu)
        made.samples += [
            Sample(f"{name}_count", of_gpu, cumulated[-1]),
            Sample(f"{name}_sum", of_gpu, histogram.total_seconds),
        ]
    return made


def _exemplar(latest: tuple[str, float, float] | None) -> Exemplar | None:
    if latest is None:
        return None
    name, seconds, timestamp = latest
    # Some parsers (prometheus_client 0.26) lose count of escaped quotes in an exemplar.
    shown = name.encode("utf-8", "backslashreplace").decode().replace('"', "'")
    return Exemplar({"file": shown[-_EXEMPLAR_CHARACTERS:]}, seconds, timestamp)
