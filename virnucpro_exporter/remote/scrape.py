"""A run and its GPUs, rebuilt from one scrape of a `/metrics` endpoint and the one before.

Only what the dashboard shows is rebuilt. What the endpoint does not serve (names of files, why a
value is missing) stays unknown. States come from what it serves: a worker that is down is lost,
one whose starved time grew is starved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from virnucpro_exporter.metrics import catalog as c
from virnucpro_exporter.metrics.catalog import Metric
from virnucpro_exporter.snapshot import (
    GpuDevice,
    GpuSample,
    GpuSnapshot,
    RunEnd,
    RunResult,
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
)

STEALS_KEPT = 50
_RUN = "run"  # the label of the runs of a machine


class Samples:
    """The samples of one scrape, by metric and labels.

    Args:
        samples: (name, labels, value) of each.
    """

    def __init__(self, samples: Iterable[tuple[str, dict[str, str], float]]) -> None:
        self._all = list(samples)
        # By the name, and by the name with each single label: of a thousand GPUs nobody looks
        # through the samples of all to find those of one.
        self._found: defaultdict[tuple[str, ...], list[tuple[dict[str, str], float]]]
        self._found = defaultdict(list)
        for name, labels, value in self._all:
            found = (labels, value)
            self._found[(name,)].append(found)
            for label in labels.items():
                self._found[(name, *label)].append(found)

    def __contains__(self, metric: Metric) -> bool:
        return (metric.name,) in self._found

    def by_run(self) -> dict[str, Samples]:
        """Those of each run, by its name; a run that serves by itself has the name ""."""
        names = {labels.get(_RUN, ""): None for labels, _ in self.all(c.RUN_STATE)}
        if list(names) == [""]:
            return {"": self}
        apart: dict[str, list[tuple[str, dict[str, str], float]]] = {name: [] for name in names}
        for sample in self._all:
            apart.get(sample[1].get(_RUN, ""), []).append(sample)
        return {name: Samples(samples) for name, samples in apart.items()}

    def all(self, metric: Metric, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Every sample of a metric that has these labels, with all its labels."""
        first = next(iter(labels.items()), ())
        found = self._found.get((metric.name, *first), [])
        return [sample for sample in found if labels.items() <= sample[0].items()]

    def get(self, metric: Metric, **labels: str) -> float | None:
        """The first sample with these labels, or None."""
        return next((value for _, value in self.all(metric, **labels)), None)

    def count(self, metric: Metric, **labels: str) -> int:
        """A count; 0 when the endpoint does not serve it."""
        return int(self.get(metric, **labels) or 0)

    def whole(self, metric: Metric, **labels: str) -> int | None:
        """A whole number, or None."""
        value = self.get(metric, **labels)
        return None if value is None else int(value)


def run_snapshot(
    now_samples: Samples,
    previous: Samples | None,
    now: float,
    steals: tuple[StealEvent, ...] = (),
) -> RunSnapshot:
    """The run, rebuilt from its metrics.

    Args:
        now_samples: The newest scrape.
        previous: The one before, to see what grew, or None.
        now: Unix seconds of the newest.
        steals: Those seen between scrapes so far.
    """
    get, count = now_samples.get, now_samples.count
    taken = get(c.COLLECTOR_LAST_SUCCESS, collector="run") or now
    start, estimated = get(c.RUN_START), get(c.RUN_COMPLETION)
    end = _end(now_samples, taken)
    state = _run_state(now_samples)
    # `serve` stores the last state that a run sent, and how it ended after that.
    has_ended = end is not None and state not in (RunState.COMPLETED, RunState.FAILED)
    return RunSnapshot(
        timestamp=taken,
        state=RunState.FAILED if has_ended else state,
        elapsed_seconds=(taken if end is None else end.timestamp) - start if start else 0.0,
        files_queued=count(c.RUN_FILES, state="queued"),
        files_processing=count(c.RUN_FILES, state="processing"),
        files_completed=count(c.RUN_FILES, state="completed"),
        files_failed=count(c.RUN_FILES, state="failed"),
        parts_queued=count(c.RUN_PARTS, state="queued"),
        parts_processing=count(c.RUN_PARTS, state="processing"),
        parts_completed=count(c.RUN_PARTS, state="completed"),
        progress=get(c.RUN_PROGRESS),
        eta_seconds=None if estimated is None or end else max(0.0, estimated - taken),
        work_imbalanced=bool(get(c.WORK_IMBALANCED)),
        workers=tuple(
            _worker(now_samples, previous, labels["gpu"])
            for labels, _ in now_samples.all(c.WORKER_UP)
        ),
        recent_steals=steals,
        end=end,
    )


def _end(samples: Samples, taken: float) -> RunEnd | None:
    for labels, value in samples.all(c.RUN_RESULT):
        if value:
            return RunEnd(samples.get(c.RUN_END) or taken, RunResult(labels["result"]))
    return None


