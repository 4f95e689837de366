"""The output folder: what a run leaves there, and how it gets there.

Every attempt writes into a folder of its own, on the same file system. The parent alone decides
which attempt wins, and renames its files into the output folder: a name there is always a whole
file. Nothing is flushed to the disk on purpose: data survives a killed process, because the kernel
holds it; after a power cut, a file of the last seconds may be lost, and `--fresh` does it again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path

from virnucpro_exporter.errors import OutputError, StoreError
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.stores.writing import exists, sizes

HIDDEN = ".virnucpro"

# The records of the run, beside the results.
RECORD = "run.json"

# Room for so much shows that a folder takes results again.
_PROBE_BYTES = 1 << 16

# So many empty folders of attempts that were kept wait for later attempts: as many as two batches
# of short files for each of a few workers.
_MOST_SPARE = 512

# A character of a name has so many bytes at most.
_MOST_BYTES = 4

# The errors of `rename` where a folder is in the way, or a file where a folder is to go.
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST)


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
        replaced: Folders on their way out, which a new result replaces.
        record: The record of the last run, which no result replaces.
        shown: Where results go, for people.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self.shown = str(self.folder)
        self.hidden = self.folder / HIDDEN
        self.journal = self.hidden / "journal.sqlite"
        self.lock = self.hidden / "lock"
        self.logs = self.hidden / "logs"
        self.attempts = self.hidden / "attempts"
        self.replaced = self.hidden / "replaced"
        self.record = self.folder / RECORD
        # As text, since a path object costs more than the rename of a short file.
        self._folder, self._attempts = os.fspath(self.folder), os.fspath(self.attempts)
        self._spare: list[int] = []  # attempts whose folders are there, and empty
        self._kept: set[int] = set()  # attempts that did parts of files which have no result yet
        self._owners: dict[str, str] = {}
        self._inputs: dict[str, str] = {}
        self._reserved = {HIDDEN, RECORD}

    def prepare(self) -> None:
        """Create the folders that are missing.

        Raises:
            OutputError: It is not a folder, or nothing can be written into it.
        """
        try:
            self.attempts.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{_there(error.filename)!r} is not a folder") from error
        except OSError as error:
            raise OutputError(f"{str(self.folder)!r}: {error.strerror}") from error
        for folder in (self.folder, self.attempts):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(f"{str(folder)!r} is not writable")

    def attempt_folder(self, attempt: int) -> Path:
        """Where an attempt writes; the worker creates it."""
        return self.attempts / str(attempt)

    def provide(self, attempt: int) -> None:
        """Give an attempt the folder that an earlier one has left empty, if there is one.

        The worker makes a folder where there is none. To rename a folder takes a tenth of the time
        of making one and removing another, which is most of the time of a short file.
        """
        if self._spare:
            with contextlib.suppress(OSError):  # it was removed, or the disk is in trouble
                _move(f"{self._attempts}/{self._spare.pop()}", f"{self._attempts}/{attempt}")

    def reserve(self, path: str | os.PathLike[str]) -> None:
        """Keep a path for this program: no result takes its name, if it lies in the folder."""
        folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 (`Path.absolute` keeps `..`)
        inside = self._inside(os.path.join(os.path.realpath(folder), name))  # noqa: PTH118 (likewise)
        if inside is not None:
            self._reserved.add(inside)

    def protect(self, place: str, shown: str) -> None:
        """Keep an input from being replaced.

        Args:
            place: Where it is, absolute, its folder without links.
            shown: What the user calls it.
        """
        name = self._inside(place)
        if name is not None:
            self._inputs[name] = shown

    def _inside(self, place: str) -> str | None:
        """The name in this folder that is, or holds, what is at a place; None where none does."""
        if not place.startswith(self.prefix):
            return None
        return place[len(self.prefix) :].split(os.sep, 1)[0]

    @cached_property
    def prefix(self) -> str:
        """What the real path of everything in the folder begins with."""
        return os.path.join(os.path.realpath(self.folder), "")  # noqa: PTH118 (for its last character)

    @cached_property
    def _longest_name(self) -> int:
        """In bytes; the folder need not exist yet."""
        folder = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return os.pathconf(folder, "PC_NAME_MAX")

    def refusal(self, name: str) -> str | None:
        """Why no result may have a name, or None: it is not reserved, no input's, not too long."""
        if name in self._reserved or self._is_rotated(name):
            return f"the name {name!r} is reserved for this program; rename the input"
        if name in self._inputs and self.has(name):
            return f"its result would overwrite the input {self._inputs[name]!r}"
        if len(name) * _MOST_BYTES <= self._longest_name:
            return None
        length = len(os.fsencode(name))
        if length > self._longest_name:
            return (
                f"the name of its result would be {length} bytes long, but at most "
                f"{self._longest_name} are possible; give the input a shorter name"
            )
        return None

    def _is_rotated(self, name: str) -> bool:
        """Whether a name is that of an older part of a log which this program writes."""
        if not name[-1:].isdecimal():
            return False
        log, _, number = name.rpartition(".")
        return log in self._reserved and number.isdecimal()

    def claim(self, name: str, path: str) -> str | None:
        """Reserve an output's name for an input.

        Returns:
            Why it cannot have it, or None.
        """
        if self._owners.setdefault(name, path) != path:
            return f"another input of this run also writes {name!r}"
        return self.refusal(name)

    def commit(self, attempt: int, names: Iterable[str]) -> None:
        """Move an attempt's outputs to their place, and let a later attempt have its folder.

        Raises:
            OutputError: An output is in neither place, or cannot be moved.
        """
        self.move(attempt, names)
        if len(self._spare) < _MOST_SPARE:
            self._spare.append(attempt)
        else:
            self.discard(attempt)

    def move(self, attempt: int, names: Iterable[str]) -> None:
        """Move an attempt's outputs to their place; what has been moved already is left there.

        Raises:
            OutputError: An output is in neither place, or cannot be moved.
        """
        for name in names:
            target = f"{self._folder}/{name}"
            try:
                self._replace(f"{self._attempts}/{attempt}/{name}", target)
            except FileNotFoundError as error:
                if not self.has(name):
                    raise OutputError(f"{target!r} vanished before it was recorded") from error
            except OSError as error:
                raise OutputError(f"{target!r}: {error.strerror}") from error

    def _replace(self, source: str, target: str) -> None:
        try:
            _move(source, target)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            # A folder cannot be replaced in one step. Between these two the name is missing, and a
            # resumed run goes on from there.
            self.replaced.mkdir(exist_ok=True)
            _move(target, f"{tempfile.mkdtemp(dir=self.replaced)}/old")
            _move(source, target)
            self._remove_replaced()

    def _remove_replaced(self) -> None:
        shutil.rmtree(self.replaced, ignore_errors=True)

    def probe(self) -> None:
        """Check that the folder can be written.

        Raises:
            OutputError: It does not.
        """
        path = self.hidden / "probe"
        try:
            path.write_bytes(bytes(_PROBE_BYTES))
            path.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise OutputError(f"{str(path)!r}: {error.strerror}") from error

    def keep(self, attempt: int) -> None:
        """Let the outputs of an attempt lie where they are until it is discarded."""
        self._kept.add(attempt)

    def discard(self, attempt: int) -> None:
        """Remove what an attempt wrote.

        A cancelled worker may still be writing there; what is left goes with the next `clean`.
        """
        self._kept.discard(attempt)
        shutil.rmtree(self.attempt_folder(attempt), ignore_errors=True)

    def clean(self, keep: Collection[int] = ()) -> None:
        """Remove what dead runs left, except for these attempts."""
        self._remove_replaced()
        self._spare.clear()
        for attempt in self.left_attempts() - self._kept - set(keep):
            self.discard(attempt)

    def left_attempts(self) -> set[int]:
        """The attempts that have a folder.

        Raises:
            OutputError: The folder has vanished.
        """
        return {int(name) for name in _names(self.attempts) if name.isdecimal()}

    def has(self, name: str) -> bool:
        """Whether an output is in place."""
        return os.path.lexists(f"{self._folder}/{name}")

    def result(self, name: str) -> Path:
        """Where an output can be read."""
        return self.folder / name

    def names(self) -> set[str]:
        """The outputs that are in place, in one look at the folder.

        Raises:
            OutputError: The folder has vanished.
        """
        return _names(self.folder)


