"""What a run will do and what it did, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from virnucpro_exporter.app.devices import Device
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.snapshot import RunSnapshot, RunState, WorkerSnapshot, WorkerState
from virnucpro_exporter.text import clean, counted, device_noun, format_duration

# In seconds. A shorter run is mostly start-up, and its ratio to the bound is meaningless.
_LEAST_BOUND = 0.05

# Of its busy time a worker worked at least so much; a stall may have begun before a file was held.
_LEAST_WORKING = 0.05

# Less waiting at the end is not worth a word: in seconds, and as a share of the run.
_NOTABLE_SECONDS = 1.0
_NOTABLE_SHARE = 0.05


def plan_text(plan: Mapping[Device, Sequence[SequenceFile]]) -> str:
    """What each device would be given, a line for each."""
    heading = device_noun(device.gpu for device in plan)
    lines = [f"{heading:<8}{'weight':>8}{'files':>8}{'sequences':>12}{'residues':>15}  name"]
    for device, files in plan.items():
        known = [file.sequences for file in files if file.sequences is not None]
        sequences = f"{sum(known):,}" if len(known) == len(files) else "?"
        residues = sum(file.residues for file in files)
        lines.append(
            f"{device.gpu:<8}{device.weight:>8.2f}{len(files):>8}{sequences:>12}{residues:>15,}"
            f"  {device.name}"
        )
    return "\n".join(lines)


def summary_text(run: RunSnapshot) -> str:
    """What a run did: a line for each worker, and the totals last."""
    width = max((len(worker.gpu) + 1 for worker in run.workers), default=0)
    lines = [_worker_line(worker, run, max(width, 8)) for worker in run.workers]
    done = run.files_completed - run.files_skipped
    left = run.files_queued + run.files_processing
    steals = sum(number for _, number in run.steals)
    # Scripts look for this line, so its first words are the same whatever the number.
    lines.append(
        f"{done} files done, {run.files_failed} failed, {run.files_skipped} skipped, "
        f"{left} left; {counted(run.retries, 'retry', 'retries')}, {counted(steals, 'steal')}"
    )
    lines.append(f"{run.elapsed_seconds:.1f} s, {_work(run)}{_against_bound(run)}")
    return "\n".join([*lines, *_held_up(run)])


def _held_up(run: RunSnapshot) -> list[str]:
    """What kept GPUs waiting at the end, in words; nothing where it was not worth a word."""
    ends = sorted(w.last_progress_time or run.start_timestamp for w in run.workers)
    if run.state is not RunState.COMPLETED or len(ends) < 2:
        return []
    seconds = ends[-1] - ends[-2]
    if seconds < max(_NOTABLE_SECONDS, _NOTABLE_SHARE * run.elapsed_seconds):
        return []
    devices = counted(len(ends), device_noun(worker.gpu for worker in run.workers))
    waited = f"{len(ends) - 1} of {devices} waiting for {format_duration(seconds)}"
    what = "the end of a file split into parts" if run.parts_total else "the last file"
    return [f"{what} kept {waited}"]


def _worker_line(worker: WorkerSnapshot, run: RunSnapshot, width: int) -> str:
    busy = worker.busy_seconds / run.elapsed_seconds if run.elapsed_seconds > 0 else 0.0
    files = "file, " if worker.files_completed == 1 else "files,"
    if run.parts_total:
        files += f" {counted(worker.parts_completed, 'part'):>8},"
    line = f"  {worker.gpu:<{width}}{worker.files_completed:>7} {files} busy {busy:>4.0%}"
    if worker.stalls:
        times = "once" if worker.stalls == 1 else f"{worker.stalls} times"
        line += f", stalled {times} for {format_duration(worker.stalled_seconds)}"
    if worker.attempts_moved:
        line += f", {counted(worker.attempts_moved, 'file')} taken back"
    if worker.restarts:
        line += f", {counted(worker.restarts, 'restart')}"
    lost = "LOST" if worker.state is WorkerState.LOST else "lost"
    if worker.state is WorkerState.LOST or worker.lost_seconds > 0:
        line += f", {lost} for {format_duration(worker.lost_seconds)}"
    if worker.state is WorkerState.LEFT:
        line += ", left"
    return line


def _work(run: RunSnapshot) -> str:
    """Sequences of the results where they are known, else residues."""
    sequences = sum(worker.sequences_completed for worker in run.workers)
    residues = sum(worker.residues_processed for worker in run.workers)
    amount, unit = (
        (residues, "residues") if residues and not sequences else (sequences, "sequences")
    )
    seconds = run.elapsed_seconds
    if seconds <= 0:
        return f"{amount:,} {unit}, no time"
    rate = amount / seconds
    shown = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"  # a slow run is not idle
    return f"{amount:,} {unit}, {shown} {unit}/s"


def failures_text(run: RunSnapshot) -> str:
    """What a run could not do; empty when it did all."""
    return "\n".join(f"failed: {path!r}: {clean(error)}" for path, error in run.failures)


def _against_bound(run: RunSnapshot) -> str:
    """The makespan beside the least that the speeds allow, with all workers busy all the time.

    Workers do so much work for each second in which they are busy and do not stall. One that did
    nothing counts as fast as its declared speed says beside the others.
    """
    work = sum(worker.residues_processed for worker in run.workers)
    known = [w for w in run.workers if w.residues_processed and w.busy_seconds > 0]
    if not known or not work:
        return ""
    speed = sum(w.residues_processed / _working_seconds(w) for w in known)
    base = speed / sum(w.weight for w in known)
    idle = sum(w.weight for w in run.workers) - sum(w.weight for w in known)
    bound = work / (speed + base * idle)
    if bound < _LEAST_BOUND:
        return ""
    return f"; {run.elapsed_seconds / bound:.2f} x the least possible ({bound:.1f} s)"


def _working_seconds(worker: WorkerSnapshot) -> float:
    """Seconds in which it got further; a stall is no part of what its speed allows."""
    return max(worker.busy_seconds - worker.stalled_seconds, _LEAST_WORKING * worker.busy_seconds)
