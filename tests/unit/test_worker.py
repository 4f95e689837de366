"""What a worker says about errors, and what it lets a processor say."""

from __future__ import annotations

import errno
import io
import mmap
import operator
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.processors.base import Processed
from virnucpro_exporter.sequences import Part
from virnucpro_exporter.workers import wire
from virnucpro_exporter.workers.main import (
    ERROR_CHARACTERS,
    MOST,
    ProcessorFaultError,
    Progress,
    Worker,
    describe,
    log_traceback,
    plain_names,
    whole,
)


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


class Outbox:
    """Keeps what an attempt's progress puts into it."""

    def __init__(self) -> None:
        self.messages: list[wire.Message] = []

    def add(self, message: wire.Message) -> None:
        """Keep it."""
        self.messages.append(message)

    def flush(self) -> None:
        """Nothing to send."""


class Integer:
    """A number of another library, such as NumPy."""

    def __index__(self) -> int:
        """Its value."""
        return 5


@pytest.mark.parametrize("wrong", [-1, float("nan"), 2.0, "7", None, True, MOST + 1, [1]])
def test_a_count_that_is_none_is_one_line(wrong: Any) -> None:
    """What is no whole number from 0 up never gets further, however often progress is passed on."""
    progress: Any = Progress(Outbox(), 1, now=float("inf"))  # type: ignore[arg-type]
    for call in (lambda: whole(wrong, "sequences"), lambda: progress(wrong)):
        with pytest.raises(
            ProcessorFaultError, match=r"^The processor is at fault: it reports .*0 or"
        ):
            call()
    if wrong is not None:
        with pytest.raises(ProcessorFaultError, match="residues"):
            progress(1, wrong)


def test_progress_that_was_held_back_is_passed_on_at_the_end() -> None:
    """Reports in quick succession are not sent, but the last of them is not lost."""
    outbox: Any = Outbox()
    progress: Any = Progress(outbox, 3, now=float("inf"))
    progress(1)
    progress(Integer(), Integer())
    assert not outbox.messages
    progress.pass_on()
    progress.pass_on()
    assert outbox.messages == [(wire.PROGRESS, 3, 5, 5)]


@pytest.mark.parametrize("wrong", ["a.out", ["a/b"], [".."], [""], [b"a"], ["/etc/x"]])
def test_output_names_stay_within_the_folder_of_the_attempt(wrong: Any) -> None:
    """Nothing but a list of plain names is taken."""
    with pytest.raises(ProcessorFaultError, match="return a list of plain file names"):
        plain_names(wrong)
    assert plain_names(name for name in ("a", "b c")) == ("a", "b c")


