"""Kills a run at each system call by which it changes anything, while workers share a file.

The run is that of the program: its scheduler, runner, journal and output folder. Its workers are no
processes but turns of one loop with a clock of its own, so that every run takes the same way and a
kill at one place is a kill of all of them. The run is a child that is traced; it is killed as it
enters the call, and what it leaves is gone on with by another run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import shutil
import signal
import sqlite3
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests import events as said
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.lock import RunLock
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import FilesSubmitted, WorkerEvent
from virnucpro_exporter.scheduling.files import FilePart, SequenceFile
from virnucpro_exporter.scheduling.parts import BegunFile
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.sequences import OpenPart, Part, read_sequences
from virnucpro_exporter.workers import joining

WORKERS = ("0", "1", "2")
RECORDS_A_TURN = 6
TURN_SECONDS = 1.0

# Calls that change files, by number.
CHANGES = {
    "x86_64": {1, 18, 20, 40, 74, 75, 76, 77, 82, 83, 84, 86, 87, 257, 258, 263, 264, 265, 326},
    "aarch64": {34, 35, 37, 38, 45, 46, 56, 64, 66, 68, 71, 82, 83, 276, 285},
}[platform.machine()]

TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
TRACE_SYSCALLS_APART, KILL_WITH_TRACER = 0x1, 0x100000
ENTERED = 1
STOPPED_AT_CALL = signal.SIGTRAP | 0x80


class Copies:
    """Writes names and sequences into two files; parts follow each other."""

    joins = "concatenate"

    def output_names(self, file: Path) -> list[str]:
        """Of the two."""
        return [f"{file.name}.names", f"{file.name}.bases"]


def expected(content: bytes) -> dict[str, bytes]:
    """What the run leaves, by name."""
    records = [record.split(b"\n")[:2] for record in content.removeprefix(b">").split(b"\n>")]
    return {
        "in.fa.names": b"".join(name + b"\n" for name, _ in records),
        "in.fa.bases": b"".join(bases + b"\n" for _, bases in records),
    }


class Turns:
    """A pool whose workers each read some records whenever it is asked what happened.

    Args:
        attempts: The folder of the attempts' folders.
    """

    def __init__(self, attempts: Path) -> None:
        self.now = 0.0
        self._attempts = attempts
        self._events: list[WorkerEvent] = []
        self._parts: dict[int, OpenPart] = {}
        self._work: dict[str, list[Iterator[WorkerEvent]]] = {worker: [] for worker in WORKERS}

    def spawn(self, worker_id: str) -> None:
        """It is ready at once."""
        self._events.append(said.ready(worker_id, can_split=True))

    def start(self, worker_id: str, actions: Sequence[StartAttempt]) -> None:
        """Work on it begins at the next turn."""
        self._work[worker_id] += [self._do(worker_id, action) for action in actions]

    def shrink(self, action: ShrinkAttempt) -> None:
        """The part that is read ends sooner."""
        part = self._parts.get(action.attempt)
        cut = None if part is None else part.shrink(action.share)
        self._events.append(said.shrunk(action.worker_id, action.attempt, cut))

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """One turn of each worker."""
        del timeout
        self.now += TURN_SECONDS
        for work in self._work.values():
            while work:
                event = next(work[0], None)
                if event is not None:
                    self._events.append(event)
                    break
                work.pop(0)
        events, self._events = self._events, []
        return events

    def _do(self, worker_id: str, action: StartAttempt) -> Iterator[WorkerEvent]:
        number, file = action.attempt, action.file
        folder = self._attempts / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        began, path = self.now, Path(file.path)
        names = Copies().output_names(path)
        yield said.started(worker_id, number)
        if action.joins:
            joining.join(Copies(), path, [self._attempts / str(n) for n in action.joins], folder)
            yield said.completed(worker_id, number, None, None, 1.0, tuple(names))
            return
        where = (file.start, file.stop) if isinstance(file, FilePart) else ()
        part = self._parts[number] = OpenPart(Part(path, *where))
        records = residues = 0
        with (
            (folder / names[0]).open("wb") as first,
            (folder / names[1]).open("wb") as second,
        ):
            for record in read_sequences(part):
                first.write(record.name + b"\n")
                second.write(record.sequence + b"\n")
                records += 1
                residues += len(record.sequence)
                if not records % RECORDS_A_TURN:
                    yield said.progress(worker_id, number, records, residues)
        del self._parts[number]
        took = self.now - began
        yield said.completed(worker_id, number, records, residues, took, tuple(names))

    def cancel(self, worker_id: str, attempt: int) -> None:
        """It is not needed here."""
        raise AssertionError(f"{worker_id} is to stop {attempt}")

    def kill(self, worker_id: str) -> None:
        """Likewise."""
        raise AssertionError(f"{worker_id} is to be killed")

    def wake(self) -> None:
        """Nothing waits."""

    def want(self, workers: int) -> None:
        """No more come."""

    def drain(self) -> None:
        """Nothing is waited for."""

    def close_idle(self, seconds: float) -> None:
        """There is nothing to close."""

    def close(self) -> None:
        """Likewise."""


class Known:
    """Hands the one file of the run over; see `execution.runner.Feed`.

    Args:
        journal: Knows what earlier runs have done.
        path: The file.
        kept: Is told how many parts are not done again.
    """

    has_work = True
    awaited = 1

    def __init__(self, journal: Journal, path: Path, kept: Callable[[int], None]) -> None:
        state = path.stat()
        self._source = InputFile(
            str(path), state.st_size, state.st_mtime_ns, os.path.realpath(path)
        )
        self._earlier = journal.begin_plan([(self._source.path, self._source.real)])
        self._journal, self._kept = journal, kept

    def start(self, wake: Callable[[], None]) -> None:
        """All is known."""

    def close(self) -> None:
        """All was known."""

    def take(self) -> FilesSubmitted:
        """The file, with what earlier runs have done of it."""
        file = SequenceFile(self._source.path, None, self._source.size)
        if self._earlier.standing(self._source)[0]:
            return FilesSubmitted((), (file,))
        begun = self._journal.plan_more([self._source])
        self._journal.end_plan()
        if not begun:
            return FilesSubmitted((file,))
        (parts,) = begun.values()
        self._kept(sum(result is not None for _, result in parts))
        return FilesSubmitted((), begun=(BegunFile(file, parts),))

    def leave(self) -> None:
        """The file was handed over, or waits."""


def live(folder: Path, kept: Callable[[int], None] = lambda _: None) -> None:
    """A run from its start to its end."""
    outputs = Outputs(folder / "out")
    outputs.prepare()
    pool = Turns(outputs.attempts)
    with closing(RunLock(outputs.lock)), closing(Journal(outputs)) as journal:
        journal.agree("copies", keep=False)
        feed = Known(journal, folder / "in.fa", kept)
        coordinator = WorkStealingCoordinator(
            WORKERS,
            settings=SchedulerSettings(),
            first_attempt=journal.next_attempt(),
            clock=lambda: pool.now,
            wall_clock=lambda: pool.now,
        )
        journal.begin(coordinator.run_id, {}, 0.0)
        runner = Runner(coordinator, pool, WORKERS, outputs, journal, lambda: pool.now)
        runner.run(feed=feed)
        outputs.clean()
        journal.finish("completed", pool.now)


class _CallInfo(ctypes.Structure):
    """Of `PTRACE_GET_SYSCALL_INFO`, as far as it is read."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("places", ctypes.c_uint64 * 2),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: object = None, data: object = None) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def killed_at(folder: Path, place: int) -> bool:
    """Run, and be killed at a change; whether there was one so late.

    Args:
        folder: Where.
        place: How many changes are made before.

    Raises:
        RuntimeError: The run failed by itself.
    """
    pid = os.fork()
    if not pid:
        _be_traced(folder)
    os.waitpid(pid, 0)
    _ptrace(SETOPTIONS, pid, None, TRACE_SYSCALLS_APART | KILL_WITH_TRACER)
    info, deliver = _CallInfo(), 0
    while True:
        _ptrace(SYSCALL, pid, None, deliver)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError("the run failed")
            return False
        deliver = os.WSTOPSIG(status)
        if deliver == STOPPED_AT_CALL:
            deliver = 0
            _ptrace(GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.byref(info))
            if info.op == ENTERED and info.number in CHANGES:
                if not place:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    return True
                place -= 1


