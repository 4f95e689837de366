"""Input files: which files a user means, and which of them can be read."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from virnucpro_exporter.errors import InputError
from virnucpro_exporter.files.looking import look_at
from virnucpro_exporter.files.outputs import HIDDEN, RECORD
from virnucpro_exporter.files.stored_inputs import chosen, find_stored
from virnucpro_exporter.sequences import SUFFIXES, is_sequence_name
from virnucpro_exporter.stores.access import Stored

# What may follow a sequence suffix without being sequences: indices, checksums, logs of tools.
_COMPANIONS = re.compile(
    r"\.(fai|gzi|amb|ann|bwt|pac|sa|dict|md5|sha1|sha256|txt|log|json|csv|tsv|html|yaml|yml|xml|"
    r"out|png|pdf|py|sh|n(hr|in|sq|db|ot|tf|to|og|os)|p(hr|in|sq|db|ot|tf|to|og|os)|bt2|mmi|pt)\Z"
)
# Sequences in formats that are not read.
_OTHER_FORMATS = re.compile(
    r"\.(bam|sam|cram|gb|gbk|gbff|embl|sra|2bit|seq|mfa|mpfa|afa|aln|csfasta|fast5|pod5|blow5)"
    r"(\.[a-z0-9]+)?\Z"
)
_UNTIDY = re.compile(r"//|(\A|/)\./")
_NUMBER = re.compile(r"[0-9]+")
_ALL_ZEROS = str.maketrans("123456789", "0" * 9)
_SHOWN = 3  # names in one line


class Input(NamedTuple):
    """One input file.

    Attributes:
        path: As it was typed or found.
        real: Where that leads, absolute and without links: by this a file is the same.
        place: The real folder of the path, and its name there; `real` itself where it is no link.
        stored: Its properties in its store, if it lies in one: all three are its URL then.
    """

    path: str
    real: str
    place: str
    stored: Stored | None = None


@dataclass(slots=True)
class Inputs:
    """What was found.

    Attributes:
        files: In the order of the arguments, in natural order (`x2` before `x10`) within each.
        unread: Folders that could not be searched, and why; their files are missing.
        left_out: What looks like sequences and is not taken, by reason.
    """

    files: list[Input] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    _noted: int = 0

    def leave_out(self, reason: str, path: str) -> None:
        """Note that a path is not taken."""
        self.left_out.setdefault(reason, []).append(path)
        self._noted += 1

    def noted(self) -> int:
        """How much was noted so far about what is not taken."""
        return self._noted + len(self.unread)

    def lines(self) -> Iterator[str]:
        """The remarks for the user, one line for each reason."""
        for text in self.unread:
            yield f"folder {text}: its files are not processed"
        for reason, paths in self.left_out.items():
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            yield f"left out: {', '.join(map(repr, paths[:_SHOWN]))}{more}: {reason}"


def discover(
    inputs: Sequence[str],
    output: Path | None = None,
    results: Callable[[], Collection[str]] = tuple,
    output_url: str | None = None,
) -> Inputs:
    """Turn files, folders, globs and URLs into a list of files.

    A file named outright is taken whatever its suffix. Folders are searched through, links
    followed, hidden entries skipped, for names with a known suffix; a link that leads nowhere is
    kept, so that its failure is seen. Of several paths to one file the first counts. Results are no
    inputs: the folder that takes them and those of other runs are not searched.

    Args:
        inputs: What the user gave, in order.
        output: The output folder, which is not searched when it lies within an input folder.
        results: Gives the names that earlier runs have left in the output folder; called where an
            input lies there.
        output_url: Where results go in a store, if they do; nothing below it is an input.

    Raises:
        InputError: An argument matches nothing, or is a stream; or nothing is left to do.
    """
    search = _Search(None if output is None else os.path.realpath(output), results)
    for argument in inputs:
        _refuse_streams(argument)
    stored = find_stored(inputs)
    for argument, seen in zip(inputs, look_at(inputs, _see), strict=True):
        before = search.found.noted()
        found = (
            search.matches(argument, seen)
            if argument not in stored
            else search.objects(argument, stored[argument], output_url)
        )
        matches = _in_natural_order(found)
        if not matches and search.found.noted() == before:
            if os.path.isdir(argument) and search.lies_in_output(argument):  # noqa: PTH112 (a text)
                raise InputError(
                    f"{argument!r} is inside the output folder, which is not searched: "
                    "give its files, or choose another output folder"
                )
            raise InputError(f"{argument!r} matches no sequence file")
        search.take(matches)
    if not search.files:
        raise InputError(next(search.found.lines()))
    search.found.files = list(search.files.values())
    return search.found


def _refuse_streams(argument: str) -> None:
    is_stream = argument == "-" or re.match(r"/(dev/(stdin|fd/)|proc/(self|[0-9]+)/fd/)", argument)
    if is_stream:
        raise InputError(
            f"{argument!r} is a stream, but inputs are read more than once: save it to a file and "
            "give that"
        )


class _Search:
    def __init__(self, excluded: str | None, results: Callable[[], Collection[str]]) -> None:
        self.excluded = excluded
        self._read_results = results
        self.found = Inputs()
        self.files: dict[str, Input] = {}
        self._folders: dict[str, str] = {}  # where folders lead

    def take(self, matches: list[Input]) -> None:
        for match in matches:
            path = match.path
            # Faster than the expression alone.
            may_be_untidy = ("//" in path or "./" in path) and match.stored is None
            shown = os.fspath(Path(path)) if may_be_untidy and _UNTIDY.search(path) else path
            self.files.setdefault(
                match.real, match if shown is path else match._replace(path=shown)
            )

    def _real_folder(self, folder: str) -> str:
        """Where a folder leads.

        To follow every part of every path would be most of the work of finding a million files, and
        on a shared file system each part is a question to its server.
        """
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return self._folders[folder]

    def matches(self, argument: str, seen: _Seen) -> Iterator[Input]:
        """Yield the files that an argument means."""
        # A name that exists is taken as it stands, even if it holds the letters of a pattern.
        is_name = seen.exists
        if is_name:
            names, all_seen = [argument], [seen]
        else:
            names = glob.glob(argument, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
            all_seen = look_at(names, _see)
        visited: set[str] = set()
        for name, found in zip(names, all_seen, strict=True):
            if found.is_folder:
                yield from self._search(name, visited)
            elif is_name or not self.lies_in_output(name):
                yield from self._named(name, found, is_name=is_name)

    def objects(self, url: str, found: Sequence[Stored], output_url: str | None) -> Iterator[Input]:
        """Yield the objects that a URL means."""
        files, left_out = chosen(url, found, output_url)
        for reason, urls in left_out.items():
            for one in urls:
                self.found.leave_out(reason, one)
        for stored in files:
            yield Input(stored.url, stored.url, stored.url, stored)

    def _named(self, path: str, seen: _Seen, *, is_name: bool) -> Iterator[Input]:
        kind = seen.odd_kind
        if kind is not None and is_name:
            raise InputError(f"{path!r} is {kind}, not a file; save its content to a file first")
        if kind is not None:
            self.found.leave_out(f"{kind}, not a file", path)
        elif self._is_result(path):
            self.found.leave_out("results of earlier runs in the output folder", path)
        elif _is_record(path):
            self.found.leave_out("the record of a run", path)
        else:
            folder, name = os.path.split(path)
            place = os.path.join(self._real_folder(folder), name)  # noqa: PTH118 (a million Path objects take seconds)
            yield Input(path, seen.real or place, place)

    def _is_result(self, path: str) -> bool:
        if self.excluded is None:
            return False
        folder, name = os.path.split(path)
        place = os.path.join(self._real_folder(folder), name)  # noqa: PTH118 (likewise)
        if not place.startswith(self._inside):
            return False
        return place[len(self._inside) :].split(os.sep, 1)[0] in self._results

    @cached_property
    def _inside(self) -> str:
        """What the places of all that lies in the output folder begin with."""
        return os.path.join(self.excluded or "", "")  # noqa: PTH118 (for its last character)

    @cached_property
    def _results(self) -> Collection[str]:
        return self._read_results()

    def lies_in_output(self, path: str) -> bool:
        """Whether a path is the output folder, or leads into it."""
        return self.excluded is not None and Path(os.path.realpath(path)).is_relative_to(
            self.excluded
        )

    def _search(self, top: str, visited: set[str]) -> Iterator[Input]:
        """Yield the sequence files below a folder; `visited` ends loops of links."""
        folders = [top]
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder)
            if real in visited or self.lies_in_output(real):
                continue
            visited.add(real)
            try:
                with os.scandir(folder) as scan:
                    entries = list(scan)
            except OSError as error:
                self.found.unread.append(f"{folder!r} cannot be searched ({error.strerror})")
                continue
            if folder != top and any(entry.name == HIDDEN for entry in entries):
                self.found.leave_out(
                    "results of another run; to use them, give the folder itself", folder
                )
                continue
            for entry, seen in _see_entries(entries):
                if seen.is_folder:
                    folders.append(entry.path)
                elif is_sequence_name(entry.name):
                    if seen.odd_kind is None:
                        # One text for both, where that will do: there may be a million of them.
                        place = entry.path if folder == real else f"{real}/{entry.name}"
                        yield Input(entry.path, seen.real or place, place)
                    else:
                        self.found.leave_out(f"{seen.odd_kind}, not a file", entry.path)
                elif _looks_like_sequences(entry.name):
                    self.found.leave_out(
                        "unsupported format; unpack or convert it, or give the file itself",
                        entry.path,
                    )


class _Seen(NamedTuple):
    """What a path is.

    Attributes:
        exists: There is something of this name, if only a link that leads nowhere.
        is_folder: It leads to a folder.
        odd_kind: What it leads to that is neither a file nor a folder nor missing.
        real: Where it leads, if it is a link.
    """

    exists: bool = False
    is_folder: bool = False
    odd_kind: str | None = None
    real: str | None = None


_FILE, _FOLDER = _Seen(exists=True), _Seen(exists=True, is_folder=True)


def _see(path: str) -> _Seen:
    """The status of a path, with one system call where it is no link."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):  # a NUL is in it, and in no name
        return _Seen()
    real = None
    if stat.S_ISLNK(mode):
        real = os.path.realpath(path)
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 (a million Path objects take seconds)
        except OSError:
            return _Seen(exists=True, real=real)  # its own attempt will report the error
    return _Seen(True, stat.S_ISDIR(mode), _odd_kind_of(mode), real)  # noqa: FBT003 - there is


