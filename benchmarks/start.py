"""How soon a run of very many small files starts, resumes and ends, through the command line.

All with what a run has by default: its journal, metrics, the log and worker processes. The files
have 100 bases each, and lie in one folder.

- Start: seconds from the start of the program until a processor has the first file, and until a
  second run finds that nothing is left to do.
- Dispatch: the processor writes one small output for each file. The peer is a program that lists
  the same folder and submits each file to a `ProcessPoolExecutor`, whose function writes the same
  in place: a killed run leaves half a file, and no record of what was done. Another one writes
  beside it and renames. This program also keeps its journal and writes its record.
- A slow file system: each question takes a millisecond more. A library that is loaded before that
  of the system (`LD_PRELOAD`) delays `open`, `stat` and `opendir` below the input folder.
- What a file that waits takes of the memory, in a process of its own.

Processor time is that of all processes, which depends less on other work of the machine. The
package is compiled first, as it is where pip installs it. Medians of three, in turn.

Run: python -m benchmarks.start [--files 100000]
"""

from __future__ import annotations

import argparse
import compileall
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import virnucpro_exporter
from benchmarks.scale_views import MIB, rss
from tests.slow_files import slowed
from virnucpro_exporter.journal.status import read_status
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.scheduler import Scheduler

ROUNDS = 3
WORKERS = 2
SMALL = ">r{0}\n" + "ACGT" * 25 + "\n"
DELAY_SECONDS = 0.001
PROGRAM = (sys.executable, "-m", "virnucpro_exporter")

PEER = """
import os, sys
from concurrent.futures import ProcessPoolExecutor

def write(name):
    with open(name, "w", encoding="utf-8") as file:
        file.write("1\\n")
    return 1

def write_beside(name):
    write(name + ".new")
    os.replace(name + ".new", name)
    return 1

if __name__ == "__main__":
    _, inputs, outputs, workers, function = sys.argv
    names = [f"{outputs}/{entry.name}.out" for entry in os.scandir(inputs)]
    with ProcessPoolExecutor(int(workers)) as pool:
        for future in [pool.submit(globals()[function], name) for name in names]:
            future.result()
"""


class Seconds:
    """How long a run of the program took.

    Attributes:
        whole: From its start to its end.
        processor: Processor time of all its processes.
        first: From its start until a processor had the first file; None where there was none.
        dispatch: From then to the end of the last file.
    """

    def __init__(self, inputs: Path, output: Path, **environment: str) -> None:
        with tempfile.TemporaryDirectory() as marks:
            words = ["run", str(inputs), "--output", str(output), "--linger", "0"]
            words += ["--processor", "benchmarks.small:Small", f"--gpus=cpu:{WORKERS}"]
            words += ["--web-listen-address", "127.0.0.1:0"]
            began, begin, used = time.time(), time.perf_counter(), children_seconds()
            subprocess.run(
                [*PROGRAM, *words],
                env={**os.environ, **environment, "FIRST": marks},
                check=True,
                capture_output=True,
            )
            self.whole = time.perf_counter() - begin
            self.processor = children_seconds() - used
            found = [float(mark.read_text()) for mark in Path(marks).iterdir()]
        self.first = min(found) - began if found else None
        ended = read_status(output).ended or began
        self.dispatch = ended - min(found) if found else 0.0


def children_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peer(inputs: Path, output: Path, function: str) -> tuple[float, float]:
    """Seconds and processor seconds of a whole program with a `ProcessPoolExecutor`.

    Args:
        inputs: The folder of the files.
        output: The folder of the outputs; new.
        function: What writes them: `write` or `write_beside`.
    """
    output.mkdir()
    begin, used = time.perf_counter(), children_seconds()
    words: list[str | Path] = [inputs, output, str(WORKERS), function]
    subprocess.run([sys.executable, "-c", PEER, *words], check=True)
    return time.perf_counter() - begin, children_seconds() - used


def memory_of_a_file(count: int) -> float:
    """Bytes that a file takes while it waits: its path, its size and its place in the plan."""
    before = rss()
    files = tuple(SequenceFile(f"/scratch/project/reads/{i:06}.fa", 1, 100) for i in range(count))
    Scheduler({"0": 1.0, "1": 1.0}).handle(ev.FilesSubmitted(files), 0.0)
    return (rss() - before) * MIB / count


def row(
    what: str, value: float, unit: str, goal: float | None = None, *, least: bool = False
) -> None:
    """Print a value beside its goal, of which it is to be the most or the least."""
    is_missed = goal is not None and (value < goal if least else value > goal)
    aim = "" if goal is None else f"goal {goal:g}"
    print(f"{what:<58}{value:>9.2f} {unit:<6}{aim:<10}{'MISSED' if is_missed else ''}".rstrip())


def measure(count: int, folder: Path) -> None:
    """Print the table."""
    inputs = folder / "inputs"
    inputs.mkdir()
    for number in range(count):
        (inputs / f"{number:06}.fa").write_text(SMALL.format(number))
    ours: list[Seconds] = []
    again: list[float] = []
    theirs: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        output = folder / f"out{number}"
        ours.append(Seconds(inputs, output))
        again.append(Seconds(inputs, output).whole)
        theirs.append(peer(inputs, folder / f"peer{number}", "write"))
        beside.append(peer(inputs, folder / f"beside{number}", "write_beside"))
    print(f"{count:,} files of 100 bases through {WORKERS} worker processes, medians of {ROUNDS}")
    row("until the first file starts", median_of(s.first for s in ours), "s", 2.0)
    row("a resume with nothing to do", median_of(again), "s", 2.0)
    whole, others = median_of(s.whole for s in ours), median_of(wall for wall, _ in theirs)
    careful = median_of(wall for wall, _ in beside)
    dispatch = median_of(s.dispatch for s in ours)
    row("whole run", whole, "s")
    row("from the first file to the last", dispatch, "s")
    row("ProcessPoolExecutor, the whole program", others, "s")
    row("the same, which renames", careful, "s")
    row("whole run, processor time", median_of(s.processor for s in ours), "s")
    row("ProcessPoolExecutor, processor time", median_of(used for _, used in theirs), "s")
    row("the same, which renames, processor time", median_of(used for _, used in beside), "s")
    row("ProcessPoolExecutor / this program, whole", others / whole, "x", 2.0, least=True)
    row("ProcessPoolExecutor, which renames / this program", careful / whole, "x")
    row("ProcessPoolExecutor / this program, from the first file", others / dispatch, "x")
    is_slow = slowed(folder, inputs, DELAY_SECONDS)
    slow = Seconds(inputs, folder / "slow", **is_slow)
    row("1 ms a question: until the first file starts", slow.first or 0.0, "s", 5.0)
    row("1 ms a question: whole run", slow.whole, "s", 60.0)
    slow = Seconds(inputs, folder / "slow", **is_slow)
    row("1 ms a question: a resume with nothing to do", slow.whole, "s", 60.0)


def median_of(values: Iterable[float | None]) -> float:
    """The median of those that are known."""
    return statistics.median(value for value in values if value is not None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--folder", type=Path, help="where; on the disk to be measured")
    options = parser.parse_args()
    compileall.compile_dir(Path(virnucpro_exporter.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        measure(options.files, Path(name))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        taken = pool.apply(memory_of_a_file, (options.files,))
    row("a file that waits, in memory", taken, "bytes", 600.0)


if __name__ == "__main__":
    main()
