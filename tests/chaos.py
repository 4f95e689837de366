"""Random histories of whole runs: processes are killed, stopped and paused, and the run is resumed.

Each history is one output folder. A run is started, things happen to its processes at random times,
and when it has ended it is started again, at last in peace. After each life no process may be left,
and journal, outputs and metrics must agree; at the end every file has its one result. In every
second history the workers share the files, and join the results of their parts; in every fourth
there are many very short files, whose outputs they move themselves.

A history costs little, because this process loads the program once and forks for each life. It is
alone in its process for that, and adopts all that a killed run leaves behind, so that it sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from virnucpro_exporter import __main__ as program
from virnucpro_exporter import cli
from virnucpro_exporter.cli import run as _loaded_before_the_forks
from virnucpro_exporter.errors import OutputError
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.journal.status import read_status
from virnucpro_exporter.scheduling import parts, splitting
from virnucpro_exporter.workers import orphans, sentinel, starts

DEADLINE = 120.0
LIVES = 3  # the last one is left in peace
FILES = 6
SHORT_FILES = 300
RECORDS = (100, 400)  # of a file that is done in parts
REGION = 40  # records of one length
ODDS = 3  # against something happening at each look
SHARED_ODDS = (3, 12, 24)  # where files are done in parts, which takes longer
GRACE = 60.0  # seconds in which all processes of a dead run have to be dead

__all__ = ["_loaded_before_the_forks", "cli"]


class ChaosError(Exception):
    """Something was lost, done twice, left behind, or shown otherwise than it is."""


def result(content: bytes) -> bytes:
    """What `in_two_steps` writes."""
    return content[:100] + content[:99:-1]


def pieces(content: bytes) -> bytes:
    """What `Pieces` writes."""
    records = (record.split(b"\n", 1) for record in content.removeprefix(b">").split(b"\n>"))
    return b"".join(name + b" " + text.replace(b"\n", b"")[::-1] + b"\n" for name, text in records)


class History:
    """One output folder, from its first run to its end.

    Args:
        folder: Where; new.
        seed: Decides all that happens, as far as times can decide it.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.inputs = folder / "in"
        self.output = folder / "out"
        self.textfile = folder / "run.prom"
        self.story: list[str] = []
        self.kept: set[int] = set()  # attempts whose results are those of parts
        self.files: dict[str, bytes] = {}
        self.inputs.mkdir(parents=True)
        self.is_shared = seed % 2 == 1
        self.is_short = seed % 4 == 2
        self.processor = "Pieces" if self.is_shared else "in_two_steps"
        self.splits = self.went_on = 0  # parts that were given away; those that were kept by a run
        self.odds = self.random.choice(SHARED_ODDS) if self.is_shared else ODDS
        usual = SHORT_FILES if self.is_short else FILES
        for number in range(self.random.choice([1, 2]) if self.is_shared else usual):
            content = self._shared_file() if self.is_shared else self._file()
            self.files[f"{number}.fa"] = content
            (self.inputs / f"{number}.fa").write_bytes(content)
        self.bad = {name for name, content in self.files.items() if b">bad" in content}

    def _file(self) -> bytes:
        bases = "".join(self.random.choices("ACGT", k=self.random.randint(200, 3000)))
        text = f">{'bad' if not self.random.randrange(12) else 'r'}\n{bases}\n".encode()
        keep = len(text) - len(text) % 7 if self.is_short else len(text)  # those take no time
        return text[:keep]

    def _shared_file(self) -> bytes:
        """A file of many records, whose length, which tells nothing of their time, varies."""
        chosen, records, length = self.random, [], 0
        for number in range(chosen.randint(*RECORDS)):
            if number % REGION == 0:
                length = chosen.choice([0, 5, 30, 300])
            bases = "".join(chosen.choices("ACGT", k=length))
            records.append(f">r{number}\n{bases}\n")
        if not chosen.randrange(12):
            records[chosen.randrange(len(records))] = ">bad\nACGT\n"
        return "".join(records).encode()

    def live(self) -> None:
        """Run, be disturbed, be resumed, and end."""
        for number in range(LIVES):
            is_calm = number == LIVES - 1
            status = self._run(is_calm=is_calm)
            self.story.append(f"ended with {status}")
            expect(not self._wait(self._clear_up), f"processes are left: {self._alive()}")
            self._check(status)
            if status in {0, 1, 4} and not self._unfinished():
                return
        raise ChaosError("it is not finished after a run in peace")

    # -- one run --

    def _run(self, *, is_calm: bool) -> int:
        self.textfile.unlink(missing_ok=True)
        self._is_killed = False  # by the test, and about to end
        pid = os.fork()
        if not pid:
            self._be_the_program()
        end = time.monotonic() + DEADLINE
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            expect(time.monotonic() < end, "the run hangs")
            time.sleep(self.random.choice([0.002, 0.01, 0.03, 0.1]))
            if not is_calm and not self.random.randrange(self.odds):
                self._disturb(pid)

    def _be_the_program(self) -> None:
        status = 99
        try:
            os.setsid()
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            views = ["--no-web", "--no-dashboard", "--metrics-log-interval", "1"]
            where = ["--output", str(self.output), "--textfile", str(self.textfile)]
            how = [
                "--processor",
                f"tests.run_processors:{self.processor}",
                "--gpus",
                "cpu:3" if self.is_shared else "cpu:2",
                "--max-attempts",
                "99",
            ]
            sys.argv = ["virnucpro-exporter", "run", str(self.inputs), *views, *where, *how]
            program.main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 98
        except BaseException:  # noqa: BLE001 - a defect is told by the status and the log
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    # -- what happens to it --

    def _disturb(self, pid: int) -> None:
        """Do something to a run; but who could end a stopped worker does not die as well.

        A worker that runs sees the end of the program by itself. One that is stopped does not, and
        without a sentinel nothing is left that could end it.
        """
        if self._is_killed:
            return
        workers, sentinels = self._processes(pid)
        job = [pid, *workers, *sentinels]
        kill, end = signal.SIGKILL, signal.SIGTERM
        happenings: list[tuple[str, list[tuple[list[int], signal.Signals]]]] = [
            ("a worker is killed", [(workers[:1], kill)]),
            ("all workers are killed", [(workers, kill)]),
            ("the sentinel is killed", [(sentinels, kill)]),
            ("the sentinel is stopped", [(sentinels, signal.SIGSTOP)]),
            ("the program is killed", [([pid], kill)]),
            (
                "a worker is stopped, the program killed",
                [(workers[:1], signal.SIGSTOP), ([pid], kill)],
            ),
            ("the program is told to end", [([pid], end)]),
            ("the job is told to end", [(job, end)]),
            ("the program is told twice", [([pid], signal.SIGINT), ([pid], end)]),
        ]
        pauses = [
            ("a worker is paused", workers[:1]),
            ("the program is paused", [pid]),
            ("all is paused", job),
        ]
        chosen = self.random.randrange(len(happenings) + len(pauses))
        if chosen < len(happenings):
            name, signals = happenings[chosen]
            self._is_killed = ([pid], kill) in signals
            if self._is_killed and len(signals) > 1 and not sentinels:
                signals = signals[1:]
            for pids, number in signals:
                self._signal(pids, number)
        else:
            name, pids = pauses[chosen - len(happenings)]
            self._signal(pids, signal.SIGSTOP)
            time.sleep(self.random.uniform(0.001, 0.1))
            self._signal(pids, signal.SIGCONT)
        self.story.append(name)

    def _processes(self, pid: int) -> tuple[list[int], list[int]]:
        """The workers and the sentinels of a run, in random order."""
        workers: list[int] = []
        sentinels: list[int] = []
        for child in sentinel.children(pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
                if b"sentinel.py" in command:
                    sentinels.append(child.pid)
                elif b"boot.py" in command:  # else it is not yet what it will be
                    workers.append(child.pid)
        self.random.shuffle(workers)
        return workers, sentinels

    def _signal(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            sentinel.send(pid, number)

    # -- what must hold --

    def _alive(self) -> list[str]:
        found = []
        for child in sentinel.children(os.getpid()):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
                found.append(f"{child.pid} {command.replace(bytes(1), b' ')[:80].decode()}")
        return found

    def _clear_up(self) -> bool:
        """Take notice of those that have died; whether any is left."""
        for child in sentinel.children(os.getpid()):
            if child.is_dead:
                os.waitpid(child.pid, 0)
            else:
                with contextlib.suppress(OSError):  # a sentinel that was stopped by the test
                    command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
                    if b"sentinel.py" in command:
                        os.kill(child.pid, signal.SIGCONT)
        return bool(sentinel.children(os.getpid()))

    def _wait(self, is_left: Callable[[], bool]) -> bool:
        """Wait until something is no longer so; whether it still is."""
        end = time.monotonic() + GRACE
        while is_left():
            if time.monotonic() >= end:
                return True
            time.sleep(0.002)
        return False

    def _unfinished(self) -> set[str]:
        return {name for name in self.files if self._state(name) not in {"completed", "failed"}}

    def _state(self, name: str) -> str:
        return self.states.get(str(self.inputs / name), "unknown")

    def _check(self, status: int) -> None:
        """Journal, outputs and metrics agree."""
        told = {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM}
        expect(status in {0, 1, 4, -signal.SIGKILL, *told}, f"it ended with {status}")
        self.states = self._journal()
        outputs = {
            path.name: path.read_bytes()
            for path in (self.output.iterdir() if self.output.exists() else ())
            if path.is_file() and path.suffix == ".out"
        }
        for name, content in self.files.items():
            state, output = self._state(name), outputs.pop(f"{name}.out", None)
            expected = pieces(content) if self.is_shared else result(content)
            expect(output in {None, expected}, f"the result of {name} is wrong")
            if state == "completed":
                expect(output is not None, f"{name} is completed and has no result")
            elif state != "committing":
                expect(output is None, f"{name} is {state} and has a result")
            if state == "failed":
                expect(name in self.bad, f"{name} has failed")
        expect(not outputs, f"there are results of no file: {sorted(outputs)}")
        if status >= 0:
            left = {int(path.name) for path in (self.output / ".virnucpro/attempts").iterdir()}
            expect(left == self.kept, f"attempts are left: {left}, wanted are {self.kept}")
        if self.textfile.exists():
            self._check_metrics(status)
        self._check_readers()

    def _journal(self) -> dict[str, str]:
        path = self.output / ".virnucpro" / "journal.sqlite"
        if not path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(path)) as database:
            expect(
                database.execute("PRAGMA integrity_check").fetchall() == [("ok",)],
                "the journal is damaged",
            )
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name='files'").fetchall():
                return {}
            rows = database.execute("SELECT path, state FROM files").fetchall()
            states = {os.fsdecode(path): state for path, state in rows}
            self._check_parts(database, states)
        return states

    def _check_parts(self, database: sqlite3.Connection, states: dict[str, str]) -> None:
        """The parts of each file cover it; what is done of files without a result is kept."""
        ends: dict[str, int | None] = {}
        self.kept = set()
        for real, start, stop, state, attempt in database.execute(
            "SELECT real, start, stop, state, attempt FROM parts ORDER BY real, start"
        ):
            file = os.fsdecode(real)
            expect(ends.get(file, 0) == start, f"a part of {file} begins at {start} after {ends}")
            expect(states[file] not in {"committing", "completed"} or state == "completed", state)
            ends[file] = stop
            self.splits += start > 0
            if state == "completed" and states[file] != "completed":
                self.kept.add(attempt)
        expect(set(ends.values()) <= {None}, f"the last part ends before its file: {ends}")
        self.went_on += len(self.kept)

    def _check_readers(self) -> None:
        """What `status` and `report` read is what the journal has."""
        try:
            told, history = read_status(self.output), read_history(self.output, time.time())
        except OutputError as error:
            expect(not self.states, str(error))  # it has ended before it had begun
            return
        expect(not told.is_active, "a run is said to go on")
        for state in ("completed", "failed"):
            known = sum(known == state for known in self.states.values())
            shown = told.counts.get(state, 0)
            expect(shown == known, f"status says {told.counts} files, the journal {self.states}")
        expect(history.runs, "the history has no run")

    def _check_metrics(self, status: int) -> None:
        shown: dict[str, float] = {}
        for line in self.textfile.read_text().splitlines():
            if line.startswith("virnucpro_run_files{"):
                state = line.partition('state="')[2].partition('"')[0]
                shown[state] = float(line.rpartition(" ")[2])
        if status < 0 or not shown:
            return
        for state in ("completed", "failed"):
            known = sum(known == state for known in self.states.values())
            expect(shown[state] == known, f"metrics say {shown} files, the journal {self.states}")


def expect(condition: object, complaint: str) -> None:
    """Complain unless something holds."""
    if not condition:
        raise ChaosError(complaint)


def main(first: int, histories: int, folder: Path, seconds: float) -> None:
    """Live through histories; tell of those that went wrong, and of the number, line by line.

    Args:
        first: The seed of the first one.
        histories: How many, at most.
        folder: Where; new.
        seconds: None is begun after that.
    """
    orphans.adopt()
    starts._LOADING_PAUSES = (0.01, 0.01, 0.01)
    for module in (parts, splitting):
        module.LEAST_PART_SECONDS = 0.02  # type: ignore[attr-defined]  # else files had to be long
    end, number, splits, went_on = time.monotonic() + seconds, 0, 0, 0
    while number < histories and time.monotonic() < end:
        history = History(folder / str(first + number), first + number)
        try:
            history.live()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next history is lived
            path = history.folder / "log"
            log = path.read_text()[-3000:] if path.exists() else ""
            tell({"seed": first + number, "error": repr(error), "story": history.story, "log": log})
            for child in sentinel.children(os.getpid()):
                sentinel.kill_family(child.pid)
        else:
            shutil.rmtree(history.folder)
        splits, went_on = splits + history.splits, went_on + history.went_on
        number += 1
    tell({"histories": number, "splits": splits, "went_on": went_on})


def tell(what: dict[str, object]) -> None:
    """Write a line of JSON, for the test to read."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
