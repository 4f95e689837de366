"""The files of a run, looked at and measured while the run goes on.

Finding reads names only. A thread reads the size, time and content of each file: for a hundred
thousand files this takes seconds, and work need not wait for the last of them. In a run of few
files all are known before the first worker is ready, and the run is planned as a whole.
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
    """One examined file.

    Attributes:
        source: The identity of the file on the disk now.
        file: The file as the scheduler gets it.
        is_done: Whether an earlier run has completed it.
        is_counted: Whether its counts were made in this run, and are exact.
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
    """The files that earlier runs completed, from the journal alone."""
    noted = ((file, *earlier.noted(file.real)) for file in files)
    return [SequenceFile(file.path, *(counts or ())) for file, is_done, counts in noted if is_done]


def _none(_seen: int) -> list[SequenceFile]:
    return []


class Listing:
    """Passes on the files of a run as they are found; see `execution.runner.Feed`.

    Args:
        journal: The journal; used only in the thread that calls `take`.
        parts: The examined files, in batches.
        total: The number of files.
        aim: The destination of the results, for the log.
        since: When the search for files began.
        clock: Monotonic seconds.
        done_after: Given a number of files, returns those after them that earlier runs completed,
            from the journal.

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
                    return  # `leave` handles the others
                self.has_work = self.has_work or not all(file.is_done for file in part)
                with self._lock:
                    self._known += part
                    self._seen += len(part)
                now = self._clock()
                if now - told_at >= _EVERY:
                    told_at = now
                    wake()
            self._done_after = _none  # releases the data that it refers to
        except BaseException as error:  # noqa: BLE001 - `take` raises it in the caller's thread
            self._error = error
        finally:
            self._parts = ()
            self._is_complete = True
            wake()

    def take(self) -> FilesSubmitted | None:
        """The files examined since the last call; None if there are none, or it is too early.

        Raises:
            JournalError: The journal cannot be written now; the files are kept for the next call.
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
        """The files that were not handed over, for a run that starts none of them.

        Those that earlier runs completed count as skipped, whether they were examined or not. The
        others are left to the next run.

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
