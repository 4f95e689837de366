"""What a run will do and what it did, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from virnucpro_exporter.app.devices import Device
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.snapshot import RunSnapshot

# In seconds. Below that a run is start-up alone, and its ratio to the bound says nothing.
_LEAST_BOUND = 0.05


def plan_text(plan: Mapping[Device, Sequence[SequenceFile]]) -> str:
    """What each device would be given, a line for each."""
    lines = [f"{'GPU':<8}{'weight':>8}{'files':>8}{'sequences':>12}{'residues':>15}  name"]
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
    """What a run did."""
    done = run.files_completed - run.files_skipped
    sequences = sum(worker.sequences_completed for worker in run.workers)
    seconds = run.elapsed_seconds
    left = run.files_queued + run.files_processing
    lines = [
        (
            f"{done} files done, {run.files_failed} failed, {run.files_skipped} skipped, "
            f"{left} left; {run.retries} retries, {sum(n for _, n in run.steals)} steals"
        )
    ]
    rate = f"{sequences / seconds:,.0f} sequences/s" if seconds > 0 else "no time"
    lines.append(f"{seconds:.1f} s, {sequences:,} sequences, {rate}{_against_bound(run)}")
    width = max((len(worker.gpu) + 1 for worker in run.workers), default=0)
    for worker in run.workers:
        busy = worker.busy_seconds / seconds if seconds > 0 else 0.0
        lines.append(
            f"  {worker.gpu:<{max(width, 8)}}{worker.files_completed:>7} files, busy {busy:>4.0%}"
        )
    return "\n".join(lines)


def failures_text(run: RunSnapshot) -> str:
    """What a run could not do; empty when it did all."""
    return "\n".join(f"failed: {path!r}: {error}" for path, error in run.failures)


def _against_bound(run: RunSnapshot) -> str:
    """The makespan beside the least that the learned speeds allow."""
    speeds = [w.residues_per_second for w in run.workers if w.residues_per_second]
    work = sum(worker.residues_processed for worker in run.workers)
    if not speeds or not work:
        return ""
    bound = work / sum(speeds)
    if bound < _LEAST_BOUND:
        return ""
    return f"; {run.elapsed_seconds / bound:.2f} x the least possible ({bound:.1f} s)"
