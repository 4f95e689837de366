"""How fast a worker is: its throughput for people, its learned speed for decisions."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
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
# accepted when it is so many times as large as its standard error.
_RELATIVE_ERROR = 0.2
_CLEAR_ERRORS = 3.0

# The seconds per residue of files, and their sizes, are believed to be off by these shares before
# any file is done. Both beliefs count as much as so many files.
_CONTENT_ERROR = 0.2
_SIZE_ERROR = 0.17
_PRIOR_DEVIATIONS = 4.0
_HALF_OF_BOTH = 0.5**0.5

# What is off by less than so many standard deviations is no surprise; but nothing is believed to
# take more than this share longer than expected.
CERTAIN = 2.5
_MOST_RISK = 1.0 / 0.7 - 1.0

# A worker that stalled is expected to be this many times slower than it was.
DOUBT = 4.0

# However wrong the fixed cost is, at least this share of the seconds of an attempt was work.
_LEAST_WORK = 0.1

# Clocks have a grain: a stretch of work may seem to take no time. In seconds.
_GRAIN = 1e-9

# At least this many residues per second are expected of any worker, however often it stalled.
SLOWEST = 1e-6


# What is remembered of the files of one worker: how many they are, and the sums of 1, x, y, x * x
# and x * y, each weighted by 1 / (y * y), where x are residues and y seconds.
_Line = tuple[float, float, float, float, float, float]
_NO_LINE: _Line = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

# Of the files before, this share counts beside the next one of the same worker.
_KEPT_OF_LINES = 0.9

# How far the seconds of files lie off their lines is believed to be `_RELATIVE_ERROR` for so many
# files; what was seen counts beside that.
_PRIOR_FILES = 2.0

# The latest files of so many workers are looked at for a sudden change of speed. It is believed
# where it leaves less than this share of the variance that a fixed cost leaves.
_LOOKED_AT_FILES = 32
_LOOKED_AT_WORKERS = 16
_FEWEST_FILES = 3
_CLEARLY_CHANGED = 0.6

# The variance of relative errors that is negligible.
_NEGLIGIBLE = 0.01**2


class Throughput:
    """What a worker does per second: over the last minute with progress, else the last 10 files.

    Work in a report was done since the previous report, so it is spread evenly over that time: a
    file of 100 s that reports nothing until its end was not done in that moment.

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
        """Record when a file ended."""
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
        if is_busy:  # nothing was reported since; that is no less work than before
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
        """Record the residues of the file that are done."""
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


