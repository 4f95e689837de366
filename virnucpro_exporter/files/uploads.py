"""Results on their way from the folder of a run into a store.

A store has no rename, and an upload may take minutes. So a result is kept on this machine first,
as of any run, and then uploaded under its final name, where it appears as a whole. Whatever lies in
the folder is on its way: a killed run leaves it there, and the next one uploads it again.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from virnucpro_exporter.errors import UploadError
from virnucpro_exporter.files.outputs import StoredOutputs
from virnucpro_exporter.stores.writing import upload
from virnucpro_exporter.text import counted

log = logging.getLogger(__name__)

THREADS = 4

# The folder is looked at this often, in seconds: workers move results there, too.
LOOK_SECONDS = 0.5

# Pauses before a store that took nothing is tried again, in seconds; the last repeats.
PAUSES = (1.0, 2.0, 5.0, 10.0)


def _once(path: Path, url: str) -> None:
    upload(path, url, pauses=())


class Uploads:
    """Uploads the results that appear in a folder, in threads.

    Args:
        outputs: The folder, and where its results go.
        send: Writes a file or folder under a URL.
    """

    def __init__(self, outputs: StoredOutputs, send: Callable[[Path, str], None] = _once) -> None:
        self._outputs = outputs
        self._send = send
        self._changed = threading.Condition()
        self._under_way: set[str] = set()
        self._is_closed = False
        self._failures = 0  # since something was uploaded last
        self._failing_since: float | None = None
        self._reason = ""
        self._threads = [
            threading.Thread(target=self._work, name="upload", daemon=True) for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def finish(self, patience: float, is_stopped: Callable[[], bool]) -> None:
        """Wait until all results are in the store.

        Args:
            patience: Seconds to wait for a store that takes nothing.
            is_stopped: Whether the user waits no longer.

        Raises:
            UploadError: Some are not.
        """
        while left := len(self._outputs.pending()):
            now = time.monotonic()
            with self._changed:
                since, reason = self._failing_since, self._reason
                if (since is not None and now - since >= patience) or is_stopped():
                    why = reason or "the run was stopped"
                    raise UploadError(
                        f"{counted(left, 'result')} in {str(self._outputs.folder)!r} ({why})"
                    )
                self._changed.wait(LOOK_SECONDS)

    def close(self) -> None:
        """Begin no more uploads, and wait for those that have begun."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (name := self._next()) is not None:
            self._note(self._upload(name))
            with self._changed:
                self._under_way.discard(name)
                self._changed.notify_all()

    def _upload(self, name: str) -> str | None:
        """Upload a result; why that did not work, or None."""
        try:
            place = self._outputs.take_out(name)
            self._send(place, f"{self._outputs.url}/{name}")
            _remove(place)
        except OSError as error:
            return str(error)
        return None

    def _next(self) -> str | None:
        """The name of a result that is to be uploaded, as soon as there is one; None at the end."""
        with self._changed:
            while not self._is_closed:
                pause = PAUSES[min(self._failures, len(PAUSES)) - 1] if self._failures else 0.0
                if pause:
                    self._changed.wait_for(lambda: self._is_closed, pause)
                name = next(iter(self._outputs.pending() - self._under_way), None)
                if name is not None and not self._is_closed:
                    self._under_way.add(name)
                    return name
                self._changed.wait_for(lambda: self._is_closed, LOOK_SECONDS)
            return None

    def _note(self, reason: str | None) -> None:
        if reason is None:
            self._note_success()
            return
        with self._changed:
            self._failures += 1
            self._reason = reason
            is_news = self._failing_since is None
            if is_news:
                self._failing_since = time.monotonic()
        if is_news:
            log.warning("%s: results stay in %s; uploads are retried", reason, self._outputs.folder)

    def _note_success(self) -> None:
        with self._changed:
            since, self._failing_since = self._failing_since, None
            self._failures, self._reason = 0, ""
        if since is not None:
            log.info("uploads work again, after %.0f s", time.monotonic() - since)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