def gpu_snapshot(samples: Samples, now: float) -> GpuSnapshot:
    """The GPUs, rebuilt from their metrics; `now` is Unix seconds."""
    taken = samples.get(c.COLLECTOR_LAST_SUCCESS, collector="gpu") or now
    devices = (
        GpuDevice(
            gpu=labels["gpu"],
            name=_name(samples, labels["gpu"]),
            up=bool(up),
            sample=_sample(samples, labels["gpu"], taken) if up else None,
        )
        for labels, up in samples.all(c.GPU_UP)
    )
    backends = (labels["backend"] for labels, _ in samples.all(c.GPU_MONITOR_INFO))
    return GpuSnapshot(now, next(backends, "none"), tuple(devices))


def _name(samples: Samples, gpu: str) -> str:
    return next((labels["name"] for labels, _ in samples.all(c.GPU_INFO, gpu=gpu)), "")


def new_steals(previous: Samples | None, samples: Samples, now: float) -> list[StealEvent]:
    """What the counters of steals grew by between two scrapes; the files are not known."""
    if previous is None:
        return []
    found = []
    for labels, value in samples.all(c.STEALS):
        pair = {"victim": labels["victim"], "thief": labels["thief"]}
        grown = int(value - (previous.get(c.STEALS, **pair) or 0.0))
        event = StealEvent(now, pair["victim"] or "?", pair["thief"], "")
        found += [event] * min(grown, STEALS_KEPT)
    return found


def _worker(samples: Samples, previous: Samples | None, gpu: str) -> WorkerSnapshot:
    return WorkerSnapshot(
        gpu=gpu,
        name=_name(samples, gpu),
        state=_worker_state(samples, previous, gpu),
        is_stalled=bool(samples.get(c.WORKER_STALLED, gpu=gpu)),
        queue_depth=samples.count(c.QUEUE_FILES, gpu=gpu),
        current_seconds=samples.get(c.WORKER_FILE_AGE, gpu=gpu),
        current_range=_range(samples, gpu),
        current_ratio=samples.get(c.WORKER_RANGE_DONE, gpu=gpu),
        files_completed=samples.count(c.FILES_COMPLETED, gpu=gpu),
        parts_completed=samples.count(c.PARTS_COMPLETED, gpu=gpu),
        file_failures=samples.count(c.FILE_FAILURES, gpu=gpu),
        restarts=samples.count(c.WORKER_RESTARTS, gpu=gpu),
        throughput=samples.get(c.THROUGHPUT, gpu=gpu),
        residue_throughput=samples.get(c.RESIDUE_THROUGHPUT, gpu=gpu),
        seconds_left=samples.get(c.WORKER_LEFT, gpu=gpu),
        last_progress_time=samples.get(c.WORKER_PROGRESS, gpu=gpu),
        work_stolen_from=samples.count(c.FILES_STOLEN_FROM, gpu=gpu),
        work_stolen_to=sum(int(value) for _, value in samples.all(c.STEALS, thief=gpu)),
    )


def _range(samples: Samples, gpu: str) -> tuple[float, float] | None:
    begin, end = (samples.get(c.WORKER_RANGE, gpu=gpu, edge=edge) for edge in ("begin", "end"))
    return None if begin is None or end is None else (begin, end)


def _worker_state(samples: Samples, previous: Samples | None, gpu: str) -> WorkerState:
    if not samples.get(c.WORKER_UP, gpu=gpu):
        return WorkerState.LOST
    if samples.get(c.WORKER_LOADING, gpu=gpu):
        return WorkerState.LOADING
    if samples.get(c.WORKER_INFLIGHT, gpu=gpu):
        return WorkerState.BUSY
    before = None if previous is None else previous.get(c.WORKER_STARVED, gpu=gpu)
    has_starved = before is not None and (samples.get(c.WORKER_STARVED, gpu=gpu) or 0.0) > before
    return WorkerState.STARVED if has_starved else WorkerState.IDLE


def _sample(samples: Samples, gpu: str, taken: float) -> GpuSample:
    return GpuSample(
        timestamp=taken,
        utilization_ratio=samples.get(c.GPU_UTILIZATION, gpu=gpu),
        memory_used_bytes=samples.whole(c.GPU_MEMORY_USED, gpu=gpu),
        memory_size_bytes=samples.whole(c.GPU_MEMORY_SIZE, gpu=gpu),
        temperature_celsius=samples.get(c.GPU_TEMPERATURE, gpu=gpu),
        power_watts=samples.get(c.GPU_POWER, gpu=gpu),
        power_limit_watts=samples.get(c.GPU_POWER_LIMIT, gpu=gpu),
    )


def read_scrape(text: str) -> Samples:
    """The samples of runs and GPUs.

    Raises:
        ValueError: The text is not what this program serves.
    """
    families = text_string_to_metric_families(text)
    samples = Samples((s.name, s.labels, s.value) for family in families for s in family.samples)
    if c.RUN_STATE not in samples and c.COLLECTOR_SUCCESS not in samples:
        raise ValueError("the answer is not from this program")
    return samples


def _run_state(samples: Samples) -> RunState:
    for labels, value in samples.all(c.RUN_STATE):
        if value:
            return RunState(labels["state"])
    return RunState.STARTING