class _Mean:
    """A mean in which values fade over about ten of them."""

    __slots__ = ("_squares", "count", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0
        self._squares = 0.0  # the mean of the squares of the distances from the mean

    def add(self, value: float) -> None:
        self.count = min(self.count + 1, _MEMORY_FILES)
        off = value - self.value
        self.value += off / self.count
        self._squares += (off * (value - self.value) - self._squares) / self.count

    @property
    def error(self) -> float:
        """The standard error; infinite while it rests on one value."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else NEVER


class Guess(NamedTuple):
    """What every file is guessed to cost.

    Attributes:
        seconds: The best guess.
        unsure: By how many seconds it may be wrong, as a standard error; infinite before anything
            is known.
    """

    seconds: float
    unsure: float


class FixedCost:
    """Seconds that every file takes, however small it is: loading, writing, starting a program.

    The intercept of lines through (residues, seconds) of completed files, each worker with a slope
    of its own: `seconds = a + residues / speed`, by least squares of relative errors. The content
    of files makes their seconds vary, so nothing is believed before it is clear. Where attempts
    report residues, the seconds before the first ones are clear sooner. Files fade, or GPUs that
    become slower would make the later and smaller files look dear.

    Attributes:
        seconds: The estimate, for decisions.
        beginning: Seconds that attempts took before their first residues, as far as they report.
        ending: Seconds that they took after their last ones, likewise.
    """

    __slots__ = (
        "_is_reported",
        "_latest",
        "_least",
        "_lines",
        "_pooled",
        "_sums",
        "beginning",
        "ending",
        "seconds",
    )

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_reported = False  # the seconds are those that attempts report
        self._lines: dict[str, _Line] = {}
        self._pooled = _NO_LINE  # of all workers, as if their declared speeds were true
        # Over all workers: the intercept times the weight of what is known of it, and the weight
        self._sums = (0.0, 0.0)
        self._least = float("inf")
        self._latest: dict[str, deque[tuple[float, float]]] = {}  # of each worker, if none reports
        # Seconds before the first residues and after the last ones, of attempts that report
        self.beginning = _Mean()
        self.ending = _Mean()

    def observe(self, worker: str, weight: float, residues: float, seconds: float) -> None:
        """Learn from a completed file.

        Args:
            worker: Whose line it belongs to.
            weight: Its declared speed.
            residues: In the file.
            seconds: How long it took.
        """
        if seconds <= 0.0:
            return
        self._least = min(self._least, seconds)
        before = self._lines.get(worker, _NO_LINE)
        if not self.beginning.count:
            if before is _NO_LINE:
                self._latest[worker] = deque(maxlen=_LOOKED_AT_FILES)
            self._latest[worker].append((residues, seconds))
        self._lines[worker] = after = _add(before, residues, seconds, _KEPT_OF_LINES)
        self._pooled = _add(self._pooled, residues / weight, seconds, _KEPT_OF_LINES ** (1 / 8))
        (weighted, known), (weighted_before, known_before) = _intercept(after), _intercept(before)
        self._sums = sums = (
            self._sums[0] + weighted - weighted_before,
            self._sums[1] + known - known_before,
        )
        if not self._is_reported and sums[1] > 0.0:
            found = min(sums[0] / sums[1], self._least)
            error = _RELATIVE_ERROR / sums[1] ** 0.5
            self.seconds = found if found > _CLEAR_ERRORS * error else 0.0

    def begun(self, seconds: float) -> None:
        """Learn how many seconds an attempt took before its first residues.

        Where that is clear it is believed at once: lines need files that are done, and by then most
        of a short run is over.
        """
        self.beginning.add(seconds)
        mean = self.beginning
        is_clear = mean.count >= _FEWEST_FILES and mean.value > max(
            _CLEAR_ERRORS * mean.error, _GRAIN
        )
        if is_clear:
            self.seconds = min(mean.value, self._least)
        elif self._is_reported:
            self.seconds = 0.0  # until the lines of completed files are clear
        self._is_reported = is_clear

    def likely(self) -> Guess:
        """The best guess, clear or not, for what is shown to people.

        Where attempts report, what they take beside their residues. Elsewhere what completed files
        say, the more the better their seconds lie on lines: on one of each worker, else on one of
        all.
        """
        if self.beginning.count:
            return Guess(max(self.beginning.value, 0.0) + max(self.ending.value, 0.0), 0.0)
        nothing = Guess(0.0, NEVER)
        changed = self._changed()
        if changed:
            return self._better(changed, _common(changed), nothing)
        pooled = self._better([self._pooled], _intercept(self._pooled), nothing)
        return self._better(list(self._lines.values()), self._sums, pooled)

    def _changed(self) -> list[_Line]:
        """Lines before and after a sudden change of speed of each worker; none without a change.

        The largest files come first, so where GPUs become slower, the smaller files seem to have a
        fixed cost. But that changes the seconds per residue little by little, and not at once.
        """
        latest = [f for f in self._latest.values() if len(f) >= _FEWEST_FILES][:_LOOKED_AT_WORKERS]
        if not latest:
            return []
        whole = [_line(files) for files in latest]
        weighted, known = _common(whole)
        fixed = max(weighted / known, 0.0) if known else 0.0
        lines, by_change = list[_Line](), 0.0
        for files in latest:
            squares, place = _change(files)
            by_change += squares
            lines.append(_line(itertools.islice(files, place)))
            lines.append(_line(itertools.islice(files, place, None)))
        by_fixed = sum(_off_line(line, fixed) for line in whole)
        count = sum(map(len, latest))  # less what each of the two may choose
        by_fixed /= count - len(latest) - 1
        by_change /= count - 2 * len(latest)
        return lines if by_change + _NEGLIGIBLE < _CLEARLY_CHANGED * by_fixed else []

    def _better(self, lines: list[_Line], sums: tuple[float, float], guess: Guess) -> Guess:
        """A guess, moved towards the common intercept of lines as far as that is certain.

        Args:
            lines: Of one worker each, or one of all.
            sums: Their intercept times the weight of what is known of it, and the weight.
            guess: The estimate without them.
        """
        if sums[1] <= 0.0:
            return Guess(min(guess.seconds, self._least), guess.unsure)
        found = min(max(sums[0] / sums[1], 0.0), self._least)
        squares = _PRIOR_FILES * _RELATIVE_ERROR**2
        count = _PRIOR_FILES
        for line in lines:
            squares += _off_line(line, found)
            count += max(line[0] - 1.0, 0.0)
        error = squares / count / sums[1]
        before = guess.seconds
        spread = max(found, before) ** 2
        seconds = before + (found - before) * spread / (spread + error) if spread else 0.0
        return Guess(seconds, min(guess.unsure, math.sqrt(error)))


class Spread:
    """How far single files lie off what was expected of them, as a share: a standard deviation.

    Args:
        prior: The estimate before any measurement; it counts as much as a few files.

    Attributes:
        value: The present estimate.
    """

    __slots__ = ("_count", "_prior", "_squares", "value")

    def __init__(self, prior: float) -> None:
        self.value = self._prior = prior
        self._count = _PRIOR_DEVIATIONS
        self._squares = prior * prior * _PRIOR_DEVIATIONS

    def add(self, deviation: float) -> None:
        """A file was off by this share; outliers count no more than others."""
        self._count += 1.0
        self._squares += min(deviation * deviation, 1.0)
        self.value = math.sqrt(self._squares / self._count)

    @property
    def seen(self) -> float:
        """The measured share, without the prior: 0 before any measurement."""
        count = self._count - _PRIOR_DEVIATIONS
        squares = self._squares - self._prior * self._prior * _PRIOR_DEVIATIONS
        return math.sqrt(max(squares, 0.0) / count) if count else 0.0


class Errors:
    """How wrong estimates are in this run, learned from completed files.

    Attributes:
        content: Of the seconds per residue of files on one worker: some content takes longer.
        sizes: Of the residues of files.
    """

    __slots__ = ("content", "sizes")

    def __init__(self) -> None:
        self.content = Spread(_CONTENT_ERROR)
        self.sizes = Spread(_SIZE_ERROR)

    def observe(self, believed: int, residues: int, pace: float, pace_before: float | None) -> None:
        """Learn from a completed file.

        Args:
            believed: How many residues it was expected to have.
            residues: How many it has.
            pace: Residues per second, beside the fixed cost.
            pace_before: Of the file before on the same worker, where there was one.
        """
        self.sizes.add(residues / max(believed, 1) - 1.0)
        if pace_before is not None:  # both are off, so their ratio is by sqrt(2) times as much
            self.content.add(math.log(pace / pace_before) * _HALF_OF_BOTH)

    @property
    def risk(self) -> float:
        """By which share a file that has not begun may take longer than expected."""
        return min(CERTAIN * math.hypot(self.content.value, self.sizes.value), _MOST_RISK)

    @property
    def risk_of_size(self) -> float:
        """By which share a file in process, of known pace, may take longer than expected."""
        return min(CERTAIN * self.sizes.value, _MOST_RISK)


def _add(line: _Line, residues: float, seconds: float, keep: float) -> _Line:
    """A line and one more file; of those before, this share is kept."""
    weight = 1.0 / (seconds * seconds)
    count, one, x, y, xx, xy = line
    return (
        count * keep + 1.0,
        one * keep + weight,
        x * keep + weight * residues,
        y * keep + weight * seconds,
        xx * keep + weight * residues * residues,
        xy * keep + weight * residues * seconds,
    )


def _line(files: Iterable[tuple[float, float]]) -> _Line:
    """The line of so many files, given by their residues and seconds."""
    line = _NO_LINE
    for residues, seconds in files:
        line = _add(line, residues, seconds, 1.0)
    return line


def _off_line(line: _Line, fixed: float) -> float:
    """The squares of the relative errors that the best line with this intercept leaves."""
    count, one, x, y, xx, xy = line
    beside = xy - fixed * x  # files without residues have no slope
    return count - 2.0 * fixed * y + fixed * fixed * one - (beside * beside / xx if xx else 0.0)


def _common(lines: Iterable[_Line]) -> tuple[float, float]:
    """The common intercept of lines, times the weight of what is known of it, and that weight."""
    found = [_intercept(line) for line in lines]
    return sum(weighted for weighted, _ in found), sum(known for _, known in found)


def _change(files: Sequence[tuple[float, float]]) -> tuple[float, int]:
    """Where two speeds one after the other fit files best, without a fixed cost.

    Returns:
        The squares of the relative errors that they leave, and before which file the speed changed.
    """
    paces = [residues / seconds for residues, seconds in files]
    total, squares = sum(paces), sum(pace * pace for pace in paces)
    best, before, before_squares = (math.inf, 0), 0.0, 0.0
    for place, pace in enumerate(paces[:-1], 1):
        before, before_squares = before + pace, before_squares + pace * pace
        after, after_squares = total - before, squares - before_squares
        if before_squares and after_squares > 0.0:
            off = len(paces) - before * before / before_squares - after * after / after_squares
            best = min(best, (off, place))
    return best


def _intercept(line: _Line) -> tuple[float, float]:
    """The intercept of a line, times the weight of what is known of it, and that weight."""
    _, one, x, y, xx, xy = line
    return (y - x * xy / xx, max(0.0, one - x * x / xx)) if xx else (0.0, 0.0)


class LearnedSpeed:
    """Residues per second, from progress reports and completions.

    Work and time are remembered with weights that fade over about ten files, so that one file with
    a wrong estimate does little harm and a GPU that slows down is noticed.
    """

    __slots__ = ("_raw", "_seconds", "_whole", "_work", "files", "value")

    def __init__(self) -> None:
        self._work = 0.0
        self._seconds = 0.0
        # For what is shown: without doubt, and with the fixed costs of files where they are not
        # known apart
        self._raw = 0.0
        self._whole = 0.0  # how many files' fixed costs are in there
        self.files = 0.0  # how many files' worth of work it has seen
        self.value: float | None = None

    @property
    def seconds(self) -> float:
        """How much time the value rests on."""
        return self._seconds

    def beside(self, fixed: float) -> float | None:
        """Residues per second beside a fixed cost of so many seconds a file, or None."""
        if self.value is None:
            return None
        least = _LEAST_WORK * self._raw
        return self._work / (max(self._raw - self._whole * fixed, least) or _GRAIN)

    def observe(
        self, residues: float, seconds: float, share_of_file: float, whole: float | None = None
    ) -> None:
        """Learn from a stretch of work.

        Args:
            residues: Done in this stretch.
            seconds: How long it took, without what is believed to be the fixed cost of a file.
            share_of_file: Which part of a file it was, 0 to 1.
            whole: Of a whole file, the seconds with its fixed cost; None of a stretch within.
        """
        keep = 1.0 - _FORGET_PER_FILE * share_of_file
        self.files += share_of_file
        self._work = work = self._work * keep + residues
        self._seconds = spent = self._seconds * keep + seconds
        if whole is None:
            self._raw, self._whole = self._raw * keep + seconds, self._whole * keep
        else:
            self._raw, self._whole = self._raw * keep + whole, self._whole * keep + 1.0
        if work > 0.0:
            self.value = max(work / (spent or _GRAIN), SLOWEST)

    def doubt(self) -> None:
        """The worker stalled: expect less of it until it is measured to be faster."""
        if self.value is not None and self.value > SLOWEST:
            self._seconds *= DOUBT
            self.value = max(self.value / DOUBT, SLOWEST)
