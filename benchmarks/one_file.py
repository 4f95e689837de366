"""What sharing one file is worth, through the command line, in real processes.

- One slot and two: seconds of the whole program, from FASTA of reads of 500 to 760 bases; the most
  memory of a worker; and the share of the workers' time in which they look for the first record of
  their parts. Every result has to have the same bytes, or the exit status is 1.
- Every kind of file, 300 and 500 bases a chunk: the results of two slots have to be those of one
  slot from the plain file.
- Resume: seconds until the end of a run that goes on after SIGKILL at 90 % of what it takes, over
  what it takes. The processor sleeps, so that other programs do not change its pace.

Run: python -m benchmarks.one_file [--megabytes 400]
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.compressed import bgzip
from virnucpro_exporter.files.digests import file_digest
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.sequences import OpenPart, Part, read_sequences
from virnucpro_exporter.workers import boot

PROGRAM = (sys.executable, "-m", "virnucpro_exporter", "run")
QUIET = ("--no-web", "--linger", "0", "--no-dashboard", "-q")
LOOK_SECONDS = 0.2
SMALL_MEGABYTES = 30  # of text, for each kind of file
SLEEPS, SLEEP_SECONDS = 4000, 0.01
KILLED_AT = 0.9


class Sleeper:
    """Takes a moment for each record."""

    joins = "concatenate"

    def process(self, file: Path | OpenPart, output: Path, progress: ProgressCallback) -> Processed:
        """Write the names."""
        number = residues = 0
        with output.open("wb") as names:
            for number, record in enumerate(read_sequences(file), 1):
                time.sleep(SLEEP_SECONDS)
                names.write(record.name + b"\n")
                residues += len(record.sequence)
                progress(number, residues)
        return Processed(number, residues)


@dataclass(frozen=True, slots=True)
class Done:
    """A run to its end.

    Attributes:
        seconds: From the start of the program to its end.
        work: Of these, from the first file on, as the program says.
        digests: Of its results, by name without that of the input.
        memory: The most that a worker had, in bytes.
    """

    seconds: float
    work: float
    digests: dict[str, str]
    memory: int


def reads(megabytes: int) -> Iterator[tuple[int, bytes]]:
    """Numbers and sequences of reads of so many million bases."""
    rng = random.Random(5)
    bases = bytes(rng.choices(b"ACGT", k=4_000_000))
    left, number = megabytes * 1_000_000, 0
    while left > 0:
        length = rng.randint(500, 760)
        at = rng.randrange(len(bases) - length)
        yield number, bases[at : at + length]
        left, number = left - length, number + 1


def write_reads(path: Path, megabytes: int) -> None:
    """Write FASTA of them."""
    with path.open("wb") as file:
        for number, sequence in reads(megabytes):
            file.write(b">read_%d length=%d\n%s\n" % (number, len(sequence), sequence))


def run(file: Path, output: Path, slots: int, *words: str) -> Done:
    """Run to the end."""
    memory = 0
    began = time.perf_counter()
    with subprocess.Popen(
        [*PROGRAM, str(file), "-o", str(output), f"--gpus=cpu:{slots}", *QUIET, *words],
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        while program.poll() is None:
            memory = max([memory, *map(peak, workers(program.pid))])
            time.sleep(LOOK_SECONDS)
        said, _ = program.communicate()
    seconds = time.perf_counter() - began
    found = re.search(r"^([\d.]+) s, ", said, re.MULTILINE)
    if program.returncode or found is None:
        raise SystemExit(said)
    return Done(seconds, float(found[1]), digests(output), memory)


def workers(pid: int) -> list[psutil.Process]:
    """The worker processes of a run."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if boot.__file__ in child.cmdline()]
    except psutil.Error:
        return []