class Reader:
    """A processor that is told which files the worker holds, and lacks memory for each."""

    joins: str | None = "concatenate"
    shortages = 0

    def __init__(self) -> None:
        self.expected: list[list[Any]] = []
        self.processed: list[Any] = []

    def setup(self, gpu: str) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to give back."""

    def output_names(self, _: Path) -> list[str]:
        """No results."""
        return []

    def expect(self, files: list[Any]) -> None:
        """Note them."""
        self.expected.append(files)

    def process(self, file: Any, *_: Any) -> Processed:
        """Say that it took a second for each letter of its name."""
        self.processed.append(file)
        self.shortages += 2
        return Processed(1, 2, float(len(file.name)))


def answers(
    processor: Any,
    packets: Sequence[list[wire.Message]],
    attempts: Path,
    results: Path | None = None,
) -> list[wire.Message]:
    """All that a worker says to the packets that it is sent."""
    pool, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with pool, channel, mmap.mmap(-1, mmap.PAGESIZE) as slot:
        moves_to = None if results is None else str(results)
        worker = Worker(channel, slot, str(attempts), results=moves_to)
        assert worker.set_up(lambda: processor, "cpu0")
        for packet in packets:
            pool.send(wire.encode(packet))
        pool.shutdown(socket.SHUT_WR)
        worker.serve()
        channel.shutdown(socket.SHUT_WR)
        said: list[wire.Message] = []
        while answer := pool.recv(wire.RECEIVE_BYTES):
            said += wire.decode(answer)
        del worker  # it holds the slot
    return said


def test_a_processor_knows_the_files_that_its_worker_holds(tmp_path: Path) -> None:
    """It is given the very files that follow, and may say itself how long each of them took."""
    reader = Reader()
    part = wire.START, 5, b"in/bc", (7, 9), 1.0
    said = answers(reader, [[(wire.START, 4, b"in/a"), part]], tmp_path)
    (expected,) = reader.expected
    assert [file.part for file in expected] == [Part(Path("in/a")), Part(Path("in/bc"), 7, 9)]
    assert all(map(operator.is_, reader.processed, expected))
    assert [message[1] for message in said if message[0] == wire.MEMORY_SHORT] == [2, 2]
    assert [message for message in said if message[0] == wire.COMPLETED] == [
        (wire.COMPLETED, 4, 1, 2, 1.0, ()),
        (wire.COMPLETED, 5, 1, 2, 2.0, ()),
    ]


def test_a_part_for_a_processor_that_takes_whole_files_fails(tmp_path: Path) -> None:
    """A class that no longer says how results are joined does not do a whole file for each part."""
    reader = Reader()
    reader.joins = None
    part = wire.START, 4, b"in/a", (0, 9), 1.0
    join = wire.START, 5, b"in/a", None, 1.0, (1, 2)
    said = answers(reader, [[part, join]], tmp_path)
    assert not reader.processed
    failed = [message for message in said if message[0] == wire.FAILED]
    assert [message[1] for message in failed] == [4, 5]
    for *_, error, is_permanent, _ in failed:
        assert "takes whole files" in error
        assert is_permanent


class Writer(Reader):
    """Leaves one output for each file, which says in which folder it was made."""

    joins = None

    def output_names(self, file: Path) -> list[str]:
        """One."""
        return [f"{file.name}.out"]

    def process(self, file: Any, *rest: Any) -> Processed:
        """Write it."""
        output: Path = rest[0]
        output.write_text(f"{output.parent.stat().st_ino}")
        return super().process(file, *rest)


def test_outputs_are_moved_and_their_folder_is_used_again(tmp_path: Path) -> None:
    """A worker says which outputs it has moved; one that is not there is left to the run."""
    attempts, results = tmp_path / "attempts", tmp_path / "results"
    attempts.mkdir()
    results.mkdir()
    packets: list[list[wire.Message]] = [
        [(wire.START, 4, b"in/a"), (wire.START, 5, b"in/b")],
        [(wire.MOVE, 4, (b"a.out",)), (wire.MOVE, 5, (b"gone",))],
        [(wire.START, 6, b"in/c")],
    ]
    said = answers(Writer(), packets, attempts, results)
    assert [message[1] for message in said if message[0] == wire.MOVED] == [[4]]
    assert [path.name for path in results.iterdir()] == ["a.out"]
    assert {path.name for path in attempts.iterdir()} == {"5", "6"}
    assert (attempts / "5" / "b.out").exists()
    assert (attempts / "6" / "c.out").read_text() == (results / "a.out").read_text()


class Leaver(Writer):
    """Leaves a process behind its first file, which writes into the folder when the next comes."""

    def __init__(self) -> None:
        super().__init__()
        self._left: subprocess.Popen[bytes] | None = None
        self._folder = -1

    def expect(self, files: list[Any]) -> None:
        """Let it write what no file of this batch has as its result."""
        super().expect(files)
        if self._left is not None:
            os.close(os.open("late", os.O_CREAT | os.O_WRONLY, dir_fd=self._folder))

    def process(self, file: Any, *rest: Any) -> Processed:
        """Start it."""
        done = super().process(file, *rest)
        if self._left is None:
            self._folder = os.open(rest[0].parent, os.O_RDONLY)
            self._left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return done

    def close(self) -> None:
        """End it."""
        assert self._left is not None
        self._left.kill()
        self._left.wait()
        os.close(self._folder)


def test_what_a_left_behind_process_writes_is_no_result(tmp_path: Path) -> None:
    """A folder is looked at before it is used again where an attempt has left a process."""
    attempts, results = tmp_path / "attempts", tmp_path / "results"
    attempts.mkdir()
    results.mkdir()
    packets: list[list[wire.Message]] = [
        [(wire.START, 4, b"in/a")],
        [(wire.MOVE, 4, (b"a.out",))],
        [(wire.START, 6, b"in/c")],
    ]
    said = answers(Leaver(), packets, attempts, results)
    done = [message for message in said if message[0] == wire.COMPLETED]
    assert [message[5] for message in done] == [(b"a.out",), (b"c.out",)]
