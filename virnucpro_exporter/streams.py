"""The standard streams of the program, which may be closed, full or gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class Output(io.TextIOWrapper):
    """A stream that remembers why it could not be written.

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
            errors=stream.errors,
            line_buffering=bool(stream.line_buffering),
        )
        self._stream = stream
        self._is_essential = is_essential
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write, and remember an error."""
        with self._remembering():
            super().write(text)
        return len(text)

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
    print(f"virnucpro-exporter: {line}", file=sys.stderr)  # noqa: T201 - the error line
