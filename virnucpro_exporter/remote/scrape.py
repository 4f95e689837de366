"""A run and its GPUs, rebuilt from one scrape of a `/metrics` endpoint and the one before.

What the endpoint does not tell (names of files, why a value is missing) stays unknown. States come
from what it does tell: a worker that is down is lost, one whose starved time grew is starved.
"""

from __future__ import annotations

from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

from virnucpro_exporter.snapshot import (
    GpuDevice,
    GpuSample,
    GpuSnapshot,
    RunSnapshot,
    RunState,
    StealEvent,
    WorkerSnapshot,
    WorkerState,
)

PREFIX = "virnucpro_"
STEALS_KEPT = 50


class Samples:
    """The samples of one scrape, by name and labels, without the common prefix."""

    def __init__(self, text: str) -> None:
        # By the name, and by the name with each single label: of a thousand GPUs nobody looks
        # through the samples of all to find those of one.
        self._found: defaultdict[tuple[str, ...], list[tuple[dict[str, str], float]]]
        self._found = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name, found = sample.name.removeprefix(PREFIX), (sample.labels, sample.value)
                self._found[(name,)].append(found)
                for label in sample.labels.items():
                    self._found[(name, *label)].append(found)

    def __contains__(self, name: str) -> bool:
        return (name,) in self._found

    def all(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Every sample of a metric that has these labels, with all its labels."""
        first = next(iter(labels.items()), ())
        found = self._found.get((name, *first), [])
        return [sample for sample in found if labels.items() <= sample[0].items()]

    def get(self, name: str, **labels: str) -> float | None:
        """The first sample with these labels, or None."""
        return next((value for _, value in self.all(name, **labels)), None)

    def count(self, name: str, **labels: str) -> int:
        """A number of things; 0 when the endpoint does not say."""
        return int(self.get(name, **labels) or 0)

    def whole(self, name: str, **labels: str) -> int | None:
        """A whole number, or None."""
        value = self.get(name, **labels)
        return None if value is None else int(value)


def run_snapshot(
    now_samples: Samples,
    previous: Samples | None,
    now: float,
    steals: tuple[StealEvent, ...] = (),
) -> RunSnapshot:
    """The run as its metrics tell it.

    Args:
        now_samples: The newest scrape.
        previous: The one before, to see what grew, or None.
        now: Unix seconds of the newest.
        steals: Those seen between scrapes so far.
    """
    get, count = now_samples.get, now_samples.count
    taken = get("collector_last_success_timestamp_seconds", collector="run") or now
    start = get("run_start_timestamp_seconds")
    end = get("run_estimated_completion_timestamp_seconds")
    info = next((labels for labels, _ in now_samples.all("run_info")), {})
    return RunSnapshot(
        timestamp=taken,
        run_id=info.get("run_id", ""),
        processor=info.get("processor", ""),
        balancer=info.get("balancer", ""),
        state=_run_state(now_samples),
        start_timestamp=start or 0.0,
        elapsed_seconds=taken - start if start else 0.0,
        stall_threshold=get("worker_stall_threshold_seconds") or 0.0,
        files_queued=count("run_files", state="queued"),
        files_processing=count("run_files", state="processing"),
        files_completed=count("run_files", state="completed"),
        files_failed=count("run_files", state="failed"),
        eta_seconds=None if end is None else max(0.0, end - taken),
        load_imbalanced=bool(get("load_imbalanced")),
        workers=tuple(
            _worker(now_samples, previous, labels["gpu"])
            for labels, _ in now_samples.all("worker_up")
        ),
        recent_steals=steals,
    )


def gpu_snapshot(samples: Samples, now: float) -> GpuSnapshot:
    """The GPUs as their metrics tell them; `now` is Unix seconds."""
    backend = next((labels for labels, _ in samples.all("gpu_monitor_info")), {})
    taken = samples.get("collector_last_success_timestamp_seconds", collector="gpu") or now
    identities = {labels["gpu"]: labels for labels, _ in samples.all("gpu_info")}
    devices = []
    for labels, up in samples.all("gpu_up"):
        gpu = labels["gpu"]
        identity = identities.get(gpu, {})
        devices.append(
            GpuDevice(
                gpu=gpu,
                uuid=identity.get("uuid", ""),
                name=identity.get("name", ""),
                pci_bus_id=identity.get("pci_bus_id", ""),
                driver_version=identity.get("driver_version", ""),
                node=identity.get("node", ""),
                up=bool(up),
                sample=_sample(samples, gpu, taken) if up else None,
            )
        )
    return GpuSnapshot(now, backend.get("backend", "none"), tuple(devices))


def new_steals(previous: Samples | None, samples: Samples, now: float) -> list[StealEvent]:
    """What the counters of steals grew by between two scrapes; the files are not known."""
    if previous is None:
        return []
    found = []
    for labels, value in samples.all("steals_total"):
        pair = {"victim": labels["victim"], "thief": labels["thief"]}
        grown = int(value - (previous.get("steals_total", **pair) or 0.0))
        event = StealEvent(now, pair["victim"] or "?", pair["thief"], "")
        found += [event] * min(grown, STEALS_KEPT)
    return found


def _worker(samples: Samples, previous: Samples | None, gpu: str) -> WorkerSnapshot:
    def get(name: str) -> float | None:
        return samples.get(name, gpu=gpu)

    starved = get("worker_starved_seconds_total") or 0.0
    starved_before = previous.get("worker_starved_seconds_total", gpu=gpu) if previous else None
    alive, inflight = bool(get("worker_up")), samples.count("worker_inflight_files", gpu=gpu)
    if not alive:
        state = WorkerState.LOST
    elif inflight:
        state = WorkerState.BUSY
    elif starved_before is not None and starved > starved_before:
        state = WorkerState.STARVED
    else:
        state = WorkerState.IDLE
    return WorkerSnapshot(
        gpu=gpu,
        name=next((found["name"] for found, _ in samples.all("gpu_info", gpu=gpu)), ""),
        state=state,
        is_alive=alive,
        is_stalled=bool(get("worker_stalled")),
        queue_depth=samples.count("queue_depth_files", gpu=gpu),
        queue_residues=samples.count("queue_depth_residues", gpu=gpu),
        inflight_files=inflight,
        files_completed=samples.count("files_completed_total", gpu=gpu),
        file_failures=samples.count("file_failures_total", gpu=gpu),
        sequences_processed=samples.count("sequences_processed_total", gpu=gpu),
        residues_processed=samples.count("residues_processed_total", gpu=gpu),
        throughput=get("throughput_sequences_per_second"),
        busy_seconds=get("worker_busy_seconds_total") or 0.0,
        starved_seconds=starved,
        last_progress_time=get("worker_last_progress_timestamp_seconds"),
        stalls=samples.count("worker_stalls_total", gpu=gpu),
        restarts=samples.count("worker_restarts_total", gpu=gpu),
        work_stolen_from=samples.count("files_stolen_from_total", gpu=gpu),
        work_stolen_to=sum(int(value) for _, value in samples.all("steals_total", thief=gpu)),
    )


def _sample(samples: Samples, gpu: str, taken: float) -> GpuSample:
    throttled = samples.all("gpu_throttled", gpu=gpu)
    return GpuSample(
        timestamp=taken,
        utilization_ratio=samples.get("gpu_utilization_ratio", gpu=gpu),
        memory_used_bytes=samples.whole("gpu_memory_used_bytes", gpu=gpu),
        memory_size_bytes=samples.whole("gpu_memory_size_bytes", gpu=gpu),
        temperature_celsius=samples.get("gpu_temperature_celsius", gpu=gpu),
        power_watts=samples.get("gpu_power_watts", gpu=gpu),
        power_limit_watts=samples.get("gpu_power_limit_watts", gpu=gpu),
        energy_joules=samples.get("gpu_energy_joules_total", gpu=gpu),
        sm_clock_hertz=samples.get("gpu_sm_clock_hertz", gpu=gpu),
        throttle_reasons=frozenset(labels["reason"] for labels, on in throttled if on)
        if throttled
        else None,
        foreign_processes=samples.whole("gpu_foreign_processes", gpu=gpu),
    )


def read_scrape(text: str) -> Samples:
    """The samples of a run.

    Raises:
        ValueError: The text is not the metrics of a run.
    """
    samples = Samples(text)
    if "run_state" not in samples:
        raise ValueError("it answers, but not with the metrics of a run")
    return samples


def _run_state(samples: Samples) -> RunState:
    for labels, value in samples.all("run_state"):
        if value:
            return RunState(labels["state"])
    return RunState.STARTING