def _be_traced(folder: Path) -> None:
    status = 1
    try:
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        live(folder)
        status = 0
    except BaseException:  # noqa: BLE001 - a defect is told by the status
        traceback.print_exc()
    finally:
        os._exit(status)


def standing(folder: Path) -> tuple[str, int]:
    """What the journal says of the file, and of how many parts that they are done."""
    path = folder / "look.sqlite"  # a copy, as looking ends what was cut off
    for suffix in ("", "-wal"):
        source = folder / "out" / ".virnucpro" / f"journal.sqlite{suffix}"
        if source.exists():
            shutil.copyfile(source, f"{path}{suffix}")
    with closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.OperationalError):
        found = database.execute("SELECT state FROM files").fetchone()
        done = database.execute("SELECT count(*) FROM parts WHERE state = 'completed'").fetchone()
        return (found[0] if found else ""), done[0]
    return "", 0  # its tables were not made yet


def results(folder: Path) -> dict[str, bytes]:
    """What is in the output folder, by name."""
    out = folder / "out"
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} if out.exists() else {}


def main(folder: Path, step: int) -> None:
    """Kill a run at each change, go on with it, and look at what it leaves; tell as JSON.

    Args:
        folder: Where; new.
        step: One in so many changes is the place of a kill.
    """
    content = b"".join(b">r%d\n%s\n" % (n, b"ACGT" * (n % 9)) for n in range(120))
    wanted, place = expected(content), 0
    wrong: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    is_killed = True
    while is_killed:
        home = folder / str(place)
        home.mkdir()
        (home / "in.fa").write_bytes(content)
        is_killed = killed_at(home, place)
        if is_killed and place % 3 == 0:  # and once more, on its way
            killed_at(home, place // 2)
        state, done = standing(home)
        is_decided = state in {"committing", "completed"}
        seen.update({state: 1, "parts kept": 0 if is_decided else done})
        early = [] if is_decided else sorted(results(home))  # before it was written down
        kept: list[int] = []
        live(home, kept.append)
        left = [p.name for p in (home / "out" / ".virnucpro" / "attempts").iterdir()]
        lost = done - sum(kept) if not is_decided else 0
        if early or left or lost or results(home) != wanted:
            found = sorted(results(home))
            wrong.append({"place": place, "early": early, "left": left, "lost": lost, "has": found})
        else:
            shutil.rmtree(home)
        place += step
    sys.stdout.write(json.dumps({"places": place, "wrong": wrong, "seen": seen}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