def _see_entries(entries: Sequence[os.DirEntry[str]]) -> Iterator[tuple[os.DirEntry[str], _Seen]]:
    """What the entries of a folder are, without the hidden ones; links are looked at together."""
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    plain = [_plain(entry) for entry in shown]
    strange = [entry.path for entry, seen in zip(shown, plain, strict=True) if seen is None]
    answers = iter(look_at(strange, _see))
    for entry, seen in zip(shown, plain, strict=True):
        yield entry, next(answers) if seen is None else seen


def _plain(entry: os.DirEntry[str]) -> _Seen | None:
    """A file or a folder, from the listing of its folder, without a further system call."""
    try:
        if entry.is_file(follow_symlinks=False):
            return _FILE
        return _FOLDER if entry.is_dir(follow_symlinks=False) else None
    except OSError:
        return None


def _odd_kind_of(mode: int) -> str | None:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
)


def _is_record(path: str) -> bool:
    """Whether a run has left this beside its results."""
    folder, name = os.path.split(path)
    return name == RECORD and Path(folder, HIDDEN).is_dir()


def _looks_like_sequences(name: str) -> bool:
    """Whether a user would expect a name to be taken, although its format is not read."""
    lower = name.lower()
    if _OTHER_FORMATS.search(lower):
        return True
    parts = lower.split(".")[1:-1]
    return any(f".{part}" in SUFFIXES for part in parts) and not _COMPANIONS.search(lower)


def _in_natural_order(files: Iterator[Input]) -> list[Input]:
    """The files in natural order."""
    found = list(files)
    # Names that differ in digits alone are in this order as they stand, and need no other keys.
    shapes = {file.path.translate(_ALL_ZEROS) for file in found}
    return sorted(found, key=_natural_key if len(shapes) > 1 else itemgetter(0))


def _natural_key(file: Input) -> tuple[str, str]:
    """In this order `x2` comes before `x10`: a number starts with its length."""
    folder, slash, name = file.path.rpartition("/")
    return _folder_key(folder + slash) + _NUMBER.sub(_sortable, name), file.path


@lru_cache(maxsize=1024)
def _folder_key(folder: str) -> str:
    """That of a folder, which many files share; no number goes on over a slash."""
    return _NUMBER.sub(_sortable, folder)


def _sortable(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"{chr(len(digits))}{digits}"
