"""The output folder: what a run leaves there, and how it gets there.

Every attempt writes into a folder of its own, on the same file system. The parent alone decides
which attempt wins, and renames its files into the output folder: a name there is always a whole
file. Nothing is flushed to the disk on purpose: data survives a killed process, because the kernel
holds it; after a power cut, a file of the last seconds may be lost, and `--fresh` does it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from virnucpro_exporter.errors import OutputError

HIDDEN = ".virnucpro"


class Outputs:
    """An output folder and the hidden folder in it.

    Args:
        folder: Where the outputs go.

    Attributes:
        folder: The same, absolute.
        hidden: What only this program reads: journal, lock, logs, attempts.
        journal: The journal's database.
        lock: The lock file.
        logs: One log file per worker.
        attempts: One folder per attempt in process, named by its number.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self.hidden = self.folder / HIDDEN
        self.journal = self.hidden / "journal.sqlite"
        self.lock = self.hidden / "lock"
        self.logs = self.hidden / "logs"
        self.attempts = self.hidden / "attempts"
        self._owners: dict[str, str] = {}

    def prepare(self) -> None:
        """Create the folders that are missing.

        Raises:
            OutputError: It is not a folder, or nothing can be written into it.
        """
        try:
            self.attempts.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{error.filename!r} is in the way: not a folder") from error
        except OSError as error:
            raise OutputError(f"{str(self.folder)!r}: {error.strerror}") from error
        for folder in (self.folder, self.attempts):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(f"{str(folder)!r} is not writable")

    def attempt_folder(self, attempt: int) -> Path:
        """Where an attempt writes; the worker creates it."""
        return self.attempts / str(attempt)

    def claim(self, name: str, path: str) -> bool:
        """Reserve an output's name for an input; False when another input of the run has it."""
        return self._owners.setdefault(name, path) == path

    def commit(self, attempt: int, names: Iterable[str]) -> None:
        """Move an attempt's outputs to their place; what has been moved already is left there.

        Raises:
            OutputError: An output is in neither place, or cannot be moved.
        """
        source = self.attempt_folder(attempt)
        for name in names:
            target = self.folder / name
            try:
                (source / name).replace(target)
            except FileNotFoundError as error:
                if not target.exists():
                    raise OutputError(f"{str(target)!r} has vanished before it was kept") from error
            except OSError as error:
                raise OutputError(f"{str(target)!r}: {error.strerror}") from error
        self.discard(attempt)

    def discard(self, attempt: int) -> None:
        """Remove what an attempt wrote.

        A cancelled worker may still be writing there; what is left goes with the next `clean`.
        """
        shutil.rmtree(self.attempt_folder(attempt), ignore_errors=True)

    def clean(self, keep: Collection[int] = ()) -> None:
        """Remove what dead runs left, except for these attempts."""
        for attempt in self.left_attempts() - set(keep):
            self.discard(attempt)

    def left_attempts(self) -> set[int]:
        """The attempts that have a folder.

        Raises:
            OutputError: The folder has vanished.
        """
        return {int(name) for name in _names(self.attempts) if name.isdecimal()}

    def names(self) -> set[str]:
        """The outputs that are in place, in one look at the folder.

        Raises:
            OutputError: The folder has vanished.
        """
        return _names(self.folder)


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        raise OutputError(f"{str(folder)!r}: {error.strerror}") from error
