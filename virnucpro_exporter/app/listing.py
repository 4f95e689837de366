"""The files of a run, looked at and measured while the run goes on.

Finding needs names alone. Size, time and content of each file are asked for in a thread of its own:
a hundred thousand answers take seconds, and work need not wait for the last of them. A run of few
files has them all before its first worker is ready, and is planned as a whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from virnucpro_exporter.app.inputs import measure, source
from virnucpro_exporter.files.counting import estimate, look_into
from virnucpro_exporter.files.inputs import Input
from virnucpro_exporter.files.looking import answers_about, look_at
from virnucpro_exporter.journal.earlier import Earlier, InputFile
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.events import FilesSubmitted
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.parts import BegunFile
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.text import counted

log = logging.getLogger(__name__)

# Work begins when all files are known, or after so many seconds with those that are known by then:
# the largest file should be among the first, so a moment is worth waiting.
PATIENCE = 0.75

# After that, what became known is handed over this often, in seconds.
_EVERY = 0.1


class Looked(NamedTuple):
    """What is known of one file.

    Attributes:
        source: As it is on the disk now.
        file: What is to be done, or was done by an earlier run.
        is_done: It was.
        is_counted: Its counts were made in this run, and are exact.
    """

    source: InputFile
    file: SequenceFile
    is_done: bool = False
    is_counted: bool = False


def looked_at(files: Sequence[Input], earlier: Earlier, how: str) -> Iterable[Sequence[Looked]]:
    """Look at files: at once where they are counted exactly, else bit by bit as this is iterated.

    Args:
        files: What was found.
        earlier: What earlier runs have left of it.
        how: `estimate` or `exact`.
    """

    def look(file: Input) -> Looked:
        if how == "estimate" and file.stored is None and not earlier.knows(file.real):
            estimated, status = look_into(file.path)
            return Looked(source(file, status), estimated)
        found = source(file)
        is_done, counts = earlier.standing(found)
        if counts is not None:
            return Looked(found, SequenceFile(file.path, *counts), is_done)
        if is_done or how == "exact":
            return Looked(found, SequenceFile(file.path), is_done)
        return Looked(found, estimate(file.path))

    if how == "estimate":
        return answers_about(files, look)
    looked = look_at(files, look)
    unknown = [i for i, f in enumerate(looked) if f.file.sequences is None and not f.is_done]
    counted = measure([path_of(files[i].path) for i in unknown], how)
    for i, file in zip(unknown, counted, strict=True):
        looked[i] = Looked(looked[i].source, file, is_counted=file.sequences is not None)
    return [looked]


def done_before(files: Iterable[Input], earlier: Earlier) -> list[SequenceFile]:
    """Those that earlier runs completed, as the journal says; none of them is looked at."""
    noted = ((file, *earlier.noted(file.real)) for file in files)
    return [SequenceFile(file.path, *(counts or ())) for file, is_done, counts in noted if is_done]


def _none(_seen: int) -> list[SequenceFile]:
    return []


class Listing:
    """Hands over the files of a run as they become known; see `execution.runner.Feed`.

    Args:
        journal: Knows what earlier runs have done; belongs to the thread that calls `take`.
        parts: What is known of each file, in parts, as they become known.
        total: How many files there are.
        aim: Where they go, for the log.
        since: When the search for files began.
        clock: Monotonic seconds.
        done_after: Those that earlier runs completed of the files after the first so many, as the
            journal says.

    Attributes:
        has_work: Whether a file that is to be done is known.
        awaited: How many files were not handed over yet.
    """

    def __init__(
        self,
        journal: Journal,
        parts: Iterable[Sequence[Looked]],
        total: int,
        aim: str,
        since: float,
        clock: Callable[[], float] = time.monotonic,
        done_after: Callable[[int], list[SequenceFile]] = _none,
    ) -> None:
        self._journal = journal
        self._parts = parts
        self._done_after = done_after
        self._seen = 0  # how many files were looked at
        self._aim = aim
        self._clock = clock
        self._begins_at = since + PATIENCE
        self._lock = threading.Lock()
        self._known: list[Looked] = []  # and not handed over yet
        self._is_complete = self._is_closed = False
        self._error: BaseException | None = None
        self._to_do = self._done = 0
        self._begun: list[int] = []  # how many parts are done, of each file that was begun
        self._thread: threading.Thread | None = None
        self.has_work = False
        self.awaited = total

    def start(self, wake: Callable[[], None]) -> None:
        """Look at the files, in a thread.

        Args:
            wake: Called when there may be something to take.
        """
        self._thread = threading.Thread(target=self._look, args=(wake,), name="listing")
        self._thread.start()

    def close(self) -> None:
        """Look at no more files."""
        self._is_closed = True
        if self._thread is not None:
            self._thread.join()

    def _look(self, wake: Callable[[], None]) -> None:
        told_at = float("-inf")
        try:
            for part in self._parts:
                if self._is_closed:
                    return  # what is known of the others says `leave`
                self.has_work = self.has_work or not all(file.is_done for file in part)
                with self._lock:
                    self._known += part
                    self._seen += len(part)
                now = self._clock()
                if now - told_at >= _EVERY:
                    told_at = now
                    wake()
            self._done_after = _none  # what it was made of is needed no more
        except BaseException as error:  # noqa: BLE001 - `take` raises it, where it is heard
            self._error = error
        finally:
            self._parts = ()
            self._is_complete = True
            wake()

    def take(self) -> FilesSubmitted | None:
        """What became known since the last time; None while it is better to wait.

        Raises:
            JournalError: It cannot be written down now; nothing is lost.
            OutputError: A result would replace that of another input.
        """
        is_complete = self._is_complete
        if self._error is not None:
            raise self._error
        if not (is_complete or self._clock() >= self._begins_at):
            return None
        with self._lock:
            known, self._known = self._known, []
        if not known:
            return None
        try:
            to_do = [file for file in known if not file.is_done]
            begun = self._journal.plan_more([file.source for file in to_do])
            counts = {
                made.path: (made.sequences, made.residues)
                for _, made, _, is_counted in known
                if is_counted and made.sequences is not None
            }
            if counts:
                self._journal.add_counts(counts)
        except BaseException:
            with self._lock:
                self._known = known + self._known
            raise
        files = tuple(file.file for file in to_do if file.file.path not in begun)
        parts = tuple(BegunFile(f.file, begun[f.file.path]) for f in to_do if f.file.path in begun)
        skipped = tuple(file.file for file in known if file.is_done)
        self._begun += [sum(done is not None for _, done in begun[p]) for p in begun]
        self._tell(len(to_do), len(skipped))
        return FilesSubmitted(files, skipped, self.awaited, parts)

    def leave(self) -> FilesSubmitted | None:
        """How the files stand that were not handed over; for a run that starts none of them.

        Those that earlier runs completed count as skipped, whether they were looked at or not. The
        others wait for the next run, which the journal knows.

        Returns:
            None when all files were handed over.
        """
        if not self.awaited:
            return None
        done = [file.file for file in self._known if file.is_done] + self._done_after(self._seen)
        self._known = []
        self._done_after = _none
        self._done += len(done)
        self.awaited -= len(done)
        if self._done:
            _log_skipped(self._done)
        return FilesSubmitted((), tuple(done), self.awaited)

    def _tell(self, to_do: int, done: int) -> None:
        is_first = to_do and not self._to_do
        self._to_do += to_do
        self._done += done
        self.awaited -= to_do + done
        if self.awaited:
            if is_first:
                log.info(
                    "starting with %s while %d more are being examined",
                    *(counted(to_do, "file"), self.awaited),
                )
            return
        self._journal.end_plan()
        if self._done:
            _log_skipped(self._done)
        if self._begun:
            parts = counted(sum(self._begun), "part")
            files = counted(len(self._begun), "file")
            log.info("resuming %s; kept from an earlier run: %s", files, parts)
        log.info("%s to process %s", counted(self._to_do, "file"), self._aim)


def _log_skipped(files: int) -> None:
    log.info("finished by an earlier run and skipped: %s", counted(files, "file"))
