"""When silence is a stall: pure functions of a worker, the settings and what was seen before.

A processor that reports progress all the time is judged by its silence alone. What users bring, a
command or a class of theirs, may report nothing for as long as a file takes. It is judged by how
long that should take, and by signs of life: processor time, growing outputs, use of the GPU.
"""

from __future__ import annotations

from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.scheduling.workers import Worker

# Silence is no stall before it is so many times as long as it should be. Files of one size differ
# by a factor of two in what they take, by their content and what else the machine does.
PATIENCE = 3.0


def is_judged(worker: Worker, *, is_push: bool, is_draining: bool) -> bool:
    """Whether anything is expected of a worker: it is up, and holds files or has some queued.

    Args:
        worker: The worker.
        is_push: Workers have processes of the run, which report when they are up.
        is_draining: Files that wait are not expected to be done.
    """
    has_work = bool(worker.inflight) if is_draining else worker.has_work
    is_down = worker.is_retired or (is_push and not worker.is_ready)
    return has_work and not is_down


def allowed_silence(worker: Worker, settings: SchedulerSettings, longest_silence: float) -> float:
    """Seconds that a worker may be silent where it shows no sign of life.

    Args:
        worker: The worker.
        settings: The stall threshold, and whether the processor is known to report.
        longest_silence: Of attempts of this run that got further after it, in seconds.
    """
    threshold = settings.stall_threshold
    if settings.reports_progress:
        return threshold
    allowed = max(threshold, PATIENCE * longest_silence)
    if worker.has_reported:
        return allowed
    return max(allowed, PATIENCE * _expected(worker, threshold, is_known=longest_silence > 0.0))


def deadline(worker: Worker, settings: SchedulerSettings, longest_silence: float) -> float:
    """When more silence of a worker is a stall; while it loads, when that has taken too long.

    Args:
        worker: The worker.
        settings: Limits, and whether the processor is known to report.
        longest_silence: Of attempts of this run that got further after it, in seconds.
    """
    if worker.is_loading:
        return worker.spawned_at + settings.setup_timeout
    silent_until = worker.touched_at + allowed_silence(worker, settings, longest_silence)
    if settings.reports_progress or worker.has_reported:
        return silent_until
    return max(silent_until, worker.alive_at + settings.stall_threshold)


def restart_at(worker: Worker, settings: SchedulerSettings, longest_silence: float) -> float:
    """When a worker that stalls is killed, where that is wanted: not while it shows signs of life.

    A worker that reported before and has stopped is not believed for ever: a program that waits for
    a hung GPU uses processor time, too.

    Args:
        worker: The worker.
        settings: Limits, and whether the processor is known to report.
        longest_silence: Of attempts of this run that got further after it, in seconds.
    """
    at = deadline(worker, settings, longest_silence)
    if settings.reports_progress:
        return at
    lively_until = max(at, worker.alive_at + settings.stall_threshold)
    if not worker.has_reported:
        return lively_until
    allowed = allowed_silence(worker, settings, longest_silence)
    return min(lively_until, worker.touched_at + PATIENCE * allowed)


def _expected(worker: Worker, threshold: float, *, is_known: bool) -> float:
    """Seconds that the file in process should take; the threshold while nothing is known.

    Args:
        worker: The worker.
        threshold: Of a stall, in seconds.
        is_known: Any worker has got further, so that all their speeds are known about.
    """
    if not is_known:
        return threshold
    running = next(iter(worker.running), None)
    return 0.0 if running is None else worker.seconds(running.record.file.residues)
