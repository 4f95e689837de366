"""Storage that takes nothing for a while."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from virnucpro_exporter.errors import JournalError, OutputError
from virnucpro_exporter.execution.storage import Storage, is_trouble


def test_trouble_is_told_once_and_tried_again_with_growing_pauses() -> None:
    """It is over with the first result after it, and not before."""
    storage = Storage(60.0)
    assert storage.hold("full", 10.0)
    assert not storage.hold("full", 10.5)
    assert (storage.is_due(10.9), storage.is_due(11.0)) == (False, True)
    storage.postpone(11.0)
    assert (storage.is_due(12.9), storage.is_due(13.0)) == (False, True)
    storage.release()
    assert not storage.is_held
    assert not storage.hold("full", 14.0)  # by the first that was started again
    assert (storage.is_due(18.9), storage.is_due(19.0)) == (False, True)
    assert storage.succeed(18.0) is None  # one that was in process all the time
    storage.release()
    assert storage.succeed(21.0) == 11.0
    assert storage.succeed(22.0) is None
    assert storage.hold("full", 30.0)


def test_trouble_that_lasts_is_hopeless() -> None:
    """Since it began, whatever was tried."""
    storage = Storage(60.0)
    storage.hold("full", 10.0)
    storage.release()
    storage.hold("full", 40.0)
    assert not storage.is_hopeless(69.9)
    assert storage.is_hopeless(70.0)
    storage.release()
    assert not storage.is_hopeless(99.0)


def test_a_file_that_meets_trouble_again_while_others_are_done_is_to_blame() -> None:
    """A damaged input gives an input/output error each time."""
    storage = Storage(60.0)
    assert not storage.is_fault_of("/a.fa", 3)
    assert not storage.is_fault_of("/b.fa", 3)
    assert not storage.is_fault_of("/a.fa", 3)
    assert storage.is_fault_of("/a.fa", 4)


@pytest.mark.parametrize(
    ("error", "cause", "may_pass"),
    [
        (JournalError(), sqlite3.OperationalError("database is locked"), True),
        (JournalError(), sqlite3.OperationalError("database or disk is full"), True),
        (JournalError(), sqlite3.DatabaseError("malformed"), False),
        (OutputError(), OSError(errno.EDQUOT, "quota"), True),
        (OutputError(), FileNotFoundError(errno.ENOENT, "gone"), False),
        (OutputError(), None, False),
        (ValueError(), OSError(errno.ENOSPC, "full"), False),
    ],
)
def test_what_may_pass_is_told_from_what_may_not(
    error: Exception, cause: Exception | None, *, may_pass: bool
) -> None:
    """A broken journal or a vanished folder is not waited for."""
    error.__cause__ = cause
    assert is_trouble(error) is may_pass
