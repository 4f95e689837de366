"""Processors that whole runs load in tests, as a user's own code would be."""

from __future__ import annotations

import os
import time
from pathlib import Path

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.sequences import OpenPart, read_sequences

SLOW_SECONDS = 0.05
RECORD_SECONDS = 0.01
PIECE_SECONDS = 0.003


def reverse(file: Path, output: Path, _progress: ProgressCallback) -> None:
    """Write the file's bytes in reverse."""
    output.write_bytes(file.read_bytes()[::-1])


def numbered(_file: Path, output: Path, _progress: ProgressCallback) -> None:
    """Write which attempt this is, in a millisecond."""
    output.write_text(output.parent.name)
    time.sleep(0.001)


def slow(file: Path, output: Path, _progress: ProgressCallback) -> None:
    """Take a moment, then write what only the input decides."""
    content = file.read_bytes()
    output.write_bytes(content[: len(content) // 2])
    time.sleep(SLOW_SECONDS)
    output.write_bytes(content[::-1])


def poisoned(file: Path, output: Path, _progress: ProgressCallback) -> None:
    """Die without a word on one file, copy any other."""
    if file.name.startswith("poison"):
        os._exit(7)
    output.write_bytes(file.read_bytes())


def uncounted(file: Path, output: Path, _progress: ProgressCallback) -> float:
    """Copy, and return what is no number of sequences."""
    output.write_bytes(file.read_bytes())
    return float("nan")


def in_two_steps(file: Path, output: Path, _progress: ProgressCallback) -> int:
    """Write at two times what only the input decides; fail where the input says so."""
    content = file.read_bytes()
    if b"bad" in content:
        raise SequenceFileError("it is bad")
    with output.open("wb") as out:
        out.write(content[:100])
        out.flush()
        time.sleep(0.001 * (len(content) % 7))
        out.write(content[:99:-1])
    return 1


def waiting(file: Path, output: Path, _progress: ProgressCallback) -> None:
    """Write half, tell that the file has begun, and end when the test allows it."""
    content = file.read_bytes()
    output.write_bytes(content[: len(content) // 2])
    with Path(f"{file}.begun").open("a") as begun:
        begun.write("once\n")
    while not (file.with_name("go").exists() or Path(f"{file}.go").exists()):
        time.sleep(0.01)
    output.write_bytes(content[::-1])


class Picky:
    """Its model is missing on the node `bad`, and on the first slot of a run on one machine."""

    def setup(self, gpu: str) -> None:
        """Fail there."""
        if gpu == "cpu0" or gpu.startswith("bad/"):
            raise ValueError("no model here")

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> None:
        """Wait until the test allows it to end."""
        waiting(file, output, progress)


class Slow:
    """Its model never gets loaded."""

    def setup(self, gpu: str) -> None:
        """Wait for ever."""
        assert gpu
        time.sleep(1000)

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> None:
        """Never called."""


class Broken:
    """Its model is missing."""

    def setup(self, gpu: str) -> None:
        """Fail."""
        raise ValueError(f"no model for {gpu}\nat all")

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> None:
        """Never called."""


class SameNames:
    """Names its result as translate would."""

    def output_names(self, file: Path) -> list[str]:
        """One of the names of translate."""
        return [f"{file.stem}_chunked500.fa"]

    def process(self, _file: Path, output: Path, _progress: ProgressCallback) -> None:
        """Write something else."""
        output.write_bytes(b"mine")


class Flaky:
    """Throws away its first work, and never does a file whose name is not ASCII."""

    def __init__(self) -> None:
        self.calls = 0

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> int:
        """Report more work than is kept."""
        self.calls += 1
        for number in range(1, 11):
            time.sleep(SLOW_SECONDS)
            progress(number)
        if self.calls == 1 or not file.name.isascii():
            raise ValueError("flaky")
        output.write_bytes(b"x")
        return 10


class Names:
    """Write the name of each record, a moment for each at first; parts follow each other."""

    joins = "concatenate"

    def process(self, file: Path | OpenPart, output: Path, progress: ProgressCallback) -> Processed:
        """Write them, one a line."""
        residues = number = 0
        pause = 0.0 if Path(f"{os.fspath(file)}.go").exists() else RECORD_SECONDS
        with output.open("wb") as names:
            for number, record in enumerate(read_sequences(file), 1):
                time.sleep(pause)
                names.write(record.name + b"\n")
                residues += len(record.sequence)
                progress(number, residues)
        return Processed(number, residues)


class Pieces:
    """Write each record the other way round, which takes a moment; parts follow each other."""

    joins = "concatenate"

    def process(self, file: Path | OpenPart, output: Path, progress: ProgressCallback) -> Processed:
        """Write what only the input decides; fail where the input says so."""
        residues = number = 0
        with output.open("wb") as out:
            for number, record in enumerate(read_sequences(file), 1):
                if record.name == b"bad":
                    raise SequenceFileError("it is bad")
                time.sleep(PIECE_SECONDS)
                out.write(record.name + b" " + record.sequence[::-1] + b"\n")
                residues += len(record.sequence)
                progress(number, residues)
        return Processed(number, residues)


class SilentNames(Names):
    """The same, without a word about how far it is."""

    def process(
        self, file: Path | OpenPart, output: Path, _progress: ProgressCallback
    ) -> Processed:
        """Write them, one a line."""
        super().process(file, output, lambda *_: None)
        return Processed()


def first_line(file: Path, output: Path, _progress: ProgressCallback) -> None:
    """Opens its input as code does that knows files of this machine alone."""
    with open(file, "rb") as read:  # noqa: PTH123 - the point of it
        output.write_bytes(read.readline())
