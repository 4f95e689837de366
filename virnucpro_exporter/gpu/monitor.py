"""Watches all GPUs in the background and publishes one immutable snapshot of them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psutil

from virnucpro_exporter.gpu.nvidia_smi import NvidiaSmiSource
from virnucpro_exporter.gpu.nvml import NvmlSource
from virnucpro_exporter.gpu.sources import CORE, SLOW, Found, Source, SourceError
from virnucpro_exporter.gpu.tracker import Tracker, fresh
from virnucpro_exporter.snapshot import CollectorHealth, GpuDevice, GpuSnapshot, Latest

_log = logging.getLogger(__name__)

_LONGEST_RETRY = 30.0
_STALE_AFTER = 3  # intervals
_FIRST_SAMPLE_TIMEOUT = 5.0


class GPUMonitor:
    """Samples every GPU in a thread of its own; a hung GPU costs only itself.

    Args:
        interval: Seconds between two samples of a GPU; a value is shown for at most three.
        source: Where values come from; NVML, then `nvidia-smi`, when None.
        clock: Unix seconds.
        own_pids: The processes of the run; they and their children are not foreign.
        reopen_after: Seconds between two re-initialisations of a source, at least.
    """

    def __init__(
        self,
        interval: float = 1.0,
        source: Source | None = None,
        clock: Callable[[], float] = time.time,
        own_pids: Callable[[], Iterable[int]] | None = None,
        reopen_after: float = 30.0,
    ) -> None:
        self._interval = interval
        self._max_age = _STALE_AFTER * interval
        self._candidates: Sequence[Source] = (
            [source] if source is not None else [NvmlSource(), NvidiaSmiSource()]
        )
        self._clock = clock
        self._own_pids = own_pids or (lambda: (os.getpid(),))
        self._reopen_after = reopen_after
        self._lock = threading.Lock()  # trackers, the source, and who is inside it
        self._inside = 0
        self._source: Source | None = None
        self._trackers: dict[str, Tracker] = {}
        self._health = CollectorHealth()
        self._cell = Latest(GpuSnapshot(clock()))
        self._stop = threading.Event()
        self._sampled = threading.Event()
        self._supervisor: threading.Thread | None = None

    def start(self) -> None:
        """Start watching; does not wait for a first sample. A second call does nothing."""
        with self._lock:
            if self._supervisor is None:
                self._supervisor = threading.Thread(
                    target=self._supervise, name="gpu-supervisor", daemon=True
                )
                self._supervisor.start()

    def stop(self) -> None:
        """Stop watching, without waiting for a call that hangs."""
        self._stop.set()

    def __enter__(self) -> GPUMonitor:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def latest(self) -> GpuSnapshot:
        """What is known now. Never waits, and never asks a GPU."""
        return fresh(self._cell.latest(), self._clock(), self._max_age)

    def wait(self, timeout: float = _FIRST_SAMPLE_TIMEOUT) -> GpuSnapshot:
        """Start if need be, and wait for the first sample of all GPUs, `timeout` s at most."""
        self.start()
        self._sampled.wait(timeout)
        return self.latest()

    def get_gpu_utilization(self, device_id: int | str) -> dict[str, float | None]:
        """The four values everybody asks for, as of at most three intervals ago.

        Args:
            device_id: The GPU's id, for example 0, `"0"` or `"0:1"`, or its uuid.

        Returns:
            `compute_percent` and `memory_percent` (0 to 100), `temperature` (degrees Celsius)
            and `power_watts`; None for a value that the GPU, or no GPU, gives.
        """
        wanted = str(device_id)
        devices = (self.latest() if self._sampled.is_set() else self.wait()).devices
        device = next((d for d in devices if wanted in (d.gpu, d.uuid)), None)
        sample = None if device is None else device.sample
        return {
            "compute_percent": _percent(sample and sample.utilization_ratio),
            "memory_percent": _percent(sample and sample.memory_ratio),
            "temperature": None if sample is None else sample.temperature_celsius,
            "power_watts": None if sample is None else sample.power_watts,
        }

    def _supervise(self) -> None:
        delay, opened_at = 1.0, 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            if self._source is None:
                if self._open_any():
                    delay, opened_at = 1.0, now
                else:
                    self._sampled.set()
                    self._stop.wait(delay)
                    delay = min(2 * delay, _LONGEST_RETRY)
                    continue
            elif self._wants_reopen() and now - opened_at >= self._reopen_after:
                opened_at = now if self._reopen() else opened_at
            self._publish()
            self._stop.wait(self._interval)

    def _wants_reopen(self) -> bool:
        with self._lock:
            trackers = list(self._trackers.values())
        return not trackers or any(t.wants_reopen for t in trackers)

    def _open_any(self) -> bool:
        reasons = []
        for source in self._candidates:
            try:
                found = source.open()
            except SourceError as error:  # noqa: PERF203 - the next candidate may work
                reasons.append(str(error))
            else:
                with self._lock:
                    self._source = source
                    self._adopt(found)
                _log.info("watching %d GPUs through %s", len(found), source.backend)
                self._succeed()
                return True
        # The first candidate's reason: that the fallback is missing too is no news.
        self._fail(reasons[0])
        return False

    def _reopen(self) -> bool:
        """Open the source anew, unless a thread is inside it; the lock keeps others out."""
        with self._lock:
            if self._inside or self._source is None:
                return False
            try:
                self._adopt(self._source.open())
            except SourceError as error:
                self._source = None
                reason = str(error)
            else:
                return True
        self._fail(reason)
        return True

    def _adopt(self, found: Sequence[Found]) -> None:
        """Match what a source lists with the GPUs that are known; uuids decide."""
        listed = {f.uuid for f in found if f.uuid}
        gone = [t for t in self._trackers.values() if t.found.uuid and t.found.uuid not in listed]
        for item in found:
            known = self._known(item)
            if known is not None:
                known.identify(item)
            elif item.uuid or not gone:  # an unreadable GPU may well be the one that is gone
                self._add(item)
        for tracker in gone:
            tracker.unlisted()
        if not self._trackers:
            self._sampled.set()

    def _known(self, item: Found) -> Tracker | None:
        for tracker in self._trackers.values():
            if item.uuid and tracker.found.uuid == item.uuid:
                return tracker
        nameless = self._trackers.get(item.gpu)
        return nameless if nameless is not None and not nameless.found.uuid else None

    def _add(self, item: Found) -> None:
        gpu, index = item.gpu, len(self._trackers)
        while gpu in self._trackers:
            gpu, index = str(index), index + 1
        tracker = Tracker(item, gpu, self._count_foreign, self._max_age)
        self._trackers[gpu] = tracker
        threading.Thread(
            target=self._watch, args=(tracker,), name=f"gpu-{gpu}", daemon=True
        ).start()

    def _watch(self, tracker: Tracker) -> None:
        """The life of one GPU's thread."""
        cycle = 0
        while not self._stop.is_set():
            began = time.monotonic()
            # Slow values every other cycle, so that they too stay younger than three intervals.
            self._sample(tracker, CORE if cycle % 2 else CORE + SLOW)
            cycle += 1
            self._stop.wait(max(0.0, self._interval - (time.monotonic() - began)))

    def _sample(self, tracker: Tracker, queries: tuple[str, ...]) -> None:
        with self._lock:
            source, asked = self._source, tracker.due(queries, self._clock())
            if source is None or not asked:
                return
            self._inside += 1
        began, now = time.monotonic(), self._clock()
        reading, reason = None, ""
        try:
            reading = source.read(tracker.found.uuid, asked)
        except SourceError as error:
            reason = str(error)
        finally:
            with self._lock:
                self._inside -= 1
                # Under the lock: other threads publish what this tracker holds.
                if reading is None:
                    tracker.wants_reopen = True
                else:
                    tracker.absorb(reading, now)
        if reading is None:
            self._fail(reason)
        else:
            self._succeed(time.monotonic() - began)
        self._publish()

    def _count_foreign(self, pids: tuple[int, ...]) -> int:
        if not pids:
            return 0
        own = set(self._own_pids())
        for pid in tuple(own):
            with contextlib.suppress(psutil.Error):  # ended: its pid is ours all the same
                own.update(child.pid for child in psutil.Process(pid).children(recursive=True))
        return len(set(pids) - own)

    def _succeed(self, seconds: float | None = None) -> None:
        old = self._health
        self._health = CollectorHealth(
            success=True,
            duration_seconds=seconds,
            last_success_timestamp=self._clock(),
            failures=old.failures,
        )

    def _fail(self, reason: str) -> None:
        old = self._health
        if reason != old.reason:
            _log.warning("no GPU values: %s", reason)
        self._health = CollectorHealth(
            success=False,
            duration_seconds=old.duration_seconds,
            last_success_timestamp=old.last_success_timestamp,
            failures=old.failures + 1,
            reason=reason,
        )
        self._publish()

    def _publish(self) -> None:
        with self._lock:
            backend = "none" if self._source is None else self._source.backend
            devices = [t.device() for t in self._trackers.values()]
            snapshot = GpuSnapshot(
                self._clock(), backend, tuple(sorted(devices, key=_order)), self._health
            )
            self._cell.publish(snapshot)
        if devices and all(d.up or d.reasons for d in devices):
            self._sampled.set()


def _order(device: GpuDevice) -> tuple[int, ...]:
    return tuple(int(part) for part in device.gpu.split(":"))


def _percent(ratio: Any) -> float | None:
    return None if ratio is None else 100 * ratio


@functools.cache
def _shared() -> GPUMonitor:
    return GPUMonitor()


def get_gpu_utilization(device_id: int | str) -> dict[str, float | None]:
    """`GPUMonitor.get_gpu_utilization` of one monitor that the whole process shares."""
    return _shared().get_gpu_utilization(device_id)