def peak(process: psutil.Process) -> int:
    """The most memory that a process has had, in bytes."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:  # it has just ended
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(found[0]) * 1024 if found else 0


def digests(output: Path) -> dict[str, str]:
    """The SHA-256 of each result, by the end of its name."""
    found = {}
    for path in output.glob("*.f*a"):
        with path.open("rb") as file:
            found[path.name.partition("_")[2]] = file_digest(file)
    return found


def entering(file: Path, output: Path) -> tuple[float, int]:
    """Which share of the time of all parts it takes to find their first records; and how many."""
    with closing(sqlite3.connect(output / ".virnucpro" / "journal.sqlite")) as database:
        rows = database.execute("SELECT gpu, start, stop, duration FROM parts ORDER BY started")
        parts = rows.fetchall()
    seconds = 0.0
    for worker in sorted({gpu for gpu, *_ in parts}):
        own = [Part(file, start, stop) for gpu, start, stop, _ in parts if gpu == worker]
        with ProcessPoolExecutor(1) as fresh:  # what one worker has read does not help another
            seconds += fresh.submit(look_for_records, own).result()
    return seconds / max(sum(duration for *_, duration in parts), 1e-9), len(parts)


def look_for_records(parts: Sequence[Part]) -> float:
    """How long it takes to get to the first record of each part, one part after the other."""
    seconds = 0.0
    for part in parts:
        began = time.perf_counter()
        records = read_sequences(part)
        next(records, None)
        seconds += time.perf_counter() - began
        for _ in records:
            pass
    return seconds


def share(folder: Path, megabytes: int) -> bool:
    """Compare one slot with two; whether the bytes are equal."""
    file = folder / "reads.fa"
    write_reads(file, megabytes)
    one = run(file, folder / "one", 1)
    two = run(file, folder / "two", 2)
    looking, parts = entering(file, folder / "two")
    print(f"{file.stat().st_size / 1e6:,.0f} MB of FASTA in {parts} parts:")
    print(
        f"  two slots {two.seconds:.1f} s, one {one.seconds:.1f} s: {two.seconds / one.seconds:.3f}"
    )
    print(
        f"  memory of a worker: {one.memory / 1e6:.0f} MB whole, {two.memory / 1e6:.0f} MB in parts"
    )
    print(f"  finding the first records: {looking:.3%} of the time", flush=True)
    return one.digests == two.digests


def kinds(folder: Path) -> bool:
    """Compare the results of all kinds of files; whether all are equal."""
    found = list(reads(SMALL_MEGABYTES))
    fasta = b"".join(b">read_%d\n%s\n" % pair for pair in found)
    fastq = b"".join(b"@read_%d\n%s\n+\n%s\n" % (n, s, b"@" * len(s)) for n, s in found)
    texts = {
        "reads.fa": fasta,
        "crlf.fa": fasta.replace(b"\n", b"\r\n"),
        "bgzip.fa.gz": bgzip(fasta),
        "gzip.fa.gz": gzip.compress(fasta, 1),
        "reads.fq": fastq,
        "crlf.fq": fastq.replace(b"\n", b"\r\n"),
        "gzip.fq.gz": gzip.compress(fastq, 1),
    }
    is_equal = True
    for size in ("300", "500"):
        expected: dict[str, str] = {}
        for name, text in texts.items():
            (folder / name).write_bytes(text)
            output = folder / f"{name}_{size}"
            words = ("--chunk-size", size)
            if not expected:
                expected = run(folder / name, folder / f"one_{size}", 1, *words).digests
            done = run(folder / name, output, 2, *words)
            looking, parts = entering(folder / name, output)
            is_same = done.digests == expected
            is_equal = is_equal and is_same
            print(
                f"{name:<12} {size}: {parts:2d} parts, first records {looking:6.2%} of the time, "
                f"{done.memory / 1e6:3.0f} MB, {'same bytes' if is_same else 'OTHER BYTES'}",
                flush=True,
            )
    return is_equal


def resume(folder: Path) -> bool:
    """Kill a run at 90 % and go on; whether the result is right."""
    file = folder / "slow.fa"
    file.write_bytes(b"".join(b">r%d\n%s\n" % (n, b"ACGT" * 25) for n in range(SLEEPS)))
    words = ("--processor", "benchmarks.one_file:Sleeper")
    whole = run(file, folder / "whole", 2, *words)
    output = folder / "killed"
    with subprocess.Popen(
        [*PROGRAM, str(file), "-o", str(output), "--gpus=cpu:2", *QUIET, *words],
        stdout=subprocess.DEVNULL,
    ) as program:
        time.sleep(KILLED_AT * whole.seconds)
        program.send_signal(signal.SIGKILL)
    time.sleep(1.0)  # the workers end with it
    resumed = run(file, output, 2, *words)
    ratio, work = resumed.seconds / whole.seconds, resumed.work / whole.work
    print(
        f"resume after SIGKILL at 90 %: {resumed.seconds:.1f} s of {whole.seconds:.1f}: {ratio:.3f}"
    )
    print(f"  from the first file on: {resumed.work:.1f} s of {whole.work:.1f}: {work:.3f}")
    name = "slow.fa.out"
    return (output / name).read_bytes() == (folder / "whole" / name).read_bytes()


def main() -> int:
    """Print the figures.

    Returns:
        1 if any result is not what one worker makes.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=400, help="of bases, in the large file")
    chosen = parser.parse_args()
    is_right = True
    for measure in (lambda folder: share(folder, chosen.megabytes), kinds, resume):
        folder = Path(tempfile.mkdtemp(prefix="one_file_"))
        try:
            is_right = measure(folder) and is_right
        finally:
            shutil.rmtree(folder)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
