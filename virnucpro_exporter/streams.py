"""The standard streams of the program, which may be closed, full or gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

# Standard output once it is watched, for click puts another object in its place when a pipe breaks;
# and the object that was there before, which would close the file under it.
_watched: list[tuple[Output, TextIO]] = []


class Output(io.TextIOWrapper):
    """A stream that remembers why it could not be written.

    Attributes:
        lost: The error, or None as long as everything was written.
    """

    lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write, and remember an error that this raises."""
        with self._remembering():
            return super().write(text)

    def flush(self) -> None:
        """Write what is held back, and remember an error that this raises."""
        with self._remembering():
            super().flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            raise


def prepare() -> None:
    """Put the null device where a standard stream is closed, and watch standard output.

    Without it the next file that is opened, a journal for example, would get the number of a closed
    stream, and what is printed would end up in it.
    """
    for number in range(3):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _watch(sys.stdout or _writer(1))
    sys.stderr = sys.stderr or _writer(2)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _writer(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", closefd=False)


def _watch(stream: TextIO) -> Output:
    output = Output(
        stream.buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty(),
    )
    _watched.append((output, stream))
    return output


def is_output_lost() -> bool:
    """Whether something that was printed could not be written."""
    return any(output.lost is not None for output, _ in _watched)


def take_loss() -> OSError | None:
    """Why something that was printed could not be written, or None; what follows is dropped."""
    for output, _ in _watched:
        with contextlib.suppress(OSError):
            output.flush()
        lost, output.lost = output.lost, None
        if lost is not None:
            _drop(output)
            return lost
    return None


def close() -> None:
    """Write what is held back, if it can be written; the interpreter would fail where it cannot."""
    _flush(sys.stdout)
    _flush(sys.stderr)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _drop(stream)


def _drop(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say(line: str) -> None:
    """Print a line of the program's own on standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(f"virnucpro-exporter: {line}", file=sys.stderr)  # noqa: T201 - the error line
