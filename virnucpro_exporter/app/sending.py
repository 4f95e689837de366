"""The results of a run that go into a store: sent while it goes on, and what is left at its end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from virnucpro_exporter.errors import UploadError
from virnucpro_exporter.files.outputs import RECORD, Outputs, StoredOutputs
from virnucpro_exporter.files.ownership import owned
from virnucpro_exporter.files.uploads import Uploads
from virnucpro_exporter.stores import writing

log = logging.getLogger(__name__)


@contextlib.contextmanager
def in_store(outputs: Outputs, patience: float) -> Iterator[Sending]:
    """What sends results; a prefix of a store belongs to this run alone meanwhile.

    Args:
        outputs: Where results go; their folder is locked.
        patience: Seconds to wait for a store that takes nothing.

    Raises:
        OutputError: Another run has the prefix, or the store cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(outputs, StoredOutputs):
            stack.enter_context(owned(outputs))
        yield stack.enter_context(contextlib.closing(Sending(outputs, patience)))


class Sending:
    """Sends results to their store; does nothing where they stay on this machine.

    Args:
        outputs: Where results go; the names that are no results are reserved.
        patience: Seconds to wait for a store that takes nothing.

    Attributes:
        is_used: Whether results go into a store.
    """

    def __init__(self, outputs: Outputs, patience: float) -> None:
        self._outputs = outputs if isinstance(outputs, StoredOutputs) else None
        self._patience = patience
        self._uploads: Uploads | None = None
        self.is_used = self._outputs is not None

    def begin(self) -> None:
        """Start to send results. Those of earlier runs may change, so their record goes.

        Raises:
            UploadError: The store does not let it go.
        """
        if self._outputs is None:
            return
        log.info("until they are uploaded, results are in %s", self._outputs.folder)
        self._uploads = Uploads(self._outputs)
        if not self._outputs.record.exists():
            try:
                writing.remove(f"{self._outputs.url}/{RECORD}")
            except OSError as error:
                raise UploadError(str(error)) from None

    def close(self) -> None:
        """Begin no more uploads."""
        if self._uploads is not None:
            self._uploads.close()

    def finish(self, is_stopped: Callable[[], bool]) -> None:
        """Wait until all results are in the store.

        Args:
            is_stopped: Whether the user waits no longer.

        Raises:
            UploadError: Some are not.
        """
        if self._uploads is not None:
            self._uploads.finish(self._patience, is_stopped)

    def send_last(self, tables: Sequence[str]) -> None:
        """Send what is made at the end of a run, the record last, as far as it is there.

        Args:
            tables: The names of tables, in the folder of the run.

        Raises:
            UploadError: The store does not take it.
        """
        if self._outputs is None:
            return
        for name in (*tables, RECORD):
            path = self._outputs.folder / name
            if path.exists():
                try:
                    writing.upload(path, f"{self._outputs.url}/{name}")
                except OSError as error:
                    raise UploadError(f"{name}: {error}") from None
