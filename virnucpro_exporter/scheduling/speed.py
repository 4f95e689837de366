"""How fast a worker is: its throughput for people, its learned speed for decisions."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

NEVER = float("inf")

WINDOW_SECONDS = 60.0
WINDOW_FILES = 10
_MOST_SAMPLES = 256

# A worker's speed is remembered over about this many files.
_MEMORY_FILES = 10
_FORGET_PER_FILE = 1.0 / _MEMORY_FILES

# The present speed of an attempt is what it did in its last minute; in less, a pause would look
# like a slow GPU. In seconds.
RECENT_SECONDS = 60.0

# The seconds of files of one size vary by about this share, from their content; a fixed cost is
# believed when it is so many times as large as its standard error.
_RELATIVE_ERROR = 0.2
_CLEAR_ERRORS = 3.0

# A worker that stalled is believed to be this many times slower than it was.
DOUBT = 4.0

# Clocks have a grain: a stretch of work may seem to take no time. In seconds.
_GRAIN = 1e-9

# So many residues per second are believed of any worker, however often it stalled.
SLOWEST = 1e-6


class Throughput:
    """What a worker does per second: over the last minute with progress, else the last 10 files.

    What is told at once was done since the report before, so it counts evenly from there on: a file
    of 100 s that reports nothing until its end was not done in that moment.

    The running totals are sampled at most once a second, so memory and cost do not grow with the
    number of files.

    Attributes:
        sequences: Done so far.
        residues: Done so far.
    """

    __slots__ = ("_file_ends", "_latest", "_next_sample", "_samples", "residues", "sequences")

    def __init__(self) -> None:
        self.sequences = 0
        self.residues = 0
        self._samples: deque[tuple[float, int, int]] = deque()
        self._latest = 0.0  # when there was progress
        self._file_ends: deque[float] = deque(maxlen=WINDOW_FILES + 1)
        self._next_sample = float("-inf")

    def begin(self, now: float) -> None:
        """The worker starts a file after none: what comes was not done before."""
        if not self._samples:
            self._file_ends.append(now)
        self._sample(now)

    def add(self, sequences: int, residues: int, now: float) -> None:
        """Count what was processed by `now`, since the latest call."""
        self.sequences += sequences
        self.residues += residues
        self._latest = now
        if now >= self._next_sample:
            self._sample(now)

    def file_ended(self, now: float) -> None:
        """Remember when a file ended."""
        self._file_ends.append(now)

    def sequences_per_second(self, now: float, *, is_busy: bool) -> float | None:
        """Sequences per second, or None before any was processed.

        Args:
            now: The present time.
            is_busy: The worker has a file in process. Otherwise the time up to now counts, too: a
                worker without work does nothing.
        """
        return self._per_second(1, self.sequences, now, is_busy=is_busy)

    def residues_per_second(self, now: float, *, is_busy: bool) -> float | None:
        """Residues per second, likewise."""
        return self._per_second(2, self.residues, now, is_busy=is_busy)

    def _per_second(self, place: int, total: int, now: float, *, is_busy: bool) -> float | None:
        if not total:
            return None
        end, latest = now, self._latest
        # Since the end of the last file nothing was told; that is no less work than before.
        if is_busy and (latest == self._file_ends[-1] or now - latest > WINDOW_SECONDS):
            end = latest
        begin = end - WINDOW_SECONDS
        if is_busy and now - latest > WINDOW_SECONDS:
            begin = self._file_ends[0]
        begin = max(begin, self._samples[0][0])
        return (total - self._total_at(begin, place)) / (end - begin) if end > begin else None

    def _sample(self, now: float) -> None:
        samples = self._samples
        samples.append((now, self.sequences, self.residues))
        self._next_sample = now + 1.0
        start = min(now - WINDOW_SECONDS, self._file_ends[0])
        while len(samples) > 2 and samples[1][0] <= start:
            samples.popleft()
        if len(samples) > _MOST_SAMPLES:  # long files: half the resolution is plenty
            self._samples = deque(list(samples)[::2])

    def _total_at(self, moment: float, place: int) -> float:
        """How much was done by a moment, evenly between two samples."""
        before = self._samples[0]
        for sample in (*self._samples, (self._latest, self.sequences, self.residues)):
            if sample[0] >= moment:
                start, done, end, total = before[0], before[place], sample[0], sample[place]
                share = (moment - start) / (end - start) if end > start else 1.0
                return done + (total - done) * min(max(share, 0.0), 1.0)
            before = sample
        return before[place]


class RecentSpeed:
    """What one attempt did in its last minute or two, up to its latest report."""

    __slots__ = ("_earlier", "_latest", "_mark")

    def __init__(self, done: int, now: float) -> None:
        self._latest = self._mark = (now, done)
        self._earlier: tuple[float, int] | None = None  # the mark before, at least a minute older

    def add(self, done: int, now: float) -> None:
        """So many residues of the file are done."""
        self._latest = (now, done)
        if now - self._mark[0] >= RECENT_SECONDS:
            self._earlier, self._mark = self._mark, self._latest

    @property
    def seconds_per_residue(self) -> float | None:
        """The pace, or None as long as the attempt was not watched for a minute."""
        if self._earlier is None:
            return None
        (begin, before), (end, after) = self._earlier, self._latest
        return (end - begin) / max(after - before, 1)


class DoneBefore(NamedTuple):
    """A file that an earlier run has done with the same processor.

    Attributes:
        worker: On which worker.
        sequences: In the file, None where that is not known.
        residues: In the file.
        seconds: How long the attempt took.
    """

    worker: str
    sequences: int | None
    residues: int
    seconds: float


class FixedCost:
    """Seconds that every file takes, however small it is: loading, writing, starting a program.

    The intercept of lines through (residues, seconds) of completed files, each worker with a slope
    of its own: `seconds = a + residues / speed`, by least squares of relative errors. The content
    of files makes their seconds vary, so nothing is believed before it is clear.

    Attributes:
        seconds: What is believed.
    """

    __slots__ = ("_least", "_lines", "_weight", "_weighted", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lines: dict[str, tuple[float, float, float, float, float]] = {}
        # Over all workers: the weight of what is known of the intercept, and the intercept times it
        self._weight = self._weighted = 0.0
        self._least = float("inf")

    def observe(self, worker: str, residues: float, seconds: float) -> None:
        """Learn from a completed file.

        Args:
            worker: Whose line it belongs to.
            residues: In the file.
            seconds: How long it took.
        """
        if seconds <= 0.0:
            return
        self._least = min(self._least, seconds)
        weight = 1.0 / (seconds * seconds)
        one, x, y, xx, xy = before = self._lines.get(worker, (0.0, 0.0, 0.0, 0.0, 0.0))
        self._lines[worker] = after = (
            one + weight,
            x + weight * residues,
            y + weight * seconds,
            xx + weight * residues * residues,
            xy + weight * residues * seconds,
        )
        (weighted, known), (weighted_before, known_before) = _intercept(after), _intercept(before)
        self._weighted += weighted - weighted_before
        self._weight += known - known_before
        if self._weight > 0.0:
            found = min(self._weighted / self._weight, self._least)
            error = _RELATIVE_ERROR / self._weight**0.5
            self.seconds = found if found > _CLEAR_ERRORS * error else 0.0


def _intercept(line: tuple[float, float, float, float, float]) -> tuple[float, float]:
    """The intercept of one worker's line, times the weight of what is known of it, and the weight.

    Args:
        line: Weighted sums of 1, x, y, x * x and x * y.
    """
    one, x, y, xx, xy = line
    return (y - x * xy / xx, max(0.0, one - x * x / xx)) if xx else (0.0, 0.0)


class LearnedSpeed:
    """Residues per second, from progress reports and completions.

    Work and time are remembered with weights that fade over about ten files, so that one file with
    a wrong estimate does little harm and a GPU that slows down is noticed.
    """

    __slots__ = ("_seconds", "_work", "files", "value")

    def __init__(self) -> None:
        self._work = 0.0
        self._seconds = 0.0
        self.files = 0.0  # how many files' worth of work it has seen
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
        self.files += share_of_file
        self._work = work = self._work * keep + residues
        self._seconds = spent = self._seconds * keep + seconds
        if work > 0.0:
            self.value = max(work / (spent or _GRAIN), SLOWEST)

    def doubt(self) -> None:
        """The worker stalled: expect less of it until it shows better."""
        if self.value is not None and self.value > SLOWEST:
            self._seconds *= DOUBT
            self.value = max(self.value / DOUBT, SLOWEST)
