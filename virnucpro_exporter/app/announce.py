"""A run is announced to the exporter of its machine, from before its first file to its end."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from virnucpro_exporter.app.target_file import target_of
from virnucpro_exporter.config import Metrics
from virnucpro_exporter.errors import VirnucproError
from virnucpro_exporter.registry.announcement import Announcement
from virnucpro_exporter.registry.folder import Folder, for_a_run
from virnucpro_exporter.registry.record import Address, origin_of
from virnucpro_exporter.snapshot import RunEnd, RunResult, RunSnapshot, RunState
from virnucpro_exporter.text import clean
from virnucpro_exporter.web.server import MetricsServer

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0  # between two looks for the processes of other runs
_LONGEST_NAME = 100
_INTERRUPTED_STATUS = 130


def run_name(metrics: Metrics, folder: Path) -> str:
    """The name of a run: the one that the user has chosen, or that of its output folder.

    Args:
        metrics: With the name that the user has chosen, or None.
        folder: The output folder.
    """
    return metrics.run_name or clean(folder.resolve().name)[-_LONGEST_NAME:] or "run"


def registry_folder(metrics: Metrics) -> Path | None:
    """Where the run announces itself; None where there is no such place.

    Raises:
        UsageError: A folder that the user has named cannot be used.
    """
    return for_a_run(metrics.run_registry, os.environ)


def is_served(folder: Path | None) -> bool:
    """Whether the exporter of the machine shows the runs of a folder."""
    if folder is None:
        return False
    try:
        with contextlib.closing(Folder(folder)) as opened:
            return opened.server() is not None
    except OSError:
        return False


def runs_of(folder: Path | None) -> Callable[[], frozenset[int]]:
    """The processes of the runs that announce themselves in a folder, at most some seconds old."""
    kept: frozenset[int] = frozenset()
    looked_at = float("-inf")

    def look() -> frozenset[int]:
        nonlocal kept, looked_at
        now = time.monotonic()
        if folder is not None and now - looked_at >= _LOOK_SECONDS:
            looked_at = now
            with contextlib.suppress(OSError), contextlib.closing(Folder(folder)) as opened:
                kept = opened.processes()
        return kept

    return look


class Entry:
    """A run as it is announced; it may not be, where there is no place for it.

    Args:
        first: Its state until there is a coordinator.
    """

    def __init__(self, first: RunSnapshot) -> None:
        self._latest: Callable[[], RunSnapshot] = lambda: first
        self._announcement: Announcement | None = None

    def announce(self, folder: Path, origin: str) -> None:
        """Announce the run; a failure is logged."""
        try:
            self._announcement = Announcement(folder, secrets.token_hex(6), self._latest, origin)
        except OSError as error:
            log.warning("the run cannot be announced in %s: %s", folder, error.strerror)

    def follow(self, latest: Callable[[], RunSnapshot]) -> None:
        """From now on the run has this state."""
        self._latest = latest
        if self._announcement is not None:
            self._announcement.latest = latest

    def served_by(self, server: MetricsServer | None) -> None:
        """The run has an endpoint of its own, or none."""
        if server is not None and self._announcement is not None:
            at = target_of(server, "")
            self._announcement.serves_at(Address(at.port, at.path, at.scheme, at.is_local))

    def end(self, last: RunSnapshot) -> None:
        """Leave word of the end."""
        if self._announcement is not None:
            self._announcement.close(last)

    def fail(self, end: RunEnd) -> None:
        """It has ended by an error."""
        last = self._latest()
        if last.end is None:
            last = replace(last, state=RunState.FAILED, end=end)
        self.end(last)


@contextlib.contextmanager
def announced(folder: Path | None, first: RunSnapshot, output: Path) -> Iterator[Entry]:
    """Announce a run, and its end, also where an error ends it.

    Args:
        folder: Of runs, or None.
        first: Its state until there is a coordinator.
        output: The output folder.
    """
    entry = Entry(replace(first, start_timestamp=first.timestamp))
    if folder is not None:
        entry.announce(folder, origin_of(str(output.resolve())))
    try:
        yield entry
    except KeyboardInterrupt:
        entry.fail(RunEnd(time.time(), RunResult.INTERRUPTED, _INTERRUPTED_STATUS))
        raise
    except BaseException as error:
        status = error.exit_code if isinstance(error, VirnucproError) else 1
        entry.fail(RunEnd(time.time(), RunResult.FAILED, status, str(error)))
        raise
