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
from collections.abc import Iterator
from typing import Any, TextIO, cast

from virnucpro_exporter.text import clean, clean_lines


class Output(io.TextIOWrapper):
    """A stream without control characters, which remembers why it could not be written.

    Args:
        stream: What is there so far; it is kept, because it would close the file under this one.
        is_essential: Errors are raised. Without it they are dropped: a table or a log line that
            cannot be shown must not end a run, and there is no other place to tell it.

    Attributes:
        lost: The error, or None as long as everything was written.
    """

    def __init__(self, stream: TextIO, *, is_essential: bool) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",  # letters that the terminal does not have
            line_buffering=bool(stream.line_buffering),
        )
        self._stream = stream
        self._is_essential = is_essential
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write what cannot act on a terminal, and remember an error."""
        self.draw(clean_lines(text))
        return len(text)

    def draw(self, text: str) -> None:
        """Write with control characters, and remember an error."""
        with self._remembering():
            super().write(text)

    def flush(self) -> None:
        """Write what is held back, and remember an error."""
        with self._remembering():
            super().flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            if self._is_essential:
                raise


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
    """A record is one line, whatever it tells of; only a traceback, which is ours, has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        record.message = clean(record.message)
        return super().formatMessage(record)


def start_logging(level: str, form: str = "%(asctime)s %(message)s") -> None:
    """Log to standard error from now on.

    Args:
        level: The least that is logged.
        form: Of a line, as in `logging`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])


# Standard output once it is watched; click puts another object in its place when a pipe breaks.
_watched: list[Output] = []


def prepare() -> None:
    """Put the null device where a standard stream is closed, and watch standard output.

    Without it the next file that is opened, a journal for example, would get the number of a closed
    stream, and what is printed would end up in it.
    """
    for number in range(3):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = output = Output(sys.stdout or _writer(1), is_essential=True)
    sys.stderr = Output(sys.stderr or _writer(2), is_essential=False)
    _watched.append(output)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _writer(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", closefd=False)


def is_output_lost() -> bool:
    """Whether something that was printed could not be written."""
    return any(output.lost is not None for output in _watched)


def take_loss() -> OSError | None:
    """Why something that was printed could not be written, or None; what follows is dropped."""
    for output in _watched:
        with contextlib.suppress(OSError):
            output.flush()
        lost, output.lost = output.lost, None
        if lost is not None:
            _drop(output)
            return lost
    return None


def _drop(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say(line: str) -> None:
    """Print a line of the program's own on standard error."""
    print(f"virnucpro-exporter: {clean(line)}", file=sys.stderr)  # noqa: T201 - the error line
