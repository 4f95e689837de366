"""Signs of life of workers that report nothing: work that their processes do without reporting it.

A command or a user's class may report no progress for hours and be well. What such a worker does
is seen from outside: processor time of all its processes, growth of what its attempt writes, and
use of its GPU. A sign of life is no progress, and no measure of speed.

A thread looks, at a slow pace and only at workers that were silent meanwhile, because the list of
processes is long and a file system may hang.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from virnucpro_exporter.scheduling.events import SignOfLife
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId

# A process that waits wakes up now and then; one that works uses more than this share of a core.
WORKING_SHARE = 0.01

# Of an output that is a folder of many files, at most this many are looked at.
MOST_ENTRIES = 1000

# At most this many ancestors of a process are followed; the list is not atomic, so it may contain
# cycles.
_DEEPEST = 64

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker that processes a file and has reported nothing for a while.

    Attributes:
        worker_id: The worker.
        pid: Its process, which leads a session.
        attempt: The attempt in process.
    """

    worker_id: WorkerId
    pid: int
    attempt: AttemptNumber


class _Vitals(NamedTuple):
    """What a worker had done, as seen from outside.

    Attributes:
        worker: The worker.
        at: When it was looked at (monotonic clock, s).
        processor: Processor time of its processes, in seconds.
        outputs: Number, bytes and newest change of the files of the attempt.
    """

    worker: Silent
    at: float
    processor: float
    outputs: tuple[int, int, int]

    def has_worked_since(self, before: _Vitals) -> bool:
        """Whether it worked between two looks."""
        used = self.processor - before.processor
        return used > WORKING_SHARE * (self.at - before.at) or self.outputs != before.outputs


class Vitals:
    """Looks for signs of life in a thread of its own.

    Args:
        silent: The workers to look at now; called by the thread, and must never wait.
        attempts: Folder in which each attempt has its own.
        every: Seconds between two looks.
        wake: Called when there are signs of life to take, by the thread.
        uses_gpu: Whether a worker's GPU is busy with its processes, where that is known.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        silent: Callable[[], Iterable[Silent]],
        attempts: Path,
        every: float,
        wake: Callable[[], None],
        uses_gpu: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._silent = silent
        self._attempts = attempts
        self._every = every
        self._wake = wake
        self._uses_gpu = uses_gpu or (lambda _: False)
        self._clock = clock
        self._before: dict[str, _Vitals] = {}
        self._signs: deque[SignOfLife] = deque()
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def start(self) -> None:
        """Start the thread. Nothing ever waits for it, as a look may hang with the file system."""
        threading.Thread(target=self._live, name="virnucpro-vitals", daemon=True).start()

    def stop(self) -> None:
        """Make no more calls to the owner."""
        with self._lock:
            self._is_over.set()

    def take(self) -> list[SignOfLife]:
        """The signs of life seen since the last call."""
        return [self._signs.popleft() for _ in range(len(self._signs))]

    def look(self) -> None:
        """Look at the silent workers once, and compare them with the look before."""
        with self._lock:
            workers = [] if self._is_over.is_set() else list(self._silent())
        used = processor_seconds(worker.pid for worker in workers) if workers else {}
        before, self._before = self._before, {}
        signs = []
        for worker in workers:
            outputs = _contents(self._attempts / str(worker.attempt))
            vitals = _Vitals(worker, self._clock(), used[worker.pid], outputs)
            self._before[worker.worker_id] = vitals
            known = before.get(worker.worker_id)
            if known is None or known.worker != worker:
                continue
            if vitals.has_worked_since(known) or self._uses_gpu(worker.worker_id):
                signs.append(SignOfLife(worker.worker_id, worker.attempt))
        with self._lock:
            if signs and not self._is_over.is_set():
                self._signs += signs
                self._wake()

    def _live(self) -> None:
        while not self._is_over.wait(self._every):
            with suppress(OSError):  # no descriptor is left for a moment
                self.look()


class _Process(NamedTuple):
    """A process as the kernel lists it.

    Attributes:
        parent: The number of its parent.
        session: The number of its session.
        seconds: Processor time of its own and of its children that ended.
    """

    parent: int
    session: int
    seconds: float


def processor_seconds(workers: Iterable[int]) -> dict[int, float]:
    """Processor time of each worker's processes: its session, and all that descends from it."""
    table = dict(_processes())
    used = dict.fromkeys(workers, 0.0)
    for process in table.values():
        ancestor: _Process | None = process
        for _ in range(_DEEPEST):
            if ancestor is None or ancestor.session in used:
                break
            ancestor = table.get(ancestor.parent)
        if ancestor is not None and ancestor.session in used:
            used[ancestor.session] += process.seconds
    return used


def _processes() -> Iterator[tuple[int, _Process]]:
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names alone are wanted, and fast
        if entry.isdecimal():
            with suppress(OSError):  # it ended in the meantime
                text = Path(f"/proc/{entry}/stat").read_bytes()
                # What follows the name, which may hold anything: see proc(5).
                fields = text.rpartition(b")")[2].split()
                ticks = sum(map(int, fields[11:15]))
                process = _Process(int(fields[1]), int(fields[3]), ticks / _TICKS_PER_SECOND)
                yield int(entry), process


def _contents(folder: Path) -> tuple[int, int, int]:
    """Number, bytes and newest change of the files in a folder and the folders in it."""
    number = size = newest = 0
    with suppress(OSError):  # it is not there, or just changing
        for path, _, names in os.walk(folder):
            for name in names[: MOST_ENTRIES - number]:
                status = os.lstat(f"{path}/{name}")
                number, size = number + 1, size + status.st_size
                newest = max(newest, status.st_mtime_ns)
            if number >= MOST_ENTRIES:
                break
    return number, size, newest