def _there(path: str) -> str:
    """The path, or the last place on the way to it where there is something."""
    return next(p for p in (path, *map(str, Path(path).parents)) if os.path.lexists(p))


class StoredOutputs(Outputs):
    """Outputs that go into a store. The folder holds the journal, and outputs on their way.

    Args:
        folder: On this machine.
        url: Where the outputs go.

    Attributes:
        url: The same, without a slash at its end.
        uploading: Outputs that are being uploaded; `clean` leaves them.
    """

    def __init__(self, folder: str | os.PathLike[str], url: str) -> None:
        super().__init__(folder)
        self.url = url.rstrip("/")
        self.shown = self.url
        self.uploading = self.hidden / "uploading"

    def prepare(self) -> None:
        """Create the folders that are missing; raises as for any output folder."""
        super().prepare()
        self.uploading.mkdir(exist_ok=True)

    def _inside(self, place: str) -> str | None:
        top = f"{self.url}/"
        if place.startswith(top):
            return place[len(top) :].split("/", 1)[0]
        return super()._inside(place)

    def has(self, name: str) -> bool:
        """Whether an output is in place, or on its way.

        Raises:
            OutputError: A request to the store fails.
        """
        if super().has(name) or (self.uploading / name).exists():
            return True
        try:
            return exists(f"{self.url}/{name}")
        except StoreError as error:
            raise OutputError(error.detail) from None

    def result(self, name: str) -> Path:
        """Where an output can be read: on this machine as long as it is there."""
        places = (self.folder / name, self.uploading / name)
        return next((p for p in places if p.exists()), path_of(f"{self.url}/{name}"))

    def names(self) -> set[str]:
        """The outputs that are in place or on their way.

        Raises:
            OutputError: A request to the store fails, or the folder has vanished.
        """
        return self.pending() | {name.partition("/")[0] for name in self.sizes()}

    def sizes(self) -> dict[str, int]:
        """The bytes of all objects of the store that lie below its prefix.

        Raises:
            OutputError: A request to the store fails.
        """
        try:
            return sizes(self.url)
        except StoreError as error:
            raise OutputError(error.detail) from None

    def pending(self) -> set[str]:
        """The outputs on their way.

        Raises:
            OutputError: The folder has vanished.
        """
        found = _names(self.folder) | _names(self.uploading)
        return {n for n in found if n not in self._reserved and not self._is_rotated(n)}

    def take_out(self, name: str) -> Path:
        """Move an output aside, so that a later one of its name has its own place; where it is.

        Raises:
            OSError: It cannot be moved.
        """
        place = self.uploading / name
        if not os.path.lexists(place):
            (self.folder / name).replace(place)
        return place


def _move(source: str, target: str) -> None:
    os.replace(source, target)  # noqa: PTH105 - paths as text, of which there are very many


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        raise OutputError(f"{str(folder)!r}: {error.strerror}") from error
