"""How fast a worker is: its throughput for people, its learned speed for decisions."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60.0
WINDOW_FILES = 10

# A worker's speed is remembered over about this many files.
_MEMORY_FILES = 10
_FORGET_PER_FILE = 1.0 / _MEMORY_FILES

# A worker that stalled is believed to be this many times slower than it was.
DOUBT = 4.0


class Throughput:
    """Sequences per second over the last 60 s, or over the last 10 files if those reach further.

    The running total is sampled at most once a second, so memory and cost do not grow with the
    number of files.
    """

    __slots__ = ("_file_ends", "_next_sample", "_samples", "total")

    def __init__(self) -> None:
        self.total = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._file_ends: deque[float] = deque(maxlen=WINDOW_FILES + 1)
        self._next_sample = float("-inf")

    def begin(self, now: float) -> None:
        """The worker starts a file; before its first, there is nothing to divide by."""
        if not self._samples:
            self._samples.append((now, 0))
            self._file_ends.append(now)
            self._next_sample = now + 1.0

    def add(self, sequences: int, now: float) -> None:
        """Count sequences as processed at `now`."""
        self.total += sequences
        if now >= self._next_sample:
            self._samples.append((now, self.total))
            self._next_sample = now + 1.0
            self._forget(now)

    def file_ended(self, now: float) -> None:
        """Remember when a file ended."""
        self._file_ends.append(now)

    def _window_start(self, now: float) -> float:
        files = self._file_ends
        return min(now - WINDOW_SECONDS, files[0]) if files else now - WINDOW_SECONDS

    def _forget(self, now: float) -> None:
        start = self._window_start(now)
        samples = self._samples
        while len(samples) > 2 and samples[1][0] <= start:
            samples.popleft()
        if len(samples) > 256:  # long files: half the resolution is plenty
            self._samples = deque(list(samples)[::2])

    def per_second(self, now: float) -> float | None:
        """Sequences per second at `now`, or None before anything was processed."""
        if not self.total:
            return None
        start = self._window_start(now)
        before, at = 0, self._samples[0][0]
        for sampled_at, total in self._samples:
            if sampled_at > start:
                break
            at, before = sampled_at, total
        return (self.total - before) / (now - at) if now > at else None


class LearnedSpeed:
    """Residues per second, from progress reports and completions.

    Work and time are remembered with weights that fade over about ten files, so that one file with
    a wrong estimate does little harm and a GPU that slows down is noticed.
    """

    __slots__ = ("_seconds", "_work", "value")

    def __init__(self) -> None:
        self._work = 0.0
        self._seconds = 0.0
        self.value: float | None = None

    @property
    def seconds(self) -> float:
        """How much time the value rests on."""
        return self._seconds

    def observe(self, residues: float, seconds: float, share_of_file: float) -> None:
        """Learn from a stretch of work.

        Args:
            residues: Done in this stretch.
            seconds: How long it took.
            share_of_file: Which part of a file it was, 0 to 1.
        """
        keep = 1.0 - _FORGET_PER_FILE * share_of_file
        self._work = self._work * keep + residues
        self._seconds = self._seconds * keep + seconds
        if self._work > 0.0:
            self.value = self._work / max(self._seconds, 1e-9)

    def doubt(self) -> None:
        """The worker stalled: expect less of it until it shows better."""
        if self.value is not None:
            self._seconds *= DOUBT
            self.value /= DOUBT
