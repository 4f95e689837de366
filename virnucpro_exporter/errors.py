"""Errors a user can act on: message and exit status."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class VirnucproError(Exception):
    """The run cannot continue.

    Args:
        details: What exactly is wrong and what to do about it, in one line for each fault. It
            follows the first line of the class docstring in the message.

    Attributes:
        lines: The message as lines, one for each fault.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *details: str) -> None:
        self.detail = "; ".join(details)
        summary = (type(self).__doc__ or "").strip().splitlines()[0].rstrip(".")
        found = [detail for detail in details if detail]
        self.lines = tuple(f"{summary}: {detail}" for detail in found) or (summary,)
        super().__init__(f"{summary}: {self.detail}" if found else summary)


class UsageError(VirnucproError):
    """These options cannot be used."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration file cannot be used."""


class InputError(UsageError):
    """The input files cannot be used."""


class OutputError(UsageError):
    """The output folder cannot be used."""


class LogError(UsageError):
    """The metrics log cannot be used."""


class ReportError(UsageError):
    """The report cannot be made."""


class AssetsError(UsageError):
    """The files cannot be written."""


class ProcessorError(UsageError):
    """The processor cannot be started."""


class NoDeviceError(VirnucproError):
    """No GPU can be used."""

    exit_code = 3


class ClusterError(VirnucproError):
    """The Dask cluster cannot be used."""


class StorageError(VirnucproError):
    """The disk is full or fails; once that is fixed, the same command resumes the run."""


class UploadError(StorageError):
    """Some results are not uploaded yet; the same command uploads them."""


class StoreError(VirnucproError, OSError):
    """The object store cannot be used."""


class HaltedError(VirnucproError):
    """The run ended early."""

    exit_code = 5


class NoWorkerError(VirnucproError):
    """No worker is left."""


class SequenceFileError(VirnucproError):
    """This file cannot be processed."""


class EmptyFileError(SequenceFileError):
    """This file cannot be processed."""

    def __init__(self) -> None:
        super().__init__("it is empty")


class SchedulingError(VirnucproError):
    """The scheduler received an event that cannot have happened."""


class JournalError(VirnucproError):
    """The journal of the run cannot be written."""


def assert_never(value: NoReturn) -> NoReturn:
    """Mark code that cannot be reached, so that type checkers reject a `match` that misses a case.

    `typing` provides it from Python 3.11.
    """
    raise AssertionError(f"unhandled value: {value!r}")
