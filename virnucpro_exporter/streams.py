"""The standard streams of the program, which may be closed, full or gone.

All that the program prints passes through here, and file names, messages of commands and exceptions
are text of strangers: what could act on a terminal is made readable at this one place. Only tables
that are drawn with control characters of their own go past it, by `screen`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Any, BinaryIO, TextIO, cast

from virnucpro_exporter.text import clean, clean_lines


class _File(io.FileIO):
    """The file under a standard stream; stores why it could not be written.

    Args:
        number: Its descriptor.
        is_essential: Errors are raised. Otherwise what cannot be written is dropped: a table or a
            log line that cannot be shown must not end a run, and there is no other
            place to report it.

    Attributes:
        lost: The error, or None as long as everything was written.
    """

    def __init__(self, number: int, *, is_essential: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._is_essential = is_essential
        self._is_given_up = False
        self.lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write, and store an error."""
        if not self._is_given_up:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
                if self._is_essential:
                    raise
        return memoryview(data).nbytes

    def give_up(self) -> None:
        """Drop everything from now on, also what is still held back."""
        self._is_given_up = True


class Output(io.TextIOWrapper):
    """A stream without control characters.

    Args:
        buffer: Where it writes.
        encoding: In which letters.
        line_buffering: Write at the end of each line.
    """

    def __init__(
        self, buffer: BinaryIO, encoding: str = "utf-8", *, line_buffering: bool = False
    ) -> None:
        # Letters that the terminal does not have are written as escapes.
        super().__init__(
            buffer, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering
        )

    def write(self, text: str) -> int:
        """Write what cannot act on a terminal."""
        self.draw(clean_lines(text))
        return len(text)

    def draw(self, text: str) -> None:
        """Write with control characters."""
        super().write(text)


class _Screen:
    """A stream whose control characters are meant, as Rich takes it for a file."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, text: str) -> int:
        self._output.draw(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


def screen(*, error: bool = False) -> TextIO:
    """Standard output or error, for a table that is drawn with control characters.

    What such a table shows of strangers has to be cleaned before.
    """
    stream = sys.stderr if error else sys.stdout
    return cast("TextIO", _Screen(stream)) if isinstance(stream, Output) else stream


class _OneLine(logging.Formatter):
    """A record is one line, whatever it contains; only a traceback of the program has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        record.message = clean(record.message)
        return super().formatMessage(record)


# Local time with its distance from UTC, so that logs of several machines can be put together.
_TIME = "%Y-%m-%dT%H:%M:%S%z"


def start_logging(level: str, form: str = "%(asctime)s %(levelname)s %(message)s") -> None:
    """Log to standard error from now on.

    Args:
        level: The least that is logged.
        form: Of a line, as in `logging`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(form, _TIME))
    logging.basicConfig(level=level.upper(), handlers=[handler])


# What is under standard output once it is watched.
_files: list[_File] = []


def prepare() -> None:
    """Put the null device where a standard stream is closed, and watch standard output.

    Without it the next file that is opened, a journal for example, would get the number of a closed
    stream, and what is printed would end up in it.
    """
    for number in range(3):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    file = _File(1, is_essential=True)
    sys.stdout = _output(file, sys.stdout)
    sys.stderr = _output(_File(2, is_essential=False), sys.stderr)
    _files.append(file)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _output(file: _File, before: TextIO | None) -> Output:
    """An output as the stream before it was, if there was one."""
    buffer = cast("BinaryIO", io.BufferedWriter(file))
    if before is None:
        return Output(buffer)
    before.flush()
    return Output(buffer, before.encoding, line_buffering=bool(before.line_buffering))


def is_output_lost() -> bool:
    """Whether something that was printed could not be written."""
    return any(file.lost is not None for file in _files)


def take_loss() -> OSError | None:
    """Why something that was printed could not be written, or None; what follows is dropped."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    for file in _files:
        lost, file.lost = file.lost, None
        if lost is not None:
            file.give_up()
            return lost
    return None


def say(line: str) -> None:
    """Print a line of the program's own on standard error."""
    print(f"virnucpro-exporter: {clean(line)}", file=sys.stderr)  # noqa: T201 - the error line
