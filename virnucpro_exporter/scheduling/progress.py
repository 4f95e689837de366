"""What workers get done, and what that says about their speed."""

from __future__ import annotations

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.records import Attempt, Worker
from virnucpro_exporter.scheduling.state import Ledger


class ProgressBook:
    """Counts what is done, learns speeds from it, and ends stalls.

    Speeds are in residues per second. Until a worker has shown its own, it is believed to be as
    fast as its declared speed says beside those that have.

    Args:
        ledger: The run.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._base = 1.0  # residues per second of a worker of weight 1, once anything was learned

    def expect(self, worker: Worker) -> None:
        """Believe the declared speed of a worker."""
        worker.speed = worker.weight * self._base

    def advance(
        self, attempt: Attempt, sequences: int, residues: int | None, seconds: float, now: float
    ) -> None:
        """Count what an attempt has done since its last report.

        Args:
            attempt: Which attempt.
            sequences: Sequences done since it began.
            residues: Residues done since it began, or None when nobody knows.
            seconds: How long it took since the last report.
            now: The present time.
        """
        worker = attempt.worker
        new = sequences - attempt.sequences
        if new > 0:
            worker.throughput.add(new, now)
            attempt.sequences = sequences
        if residues is None or residues <= attempt.done:
            return
        done = residues - attempt.done
        attempt.done = residues
        worker.counters.residues += done
        learned = worker.learned
        first = learned.value is None
        learned.observe(done, seconds, min(1.0, done / max(attempt.record.file.residues, 1)))
        if learned.value is not None:
            worker.speed = learned.value
            if first:
                self._rebase()

    def _rebase(self) -> None:
        """Express the declared speeds in residues per second, now that something was measured."""
        fleet = self._ledger.fleet
        known = [w for w in fleet if w.learned.value is not None]
        self._base = sum(w.speed for w in known) / sum(w.weight for w in known)
        for worker in fleet:
            if worker.learned.value is None:
                self.expect(worker)

    def was_silent(self, worker: Worker, now: float) -> None:
        """The worker got further within a file or to its end: its silence until now was none."""
        if worker.stalled_since is None:
            silence = now - worker.touched_at
            self._ledger.longest_silence = max(self._ledger.longest_silence, silence)

    def made(self, worker: Worker, now: float) -> None:
        """The worker got further, so it does not stall."""
        worker.last_progress = worker.touched_at = now
        if worker.stalled_since is not None:
            self.end_stall(worker, now)

    def end_stall(self, worker: Worker, now: float) -> None:
        """The worker got further, or its process is replaced."""
        if worker.stalled_since is not None:
            seconds = now - worker.stalled_since
            worker.counters.stalled_seconds += seconds
            worker.stalled_since = None
            self._ledger.actions.append(ev.StallEnded(worker.gpu, seconds))
            self._ledger.look_by(now + self._ledger.settings.stall_threshold)
