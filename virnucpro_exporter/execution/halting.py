"""When a run ends before its files do, because they fail: `--halt`, in the words of GNU parallel.

Without the option, errors that are the same on file after file end the run: a mistake in a command
or a missing library fails them all, and the time of the GPUs would be spent on three attempts each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.text import counted

# Without any result, so many different files have to fail in the same way, in so many attempts, on
# more than one worker where there are more.
SAME_FILES = 3
SAME_ATTEMPTS = 6

_WORDS = re.compile(r"(soon|now),fail=(\d+)(%?)")
_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HaltRule:
    """When to end, and how.

    Attributes:
        is_now: The files in process are not waited for.
        failed: So many files have to fail, or None.
        percent: Such a share of all files has to fail, or None.
        same: Errors that are the same on file after file are enough.
    """

    is_now: bool = False
    failed: int | None = None
    percent: int | None = None
    same: bool = False


def parse_halt(words: str) -> HaltRule:
    """Read the value of `--halt`.

    Args:
        words: `same` (the default), `never`, `soon,fail=3`, `now,fail=1`, `soon,fail=10%`.

    Raises:
        UsageError: It is none of these.
    """
    if words in ("never", "same"):
        return HaltRule(same=words == "same")
    match = _WORDS.fullmatch(words)
    if match is None or not (number := int(match[2])) or (match[3] and number > 100):
        raise UsageError(
            f"--halt {words!r}: must be same, never, soon,fail=N, now,fail=N or soon,fail=N%"
        )
    is_now = match[1] == "now"
    if match[3]:
        return HaltRule(is_now, percent=number)
    return HaltRule(is_now, failed=number)


class Halting:
    """Counts failures, and reports when they reach the limit.

    Args:
        rule: The limit.
    """

    def __init__(self, rule: HaltRule) -> None:
        self.rule = rule
        self._given_up = 0
        self._results = 0
        self._alike: dict[str, list[tuple[str, str]]] = {}  # (file, worker) of each error

    def succeed(self) -> None:
        """A file has its result, so that not all of them can fail."""
        self._results += 1
        self._alike.clear()

    def give_up(self) -> None:
        """A file is given up."""
        self._given_up += 1

    def fail(self, path: str, worker: str, error: str) -> None:
        """An attempt failed, not for the content of its file."""
        if self.rule.same and not self._results:
            self._alike.setdefault(alike(error, path), []).append((path, worker))

    @property
    def has_failures(self) -> bool:
        """Whether there may be a verdict."""
        return bool(self._given_up or self._alike)

    def verdict(self, files: int, workers: int) -> str | None:
        """Why the run is to end, or None.

        Args:
            files: How many the run has.
            workers: How many are up or will be.
        """
        rule = self.rule
        if rule.failed is not None and self._given_up >= rule.failed:
            return f"--halt: {_files(self._given_up)} failed"
        if rule.percent is not None and files and self._given_up * 100 >= rule.percent * files:
            return f"--halt: {_files(self._given_up)} of {files} failed"
        for error, found in self._alike.items():
            if (
                len(found) >= SAME_ATTEMPTS
                and len({path for path, _ in found}) >= SAME_FILES
                and len({worker for _, worker in found}) >= min(2, workers)
            ):
                return f"all files fail with the same error ({error})"
        return None


def alike(error: str, path: str) -> str:
    """An error without what differs between files: their names and numbers."""
    name = path.rpartition("/")[2]
    for part in (path, name, name.partition(".")[0]):
        if len(part) > 2:
            error = error.replace(part, "...")
    return _VARIABLE.sub("#", error)


def _files(number: int) -> str:
    return counted(number, "file")
