"""What a worker says about errors."""

from __future__ import annotations

import errno
import io

import pytest

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.workers.main import ERROR_CHARACTERS, describe, log_traceback


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no\n  model"), "ValueError: no model"),
        (KeyError(), "KeyError"),
        (FileNotFoundError(errno.ENOENT, "Gone", "a b.fa"), "'a b.fa': Gone"),
        (OSError(errno.ENOSPC, "No space left"), "OSError: [Errno 28] No space left"),
        (SequenceFileError("it is empty"), "This file cannot be processed: it is empty"),
        (ValueError("\udcff"), "ValueError: \\udcff"),
    ],
)
def test_errors_are_one_line(error: Exception, line: str) -> None:
    """Type and text in one line; what the user can act on without the type."""
    assert describe(error) == line


def test_errors_are_cut() -> None:
    """No error fills a screen or a packet."""
    assert len(describe(ValueError("x" * 10_000))) == ERROR_CHARACTERS


class FullDisk(io.StringIO):
    """A log that takes nothing more."""

    def write(self, _text: str, /) -> int:
        """Refuse."""
        raise OSError(errno.ENOSPC, "No space left")


def test_a_full_disk_does_not_end_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback that cannot be written is left out."""
    monkeypatch.setattr("sys.stderr", FullDisk())
    log_traceback()
